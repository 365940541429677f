"""Which of the queue's jobs belong to a run: by the run id in their environment, and by where they write.

Nodes cannot change either. No job is canceled or adopted because a file in the bucket names its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from flux_training.clients.errors import NotFound
from flux_training.clients.kelpie import Job, Kelpie
from flux_training.training.runs.handout import count_requeues
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, Layout, RunKeys


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
        return RunPlace.at(bucket, layout.run(job, run))

    @staticmethod
    def at(bucket: str, keys: RunKeys) -> RunPlace:
        return RunPlace(keys.job, keys.run, bucket, keys.output, keys.runs_of_job)

    def is_own(self, job: Job) -> bool:
        return job.environment.get(RUN_ID_VARIABLE) == self.run and self._writes_below(job, self.output)

    def is_superseded(self, job: Job) -> bool:
        """An unfinished job of another run of the same declared job: nothing in the configuration asks for it any more."""
        return (
            job.unfinished
            and job.environment.get(JOB_VARIABLE) == self.job
            and (run := job.environment.get(RUN_ID_VARIABLE)) not in (None, self.run)
            and self._writes_below(job, f"{self.runs_of_job}{run}/")
        )

    def _writes_below(self, job: Job, prefix: str) -> bool:
        return any(rule.bucket == self.bucket and rule.prefix.startswith(prefix) for rule in job.sync.during)


def own_job(kelpie: Kelpie, kelpie_id: str, place: RunPlace) -> Job | None:
    """The job with this id; None if there is none, or if it does not belong to the run. Raises ServiceError."""
    if not kelpie_id:
        return None
    try:
        job = kelpie.get_job(kelpie_id)
    except NotFound:
        return None
    return job if place.is_own(job) else None


def choose_own_job(jobs: Iterable[Job], place: RunPlace) -> Job | None:
    """The run's job in the queue: an unfinished one, or else the newest that completed or failed.

    Canceled jobs do not count: a run that is declared again after its removal is queued again.
    """
    own = [job for job in jobs if place.is_own(job)]
    unfinished = jobs_by_age(job for job in own if job.unfinished)
    if unfinished:
        return unfinished[0]
    ended = jobs_by_age(job for job in own if job.status in ("completed", "failed"))
    return ended[-1] if ended else None


def newest_posted_job(jobs: Iterable[Job]) -> Job | None:
    """The newest of a run's jobs, whatever became of it. Kelpie's times are whole seconds, so requeues are counted as well."""
    none = datetime.min.replace(tzinfo=UTC)
    return max(jobs, key=lambda job: (job.created or none, count_requeues(job.environment)), default=None)


def jobs_by_age(jobs: Iterable[Job]) -> list[Job]:
    """Oldest first; by id within a second, so that all processes agree."""
    return sorted(jobs, key=lambda job: (job.created or datetime.min.replace(tzinfo=UTC), job.id))
