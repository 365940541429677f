"""Queues a run again whose launcher never reported."""

from flux_training.clients.kelpie import Job, JobRequest, Kelpie
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace, choose_job, own_job
from flux_training.clients.queue.posting import Queue
from flux_training.training.runs.handout import REQUEUES_VARIABLE, may_requeue, requeues


def job_of_run(kelpie: Kelpie, kelpie_id: str, place: RunPlace) -> Job | None:
    """The job with this id, if it is the run's, or the one that replaced it after it was canceled. Raises ServiceError."""
    known = own_job(kelpie, kelpie_id, place)
    if known is None or known.status != "canceled":
        return known
    return choose_job(kelpie.list_jobs(known.container_group_id), place) or known


def queue_again(queue: Queue, place: RunPlace, job: Job, claims: ClaimFile) -> Job | None:
    """Cancel the job and post the same once more. Returns the run's new job, which another watcher may have posted.

    None if the job is not the run's, has been queued again often enough, or has ended meanwhile. Raises ServiceError, FluxError.
    """
    if not place.is_own(job) or not may_requeue(job.environment) or not queue.kelpie.cancel_job(job.id):
        return None
    queue.forget()
    return queue.post_once(place, same_request(job), claims)


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
