"""Is a job well? Decided from what was just seen of all of them, without asking anyone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from commands.stack_jobs import Sight, duration
from training.run_state import COMPLETED, PENDING, RUNNING

# Allocating a node and downloading the image takes minutes; longer than this something is amiss.
PATIENCE_SECONDS = 900.0
NO_NODE = (
    "is Kelpie's user invited to the Salad organization, is a GPU of this class to be had, does the container group "
    "still exist? `flux doctor` looks"
)


def problems(sights: Sequence[Sight], now: datetime) -> dict[str, str]:
    """What is wrong, by the job's name; nothing for those that are well."""
    busy = any(sight.state == RUNNING and not _cut_off(sight, now) for sight in sights)
    found = {sight.job.name: _problem(sight, now, busy) for sight in sights}
    return {name: problem for name, problem in found.items() if problem}


def _problem(sight: Sight, now: datetime, busy: bool) -> str:
    if sight.ended and sight.state != COMPLETED:
        return f"{sight.state}: {sight.reason}" if sight.reason else sight.state
    if sight.state == PENDING:
        # Behind another job a pending one may wait for hours: that is what a queue is.
        waited = age(sight.queue_job.created if sight.queue_job else None, now)
        waits = not busy and waited > PATIENCE_SECONDS
        return f"pending for {duration(waited)} and no node takes it: {NO_NODE}" if waits else ""
    if sight.state != RUNNING:
        return ""
    if _cut_off(sight, now):
        silence = age(_last_heartbeat(sight), now)
        return f"its node has been silent for {duration(silence)} and no other takes it over: {NO_NODE}"
    spoke = age(sight.told.updated_at, now)
    if spoke > PATIENCE_SECONDS:
        return f"the node lives, but its progress has not changed for {duration(spoke)} (by the node's clock); `flux logs {sight.job.name}`"
    return ""


def age(time: datetime | None, now: datetime) -> float:
    """Seconds since `time`; 0 when it is unknown or lies ahead."""
    return 0.0 if time is None else max(0.0, (now - time).total_seconds())


def _cut_off(sight: Sight, now: datetime) -> bool:
    return age(_last_heartbeat(sight), now) > PATIENCE_SECONDS


def _last_heartbeat(sight: Sight) -> datetime | None:
    job = sight.queue_job
    return (job.heartbeat or job.started) if job else None
