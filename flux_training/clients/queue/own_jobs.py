"""Which of the queue's jobs belong to a run: by the run id in their environment, and by where they write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from flux_training.clients.kelpie import Job
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, Layout


@dataclass(frozen=True)
class RunPlace:
    """A run and where it writes: the same run id below another prefix is another training."""

    job: str
    run: str
    bucket: str
    output: str
    runs_of_job: str

    @staticmethod
    def of(bucket: str, layout: Layout, job: str, run: str) -> RunPlace:
        return RunPlace(job, run, bucket, layout.run(job, run).output, f"{layout.runs}{job}/")

    def is_own(self, job: Job) -> bool:
        return job.environment.get(RUN_ID_VARIABLE) == self.run and self._writes_below(job, self.output)

    def is_superseded(self, job: Job) -> bool:
        """An unfinished job of another run of the same declared job: nothing in the configuration asks for it any more."""
        return (
            job.unfinished
            and job.environment.get(JOB_VARIABLE) == self.job
            and job.environment.get(RUN_ID_VARIABLE) != self.run
            and self._writes_below(job, self.runs_of_job)
        )

    def _writes_below(self, job: Job, prefix: str) -> bool:
        return any(rule.bucket == self.bucket and rule.prefix.startswith(prefix) for rule in job.sync.during)


def choose_job(jobs: Iterable[Job], place: RunPlace) -> Job | None:
    """The run's job in the queue: an unfinished one, or else the newest that completed or failed.

    Canceled jobs do not count: a run that is declared again after its removal is queued again.
    """
    own = [job for job in jobs if place.is_own(job)]
    unfinished = in_order(job for job in own if job.unfinished)
    if unfinished:
        return unfinished[0]
    ended = in_order(job for job in own if job.status in ("completed", "failed"))
    return ended[-1] if ended else None


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Oldest first; by id within a second, so that all processes agree."""
    return sorted(jobs, key=lambda job: (job.created or datetime.min.replace(tzinfo=UTC), job.id))
