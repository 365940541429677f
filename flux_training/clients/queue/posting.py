"""Posts exactly one job for each run, although the queue's API has no idempotency key.

The claim in the bucket (flux_training/clients/queue/claims.py) decides which update may post. The queue's list of jobs tells
whether one has.
"""

import time
from collections.abc import Callable
from threading import Lock

from flux_training.clients.connection import Connection
from flux_training.clients.errors import UncertainOutcome
from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.queue.claims import CLAIM_SECONDS, ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace, choose_own_job, jobs_by_age, own_job
from flux_training.clients.waiting import pause
from flux_training.training.errors import FluxError

CLAIM_POLL_SECONDS = 1.0
# A post can take effect after its sender has died or given up. Only a list of jobs made at least this much later proves that
# the post was lost.
SETTLE_SECONDS = 5.0
MAX_POSTS = 3


class Queue:
    """One container group's queue, or that of all groups (None), listed once and again only when something is uncertain. Thread-safe."""

    def __init__(self, kelpie: Kelpie, group_id: str | None) -> None:
        self.kelpie = kelpie
        self.group_id = group_id
        self._lock = Lock()
        self._jobs: list[Job] | None = None

    def forget(self) -> None:
        """After a cancellation: list the queue again at the next use."""
        with self._lock:
            self._jobs = None

    def find(self, place: RunPlace, fresh: bool = False) -> Job | None:
        return choose_own_job(self.jobs(fresh), place)

    def own_jobs(self, place: RunPlace, fresh: bool = False) -> list[Job]:
        """All jobs of the run, also canceled ones."""
        return [job for job in self.jobs(fresh) if place.is_own(job)]

    def post_once(
        self,
        place: RunPlace,
        request: JobRequest,
        claims: ClaimFile,
        prepare: Callable[[], None] = lambda: None,
    ) -> Job:
        """The run's one job: found in the queue, or posted under the claim. Jobs of superseded runs are canceled.

        `prepare` is called under the claim, before the first post. Raises ServiceError, FluxError.
        """
        self._cancel_superseded(place)
        job = self.find(place)
        if job is not None:
            return job
        job = self._take_claim_or_adopt_job(place, claims)
        if job is None:
            prepare()
            job = self._post(place, request, claims)
        claims.record(job.id)
        return job

    def jobs(self, fresh: bool = False) -> list[Job]:
        with self._lock:
            if self._jobs is None or fresh:
                self._jobs = self.kelpie.list_jobs(container_group_id=self.group_id)
            return list(self._jobs)

    def _cancel_superseded(self, place: RunPlace) -> None:
        """Jobs that a killed update posted and no state knows would otherwise be trained and paid for."""
        superseded = [job for job in self.jobs() if place.is_superseded(job)]
        for job in superseded:
            self.kelpie.cancel_job(job.id)
        if superseded:
            self.forget()

    def _take_claim_or_adopt_job(self, place: RunPlace, claims: ClaimFile) -> Job | None:
        """Take the claim (None), or return the job that another holder posted."""
        if claims.take(None):
            return None
        dead_etag, dead_since = "", 0.0
        deadline = time.monotonic() + 2 * CLAIM_SECONDS
        while time.monotonic() < deadline:
            etag, holder = claims.read()
            posted = claims.posted(holder) if holder else None
            settled = etag == dead_etag and time.monotonic() - dead_since > SETTLE_SECONDS
            # The queue is listed after reading the claim and, if the claim's holder is dead, after its last post has had time
            # to arrive.
            job = self.find(place, fresh=True) or (self._posted_job(place, posted) if posted else None)
            if job is not None:
                return job
            if (holder is None or posted is not None or settled) and claims.take(etag):
                return None
            if etag != dead_etag and holder is not None and claims.is_holder_dead(holder):
                dead_etag, dead_since = etag, time.monotonic()
            pause(CLAIM_POLL_SECONDS)
        raise FluxError(
            f"{claims.key} is held by another update that has not posted its job yet",
            "",
            "wait until that update has ended, then run the same command again",
        )

    def _posted_job(self, place: RunPlace, kelpie_id: str) -> Job | None:
        """The job of a claim that is not in this group's list, if it ended by itself: it is not posted again.

        An unfinished one was posted to a group that is no longer ours: it is canceled, so that it cannot run beside the new one.
        """
        job = own_job(self.kelpie, kelpie_id, place)
        if job is None or job.status == "canceled":
            return None
        if job.unfinished:
            self.kelpie.cancel_job(job.id)
            return None
        return job

    def _post(self, place: RunPlace, request: JobRequest, claims: ClaimFile) -> Job:
        for attempt in range(MAX_POSTS):
            claims.renew()
            try:
                job = self.kelpie.post_job(request)
            except UncertainOutcome:
                # The post may still take effect, so list the queue a while later to see whether it was lost.
                pause(SETTLE_SECONDS)
                found = self.find(place, fresh=True)
                if found is not None:
                    return self._keep_only_oldest_job(place, found)
                if attempt == MAX_POSTS - 1:
                    raise
            else:
                with self._lock:
                    if self._jobs is not None:
                        self._jobs.append(job)
                return self._keep_only_oldest_job(place, job) if attempt else job
        raise AssertionError("unreachable")

    def _keep_only_oldest_job(self, place: RunPlace, job: Job) -> Job:
        """After a repeated post: keep the oldest of several unfinished jobs of the run."""
        unfinished = jobs_by_age(
            found for found in self.jobs(fresh=True) if place.is_own(found) and found.unfinished
        )
        for duplicate in unfinished[1:]:
            self.kelpie.cancel_job(duplicate.id)
        if len(unfinished) > 1:
            self.forget()
        return unfinished[0] if unfinished else job


_queues: dict[tuple[str, str | None], Queue] = {}
_queues_lock = Lock()


def shared_queue(connection: Connection, group_id: str | None) -> Queue:
    """The queue that all jobs of a group, or of all groups, in this process share, with its listing."""
    with _queues_lock:
        return _queues.setdefault((connection.kelpie_url, group_id), Queue(connection.kelpie(), group_id))
