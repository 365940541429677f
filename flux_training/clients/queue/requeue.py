"""Queues a run again whose launcher never reported."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace, choose_own_job, own_job
from flux_training.clients.queue.posting import Queue
from flux_training.clients.records import listed, read_record
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.runs.handout import REQUEUES_VARIABLE, may_requeue, requeues
from flux_training.training.runs.records import RequeueRecord
from flux_training.training.runs.run import RunKeys


def job_of_run(kelpie: Kelpie, kelpie_id: str, place: RunPlace) -> Job | None:
    """The job with this id, if it is the run's, or the last one that replaced it after it was canceled. Raises ServiceError."""
    known = own_job(kelpie, kelpie_id, place)
    if known is None or known.status != "canceled":
        return known
    jobs = kelpie.list_jobs(known.container_group_id)
    return choose_own_job(jobs, place) or max(
        (job for job in jobs if place.is_own(job)), key=_posted_at, default=known
    )


def _posted_at(job: Job) -> tuple[datetime, int]:
    """Kelpie's times are whole seconds."""
    return job.created or datetime.min.replace(tzinfo=UTC), requeues(job.environment)


@dataclass(frozen=True)
class SilentRun:
    """A run whose launcher is silent, with what is needed to queue it again."""

    queue: Queue
    storage: Storage
    keys: RunKeys
    place: RunPlace
    owner: str

    def queue_again(self, job: Job) -> Job | None:
        """Cancel the job and post the same once more. Returns the run's new job, which another watcher may have posted.

        None if the job is not the run's, has been queued again often enough, or has ended meanwhile. Raises ServiceError, FluxError.
        """
        if not self.place.is_own(job) or not may_requeue(job.environment):
            return None
        # If this process is killed between canceling and posting, the next watcher posts.
        self.storage.put_bytes(self.keys.requeue, canonical_json({"version": 1, "kelpie_id": job.id}))
        return self._post(job) if self.queue.kelpie.cancel_job(job.id) else None

    def finish(self, job: Job) -> Job | None:
        """Post the run whose job a watcher has canceled for that, if it is not done yet. None for any other canceled job."""
        intended = read_record(self.storage, self.keys.requeue, RequeueRecord).value
        is_intended = (
            intended is not None
            and intended.kelpie_id == job.id
            and job.status == "canceled"
            and self.place.is_own(job)
        )
        return self._post(job) if is_intended and not self._has_reported(job) else None

    def _has_reported(self, job: Job) -> bool:
        """Whether its launcher has started: then the watcher did not cancel the job, but somebody else did later."""
        report = listed(self.storage, self.keys.progress)
        if report is None or report.modified is None or job.started is None:
            return False
        return report.modified >= job.started

    def _post(self, job: Job) -> Job:
        self.queue.forget()
        return self.queue.post_once(
            self.place, same_request(job), ClaimFile(self.storage, self.keys, self.owner)
        )


def same_request(job: Job) -> JobRequest:
    """The request that posted the job, counted."""
    return JobRequest(
        container_group_id=job.container_group_id,
        command=job.command,
        arguments=job.arguments,
        environment=job.environment | {REQUEUES_VARIABLE: str(requeues(job.environment) + 1)},
        sync=job.sync,
        max_failures=job.max_failures,
        heartbeat_interval=job.heartbeat_interval,
        webhook=job.webhook,
    )
