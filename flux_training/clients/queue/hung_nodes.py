"""Replaces a node whose worker hangs: it may never learn that its job was canceled, and is paid for."""

from datetime import UTC, datetime

from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job
from flux_training.clients.records import listed
from flux_training.clients.storage import Storage
from flux_training.training.runs.handout import HandOut, is_hung
from flux_training.training.runs.run import RunKeys

NODE_REPLACED = "the worker on the job's node hangs, so the node is replaced"


def last_hand_out(storage: Storage, keys: RunKeys, job: Job, has_failed: bool = False) -> HandOut:
    """The job's last hand-out by the services' clocks: the node's own may be wrong. Raises ServiceError."""
    written = listed(storage, keys.progress)
    started = job.started or job.created or datetime.now(UTC)
    return HandOut(
        started,
        max(started, job.heartbeat or started),
        written.modified if written else None,
        has_failed,
        job.num_failures,
        job.heartbeat_interval,
        job.created,
        job.completed,
    )


def replace_hung_node(
    connection: Connection, job: Job, bucket: str, keys: RunKeys, stall_minutes: float
) -> bool:
    """Reallocate the instance of a job that is about to be canceled, if its worker hangs. Returns whether there was one. Raises ServiceError.

    After the cancellation it would be too late: the queue then no longer tells which machine had the job.
    """
    if job.status != "running" or not job.machine_id:
        return False
    storage = connection.storage(bucket)
    if not storage.exists() or not is_hung(last_hand_out(storage, keys, job), stall_minutes):
        return False
    salad = connection.salad()
    names = [group.name for group in salad.list_groups() if group.id == job.container_group_id]
    return any(salad.reallocate_machine(name, job.machine_id) for name in names)
