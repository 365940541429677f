"""Queues a run again whose launcher never reported, unless the run is removed from its stack meanwhile.

A watcher writes requeue.json, cancels the job, posts the next one and reads requeue.json again; a removal writes it, then cancels
what it finds. Whichever writes last sees what the other has done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from flux_training.clients.errors import Conflict
from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace, choose_own_job, newest_posted_job, own_job
from flux_training.clients.queue.posting import Queue
from flux_training.clients.records import listed, read_record
from flux_training.clients.results import read_json
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.runs.handout import MAX_REQUEUES, REQUEUES_VARIABLE, count_requeues
from flux_training.training.runs.records import RequeueRecord
from flux_training.training.runs.run import RunKeys


def job_of_run(kelpie: Kelpie, kelpie_id: str, place: RunPlace) -> Job | None:
    """The job with this id, if it is the run's, or the last one that replaced it after it was canceled. Raises ServiceError."""
    known = own_job(kelpie, kelpie_id, place)
    if known is None or known.status != "canceled":
        return known
    jobs = kelpie.list_jobs(known.container_group_id)
    own = (job for job in jobs if place.is_own(job))
    return choose_own_job(jobs, place) or newest_posted_job(own) or known


@dataclass(frozen=True)
class SilentRun:
    """A run whose launcher is silent, with what is needed to queue it again.

    `reserve` counts a job that replaces another one against the limits of a day and a month. It raises FluxError if that does not fit.
    """

    queue: Queue
    storage: Storage
    keys: RunKeys
    place: RunPlace
    owner: str
    reserve: Callable[[Job], None]

    def queue_again(self, job: Job) -> Job | None:
        """Cancel the job and post the same once more. Returns the run's new job, which another watcher may have posted.

        None if the job is not the run's, has been queued again often enough, has ended meanwhile, or is being removed. Raises
        ServiceError, FluxError.
        """
        if (
            not self.place.is_own(job)
            or self._requeues(job) >= MAX_REQUEUES
            or not self._record_intended_requeue(job)
        ):
            return None
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

    def _record_intended_requeue(self, job: Job) -> bool:
        """Record that the job is about to be canceled: if this process is killed before it posts, the next watcher posts.

        False if somebody else changes the record at this moment, or the job is being removed.
        """
        before = self.storage.head(self.keys.requeue)
        if self._is_removed(job):
            return False
        record = canonical_json({"version": 1, "kelpie_id": job.id})
        etag = before.etag if before else None
        try:
            self.storage.put_bytes(self.keys.requeue, record, if_none_match=before is None, if_match=etag)
        except Conflict:
            return False
        return True

    def _is_removed(self, *jobs: Job) -> bool:
        removed = (read_json(self.storage, self.keys.requeue) or {}).get("removed")
        return removed in [job.id for job in jobs]

    def _has_reported(self, job: Job) -> bool:
        """Whether its launcher has started: then the watcher did not cancel the job, but somebody else did later."""
        reported = self._reported()
        return reported is not None and job.started is not None and reported >= job.started

    def _reported(self) -> datetime | None:
        report = listed(self.storage, self.keys.progress)
        return report.modified if report else None

    def _requeues(self, job: Job) -> int:
        return count_requeues(job.environment, job.created, self._reported())

    def _post(self, job: Job) -> Job | None:
        self.reserve(job)
        self.queue.forget()
        posted = self.queue.post_once(
            self.place,
            requeue_request(job, self._requeues(job) + 1),
            ClaimFile(self.storage, self.keys, self.owner),
        )
        if not self._is_removed(job, posted):
            return posted
        self.queue.kelpie.cancel_job(posted.id)
        return None


def cancel_run(
    kelpie: Kelpie,
    kelpie_id: str,
    place: RunPlace,
    storage: Storage,
    keys: RunKeys,
    before_cancel: Callable[[Job], None] = lambda _job: None,
) -> bool:
    """Cancel the run's job for good: no watcher queues it again. Returns whether there was one. Raises ServiceError.

    Only a pending or running job is canceled: Kelpie would change a finished one, and start GPUs for it (docs/services.md).
    """
    job = job_of_run(kelpie, kelpie_id, place)
    if job is None or job.status in ("completed", "failed"):
        return False
    # If the bucket is gone, no watcher can queue the run again, because that needs the run's claim.
    if storage.exists():
        storage.put_bytes(keys.requeue, canonical_json({"version": 1, "removed": job.id}))
    # A watcher may have queued another job of the run just before.
    last = job_of_run(kelpie, kelpie_id, place)
    if last is None:
        return False
    before_cancel(last)
    return kelpie.cancel_job(last.id)


def requeue_request(job: Job, count: int) -> JobRequest:
    """The request that posted the job, as the run's requeue number `count`."""
    return JobRequest(
        container_group_id=job.container_group_id,
        command=job.command,
        arguments=job.arguments,
        environment=job.environment | {REQUEUES_VARIABLE: str(count)},
        sync=job.sync,
        max_failures=job.max_failures,
        heartbeat_interval=job.heartbeat_interval,
        webhook=job.webhook,
    )
