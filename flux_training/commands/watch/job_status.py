"""The jobs a stack's outputs name, as they stand now in queue and bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flux_training.clients.kelpie import Job
from flux_training.clients.results import run_status
from flux_training.clients.storage import Storage
from flux_training.training.runs.progress import Progress, read_progress
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import ENDED, RunState, in_words
from flux_training.training.words import printable


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

    @cached_property
    def told(self) -> Progress:
        """What of `progress` can be used."""
        return read_progress(self.progress)

    @property
    def ended(self) -> bool:
        """Weights in the bucket are not the end: the worker still has to tell the queue. What is stalled may wait for ever."""
        if self.state == RunState.STALLED:
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


def look(job: StackJob, queue_job: Job | None, storage: Storage) -> Sight:
    """See how a job is; `queue_job` is what the queue just said of it. Raises ServiceError."""
    seen = run_status(storage, job.keys, job.steps, queue_job, job.stall_minutes)
    return Sight(job, seen.state, printable(seen.reason), seen.progress, queue_job)


def describe(sight: Sight) -> str:
    """One line for a person: `training, step 120 of 300, loss 0.412, about 1 min left`."""
    if sight.reason:
        return f"{sight.state}: {sight.reason}"
    if sight.state == RunState.COMPLETED and not sight.ended:
        return "the weights are in the bucket; the worker is finishing"
    if sight.state != RunState.RUNNING or not sight.progress:
        return sight.state
    told = sight.told
    words = [told.state or RunState.RUNNING]
    if told.step:
        words.append(f"step {told.step} of {told.steps or sight.job.steps}")
    if told.loss is not None:
        words.append(f"loss {told.loss:.4f}")
    if told.eta_seconds is not None:
        words.append(f"about {in_words(told.eta_seconds)} left")
    return ", ".join(words)
