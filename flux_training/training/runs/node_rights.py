"""What a node may do in the bucket, and how long its keys are valid. A node is someone's PC, so it gets no more than its job needs.

The worker lists and reads config/, the dataset and output/ of its run, and writes and deletes below output/ and model/
(docs/services.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flux_training.training.runs.run import Layout
from flux_training.training.settings import StorageSettings
from flux_training.training.words import make_command

# How long the access keys of a run without a time estimate and without `maxHours` are valid: an assumption.
UNKNOWN_HOURS = 24.0
# Replacing the keys restarts every replica, so it is only done if it extends their validity by
# at least this fraction.
MIN_EXTENSION = 0.25
# Extra validity of the access keys for the time to find a GPU and load the model: an assumption.
MARGIN_HOURS = 1.0


def node_prefixes(layout: Layout) -> list[str]:
    """The prefixes of all keys that a node needs. `.flux/` with the owner record is not among them."""
    return [layout.datasets, layout.runs]


def nodes_reach_records(storage: StorageSettings, cloud: str, has_own_keys: bool) -> bool:
    """Whether nodes can write `.flux/`. `has_own_keys`: they get the keys given for them. Those of the local cloud are processes of this machine."""
    if storage.kind == "r2":
        return storage.credentials == "token"
    return storage.kind == "s3" and cloud == "salad" and not has_own_keys


def shared_keys_warning(kind: str) -> str:
    """For a stack with nodes that can write `.flux/`."""
    fix = (
        "remove `storage.credentials: token`"
        if kind == "r2"
        else "set FLUX_NODE_ACCESS_KEY_ID and FLUX_NODE_SECRET_ACCESS_KEY to keys that reach only runs/ and datasets/, or use "
        "storage.kind r2 or aws"
    )
    return (
        "the nodes' keys are valid for the whole bucket, so a node could change the records in .flux/, such as which weights were "
        f"verified; {fix}"
    )


def node_policy(bucket: str, layout: Layout) -> dict[str, Any]:
    """The same as a finer IAM policy: images and settings are read-only, and claims are out of reach."""
    arn = f"arn:aws:s3:::{bucket}"
    written = [f"{arn}/{layout.runs}*/{folder}/*" for folder in ("output", "model")]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ListItsFolders",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": arn,
                "Condition": {"StringLike": {"s3:prefix": [f"{one}*" for one in node_prefixes(layout)]}},
            },
            {
                "Sid": "ReadItsFolders",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": [f"{arn}/{one}*" for one in node_prefixes(layout)],
            },
            {
                "Sid": "WriteResults",
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
                "Resource": written,
            },
        ],
    }


@dataclass(frozen=True)
class UnfinishedRun:
    """An unfinished run. `seconds`: how long it still needs by its own estimate; None without one."""

    job: str
    seconds: float | None
    max_hours: float | None = None

    @property
    def needed(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return (UNKNOWN_HOURS if self.max_hours is None else self.max_hours) * 3600


def seconds_needed(runs: Iterable[UnfinishedRun], replicas: int) -> float:
    """How long the replicas need for all runs: at least as long as the longest run, 0 without runs."""
    each = [run.needed for run in runs]
    return max([sum(each) / max(1, replicas), *each]) if each else 0.0


def choose_key_expiry(now: datetime, present: datetime | None, hours: float, needed: float) -> datetime:
    """When the nodes' keys expire: as now, or `hours` from now, rounded to full hours so that a preview and its `up` agree.

    New keys restart every replica. They are issued only if the present ones do not last for the unfinished runs (`needed` seconds and a
    margin) and new ones last notably longer. Expired keys are always replaced: nodes without keys cost money and get no data.
    """
    fresh = (now + timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
    if hours <= 1:
        fresh = now.replace(microsecond=0) + timedelta(hours=hours)
    if present is None:
        return fresh
    left = (present - now).total_seconds()
    if left <= 0:
        return fresh
    margin = min(MARGIN_HOURS, MIN_EXTENSION * hours) * 3600
    if needed <= 0 or left >= needed + margin:
        return present
    worthwhile = (fresh - present).total_seconds() >= MIN_EXTENSION * hours * 3600
    return fresh if worthwhile else present


def key_expiry_warning(now: datetime, end: datetime, needed: float, stack: str) -> str:
    """A warning that runs last longer than the nodes' keys; empty if they do not."""
    if needed <= max(0.0, (end - now).total_seconds()):
        return ""
    return (
        f"the unfinished runs need about {needed / 3600:.0f} h, but the nodes' keys expire at {show_time(end)}: run {make_command('up', stack)} again "
        "before that, or later results are not uploaded"
    )


def show_time(moment: datetime) -> str:
    """`2026-01-31T12:00:00+00:00`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def parse_time(text: str | None) -> datetime | None:
    """A time with a zone; None for anything else."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None
