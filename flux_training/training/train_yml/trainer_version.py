"""Which ai-toolkit a stack's image holds. Keys that are newer are silently ignored there.

trainer_versions.json has the day of the first commit of each version, from the history of ai-toolkit's version.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from flux_training.training.train_yml.trainer_keys import COMMIT, DATE, VERSION

FIRST_DAYS: dict[str, str] = json.loads(
    Path(__file__).with_name("trainer_versions.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class TrainerCommit:
    """A commit of ai-toolkit, with its version and its day (`2026-07-21`)."""

    commit: str
    version: str
    date: str


NEWEST = TrainerCommit(COMMIT, VERSION, DATE)
# The ai-toolkit commit that docker/Dockerfile.base installs. Later commits need CUDA 13, whose driver many
# nodes do not have.
PINNED = TrainerCommit("c4db100e172064117ad18b46898226a036c1b197", "0.11.0", "2026-07-21")
# SaladCloud's public image contains ai-toolkit as of an unknown day in 2025, so it lacks at least
# all later changes (docs/trainer.md).
PUBLIC_IMAGE_DATE = "2025-04-01"


@dataclass(frozen=True)
class VersionMismatch:
    """A node's trainer is another one than lint assumed. `date` is the first day of its version; empty if lint does not know it."""

    message: str
    date: str = ""


def version_mismatch(reported: str, assumed_date: str) -> VersionMismatch | None:
    """`reported` is what a node wrote, such as `0.12.26 27a03a91`; None if it is of `assumed_date`, or the node told nothing."""
    version = reported.split(" ")[0]
    first = FIRST_DAYS.get(version, "")
    if not version or (first and first <= assumed_date <= _last_day(version)):
        return None
    if not first:
        return VersionMismatch(
            f"the node has ai-toolkit {version}, which lint does not know (it knows {NEWEST.version}): it may have missed mistakes in train.yml"
        )
    return VersionMismatch(
        f"the node has ai-toolkit {version} of {first}, but lint assumed that of {assumed_date}: keys of train.yml may be ignored there",
        first,
    )


def _last_day(version: str) -> str:
    """The day on which the next version came; of the newest, the end of time."""
    versions = list(FIRST_DAYS)
    following = versions[versions.index(version) + 1 :]
    return FIRST_DAYS[following[0]] if following else "9999"
