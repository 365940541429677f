"""What a node may do in the bucket, and how long its keys have to last. It is somebody's gaming PC: it gets no more than its job asks.

The worker lists and reads config/, dataset and output/ of its run, and writes and deletes below output/ and model/ (UPSTREAM.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flux_training.training.runs.run import Layout

# A run that tells no time left and has no `maxHours`: an allowance, not a measurement.
UNKNOWN_HOURS = 24.0
# New keys restart every replica: for less than this part of their life they are not worth it.
WORTHWHILE = 0.25
# A run waits for a GPU and loads its model before it counts down: an allowance, not a measurement.
MARGIN_HOURS = 1.0


def node_prefixes(layout: Layout) -> list[str]:
    """How all keys begin that a node has to do with. Not among them: `.flux/`, which says whose the bucket is."""
    return [layout.datasets, layout.runs]


def node_policy(bucket: str, layout: Layout) -> dict[str, Any]:
    """The same as an IAM policy, which can be finer: images and settings are read only, and no claim can be touched."""
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
class Remaining:
    """An unfinished run. `seconds`: what it says it still needs; None when it does not say."""

    job: str
    seconds: float | None
    max_hours: float | None = None

    @property
    def needed(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return (UNKNOWN_HOURS if self.max_hours is None else self.max_hours) * 3600


def seconds_needed(runs: Iterable[Remaining], replicas: int) -> float:
    """Until the last of the runs ends, on so many replicas: never less than the longest, 0 when there is none."""
    each = [run.needed for run in runs]
    return max([sum(each) / max(1, replicas), *each]) if each else 0.0


def choose_end(now: datetime, present: datetime | None, hours: float, needed: float) -> datetime:
    """When the nodes' keys are to end: as they do now, or `hours` from now (full hours, so that a preview and its `up` agree).

    They are issued anew only when what is left is too short for the unfinished runs (`needed` seconds, and a margin), and only when
    that wins something: each issue restarts every replica. An end that is past is never kept: nodes without keys get no data, paid.
    """
    fresh = (now + timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0)
    if hours <= 1:
        fresh = now.replace(microsecond=0) + timedelta(hours=hours)
    if present is None:
        return fresh
    left = (present - now).total_seconds()
    if left <= 0:
        return fresh
    margin = min(MARGIN_HOURS, WORTHWHILE * hours) * 3600
    if needed <= 0 or left >= needed + margin:
        return present
    worthwhile = (fresh - present).total_seconds() >= WORTHWHILE * hours * 3600
    return fresh if worthwhile else present


def end_warning(now: datetime, end: datetime, needed: float) -> str:
    """For the person whose runs last longer than the nodes' keys; empty when they do not."""
    if needed <= max(0.0, (end - now).total_seconds()):
        return ""
    return (
        f"the unfinished runs need about {needed / 3600:.0f} h, and the nodes' keys end at {show_time(end)}: run `up` again before that, "
        "or what is trained afterwards is not uploaded"
    )


def show_time(moment: datetime) -> str:
    """`2026-01-31T12:00:00+00:00`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def parse_time(text: str | None) -> datetime | None:
    """None for what is no time."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None
