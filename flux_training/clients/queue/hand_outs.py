"""Whether a run's objects can have been written by its own node.

Nodes can write below every run, even before the run is queued. So the evidence comes from where nodes cannot write: the queue,
and the record of the posted job below `.flux/`.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights
from flux_training.clients.storage import Storage
from flux_training.training.runs.handout import count_requeues
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState

# The tolerance when times of the queue and of the storage are compared: they have separate clocks, and the storage counts whole
# seconds.
CLOCK_DIFFERENCE = timedelta(seconds=10)
# The maximum number of objects examined: one page of a listing.
MAX_PLANTED = 1000
# A node learns that its job has ended with its next heartbeat. Weights uploaded after that are in doubt, too.
TOO_LATE = "the weights were written after the run's job had failed or was canceled"
TOO_EARLY = "the weights were written before the queue gave this run to a node"


@dataclass(frozen=True)
class PlantedObjects:
    """`count`: objects that no node of the run can have written. `has_more`: whether others were not examined."""

    count: int = 0
    has_more: bool = False


def find_planted_objects(storage: Storage, keys: RunKeys, job: Job) -> PlantedObjects:
    """The objects in output/ that are newer than the job, although the queue has not given it to a node; of the first MAX_PLANTED.

    Older ones may be from an earlier job of the same run, and if that was replaced, newer ones too. Raises ServiceError.
    """
    if (
        job.status != RunState.PENDING
        or job.started
        or job.created is None
        or count_requeues(job.environment)
    ):
        return PlantedObjects()
    since = job.created + CLOCK_DIFFERENCE
    listed = list(itertools.islice(storage.list(keys.output), MAX_PLANTED + 1))
    count = sum(item.modified is not None and item.modified > since for item in listed[:MAX_PLANTED])
    return PlantedObjects(count, has_more=len(listed) > MAX_PLANTED)


def reason_to_doubt_weights(jobs: Iterable[Job], weights: StoredWeights | None, is_posted: bool) -> str:
    """Why no node of the run can have written the weights; empty if one can. `jobs`: the run's own in the queue, which may have
    forgotten them.

    `is_posted`: whether a record that nodes cannot write says that the run was queued.
    """
    doubts = [_reason_to_doubt(job, weights) for job in jobs]
    if not doubts:
        return "" if is_posted else TOO_EARLY
    return "" if "" in doubts else TOO_LATE if TOO_LATE in doubts else TOO_EARLY


def _reason_to_doubt(job: Job, weights: StoredWeights | None) -> str:
    if job.started is None and job.status in (RunState.PENDING, RunState.CANCELED):
        return TOO_EARLY
    written = [file.modified for file in weights.files if file.modified] if weights else []
    if not written:
        return ""
    # The node that got the job last publishes the weights again, even if an earlier node had already finished them.
    since = job.started or job.created
    if since is not None and min(written) + CLOCK_DIFFERENCE < since:
        return TOO_EARLY
    ended = {RunState.FAILED: job.failed, RunState.CANCELED: job.canceled}.get(RunState(job.status))
    return TOO_LATE if ended is not None and max(written) > ended + CLOCK_DIFFERENCE else ""
