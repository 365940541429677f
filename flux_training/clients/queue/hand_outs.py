"""Whether a run's objects can be from its own node. Nodes can write below every run, also before it is queued.

The witnesses are out of the nodes' reach: the queue, and the posted record below `.flux/`.
"""

import itertools
from collections.abc import Iterable
from datetime import timedelta

from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights
from flux_training.clients.storage import Storage
from flux_training.training.runs.handout import requeues
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState

# The queue and the storage have clocks of their own, and the storage counts whole seconds.
CLOCK_DIFFERENCE = timedelta(seconds=10)
# One page of a listing.
MAX_PLANTED = 1000
TOO_EARLY = "there are weights from before the queue gave this run to a node"


def planted_objects(storage: Storage, keys: RunKeys, job: Job) -> int:
    """How many objects in output/ are newer than the job, although the queue has not given it to a node; at most MAX_PLANTED.

    Older ones may be from an earlier job of the same run, and if that was replaced, newer ones too. Raises ServiceError.
    """
    if job.status != RunState.PENDING or job.started or job.created is None or requeues(job.environment):
        return 0
    since = job.created + CLOCK_DIFFERENCE
    listed = itertools.islice(storage.list(keys.output), MAX_PLANTED)
    return sum(item.modified is not None and item.modified > since for item in listed)


def can_be_from(jobs: Iterable[Job], weights: StoredWeights | None, is_posted: bool) -> bool:
    """Whether a node can have trained the run. `jobs`: the run's own in the queue, which may have forgotten them.

    `is_posted`: whether a record that nodes cannot write says that the run was queued.
    """
    known = list(jobs)
    return any(_can_have_written(job, weights) for job in known) if known else is_posted


def _can_have_written(job: Job, weights: StoredWeights | None) -> bool:
    if job.started is None and job.status in (RunState.PENDING, RunState.CANCELED):
        return False
    # An earlier node of a job that has ended may have left them; a running job's node is going to write its own.
    since = job.started if job.status == RunState.RUNNING else job.created
    written = weights.modified if weights else None
    return since is None or written is None or written + CLOCK_DIFFERENCE >= since
