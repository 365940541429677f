"""Is a job well? Decided from what was just seen of all of them, without asking anyone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flux_training.commands.watch.job_status import Sight
from flux_training.training.runs.run_state import RunState, in_words

# Allocating a node and downloading the image takes minutes; longer than this something is amiss.
PATIENCE_SECONDS = 900.0
NO_NODE = (
    "is Kelpie's user invited to the Salad organization, is a GPU of this class to be had, does the container group "
    "still exist? `flux doctor` looks"
)


def problems(sights: Sequence[Sight], now: datetime) -> dict[str, str]:
    """What is wrong, by the job's name; nothing for those that are well."""
    # Behind another job a pending one may wait for hours: that is what a queue is.
    busy = any(sight.state == RunState.RUNNING for sight in sights)
    found = {sight.job.name: _problem(sight, now, busy) for sight in sights}
    return {name: problem for name, problem in found.items() if problem}


def _problem(sight: Sight, now: datetime, busy: bool) -> str:
    if sight.ended and sight.state != RunState.COMPLETED:
        return f"{sight.state}: {sight.reason}" if sight.reason else sight.state
    if sight.state == RunState.PENDING and not busy:
        waited = age(sight.queue_job.created if sight.queue_job else None, now)
        if waited > PATIENCE_SECONDS:
            return f"pending for {in_words(waited)} and no node takes it: {NO_NODE}"
    return ""


def age(time: datetime | None, now: datetime) -> float:
    """Seconds since `time`; 0 when it is unknown or lies ahead."""
    return 0.0 if time is None else max(0.0, (now - time).total_seconds())
