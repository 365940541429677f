"""What each declared run still costs: from the bucket, and for what is not finished there from the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.own_jobs import Wanted, choose_job
from flux_training.clients.results import inspect_run, queue_job, read_json
from flux_training.clients.storage import Storage
from flux_training.clients.verified import Verified
from flux_training.training.declare import DeclaredJob
from flux_training.training.run import Layout, RunKeys
from flux_training.training.run_state import CANCELED, Standing
from flux_training.training.settings import StackSettings

R = TypeVar("R")
A = TypeVar("A")

THREADS = 16


def standings_of(
    connection: Connection, settings: StackSettings, jobs: Sequence[DeclaredJob]
) -> dict[str, Standing]:
    """By job. Raises ServiceError.

    One request for each run that is finished, and for each that is in its group's queue, which is listed once. A run that neither knows
    is looked for where `up` would have written it down: one request more, and another where it was.
    """
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    if not storage.exists():
        return {job.name: Standing.NEW for job in jobs}
    verified = Verified.load()

    def is_finished(job: DeclaredJob) -> bool:
        keys = layout.run(job.name, job.run_id)
        return inspect_run(storage, keys, job.folder.config.steps, verified).finished

    finished = dict(zip([job.name for job in jobs], side_by_side(is_finished, jobs), strict=True))
    verified.save()
    left = [job for job in jobs if not finished[job.name]]
    queued = group_jobs(connection, settings.cluster.name) if left else []

    def of(job: DeclaredJob) -> Standing:
        listed = standing_in(queued, Wanted.of(storage.bucket, layout, job.name, job.run_id))
        if listed is Standing.FAILED and is_finished(job):
            # It ended between the look into the bucket and the list.
            return Standing.FINISHED
        return listed or standing_as_posted(storage, connection.kelpie(), layout.run(job.name, job.run_id))

    known = dict.fromkeys(finished, Standing.FINISHED)
    return known | dict(zip([job.name for job in left], side_by_side(of, left), strict=True))


def group_jobs(connection: Connection, group_name: str) -> list[Job]:
    """What the queue has for a container group; nothing where there is no such group."""
    group = connection.salad().get_group(group_name)
    return connection.kelpie().list_jobs(container_group_id=group.id) if group else []


def standing_in(queued: Iterable[Job], wanted: Wanted) -> Standing | None:
    """As the queue's list has it; None when the run is not in it, or was canceled there."""
    job = choose_job(queued, wanted)
    return _standing(job) if job else None


def standing_of(storage: Storage, kelpie: Kelpie, keys: RunKeys, steps: int) -> Standing:
    """Whether one run is still to be trained, in whatever group it was queued."""
    if inspect_run(storage, keys, steps).finished:
        return Standing.FINISHED
    return standing_as_posted(storage, kelpie, keys)


def standing_as_posted(storage: Storage, kelpie: Kelpie, keys: RunKeys) -> Standing:
    """Of a run that is not finished: what became of the job that was posted for it."""
    job_id = (read_json(storage, keys.posted) or {}).get("kelpie_id")
    job = queue_job(kelpie, str(job_id or ""))
    return _standing(job) if job else Standing.NEW


def _standing(job: Job) -> Standing:
    if job.unfinished:
        return Standing.UNFINISHED
    return Standing.CANCELED if job.status == CANCELED else Standing.FAILED


def side_by_side(call: Callable[[A], R], items: Sequence[A]) -> list[R]:
    """The answers of many calls that wait for a service, in the order of the items."""
    if not items:
        return []
    with ThreadPoolExecutor(min(THREADS, len(items))) as threads:
        return list(threads.map(call, items))
