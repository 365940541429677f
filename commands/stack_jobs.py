"""The jobs a stack's outputs name, as they stand now in queue and bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clients.errors import NotFound
from clients.kelpie import Job, Kelpie
from clients.results import see_run
from clients.storage import Storage
from training.run import RunKeys
from training.run_state import COMPLETED, ENDED, PENDING, RUNNING, STALLED, in_words

# Allocating a node and downloading the image takes minutes; longer than this something is amiss.
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True)
class StackJob:
    """One entry of the stack output `jobs`."""

    name: str
    run_id: str
    kelpie_id: str
    steps: int
    keys: RunKeys
    stall_minutes: float = 30.0


@dataclass(frozen=True)
class Sight:
    """A job as just seen. `reason` is empty unless it ended badly; `progress` is the launcher's progress.json."""

    job: StackJob
    state: str
    reason: str
    progress: Mapping[str, Any]
    queue_job: Job | None

    @property
    def waited(self) -> float:
        """Seconds since the queue took the job in; 0 when it does not say."""
        created = self.queue_job.created if self.queue_job else None
        return 0.0 if created is None else (datetime.now(UTC) - created).total_seconds()

    @property
    def ended(self) -> bool:
        """Weights in the bucket are not the end: the worker still has to tell the queue. What is stalled may wait for ever."""
        if self.state == STALLED:
            return True
        return self.state in ENDED and not (self.queue_job and self.queue_job.unfinished)


def stack_jobs(outputs: Mapping[str, Any]) -> list[StackJob]:
    """The jobs of a stack's outputs, by name; none when it has none yet."""
    return [
        StackJob(
            name,
            entry["runId"],
            entry.get("kelpieId") or "",
            int(entry["steps"]),
            RunKeys(entry["folder"], name),
            float(entry.get("stallMinutes") or StackJob.stall_minutes),
        )
        for name, entry in sorted((outputs.get("jobs") or {}).items())
    ]


def look(job: StackJob, kelpie: Kelpie, storage: Storage) -> Sight:
    """See how a job is. Raises ServiceError."""
    queue_job = _queue_job(kelpie, job.kelpie_id)
    seen = see_run(storage, job.keys, job.steps, queue_job, job.stall_minutes)
    return Sight(job, seen.state, seen.reason, seen.progress, queue_job)


def describe(sight: Sight) -> str:
    """One line for a person: `training, step 120 of 300, loss 0.412, about 1 min left`."""
    progress = sight.progress
    if sight.state == PENDING and sight.waited > PATIENCE_SECONDS:
        return (
            f"pending for {in_words(sight.waited)}: no node takes it. Is Kelpie's user invited to the Salad organization, "
            "is a GPU of this class to be had, does the container group still exist?"
        )
    if sight.reason:
        return f"{sight.state}: {sight.reason}"
    if sight.state == COMPLETED and not sight.ended:
        return "the weights are in the bucket; the worker is finishing"
    if sight.state != RUNNING or not progress:
        return sight.state
    words = [str(progress.get("state") or RUNNING)]
    if progress.get("step"):
        words.append(f"step {progress['step']} of {progress.get('steps', sight.job.steps)}")
    if isinstance(progress.get("loss_smoothed"), int | float):
        words.append(f"loss {progress['loss_smoothed']:.4f}")
    if isinstance(progress.get("eta_seconds"), int | float):
        words.append(f"about {in_words(progress['eta_seconds'])} left")
    return ", ".join(words)


def _queue_job(kelpie: Kelpie, kelpie_id: str) -> Job | None:
    if not kelpie_id:
        return None
    try:
        return kelpie.get_job(kelpie_id)
    except NotFound:
        return None
