"""Moves the records of a bucket with layout 1 to keys that nodes cannot write.

Safe to interrupt and to run several times at once: what is written depends only on the posted job, nothing is replaced, and the
bucket's layout version changes last.
"""

import hashlib
from contextlib import suppress

from flux_training.clients.errors import Conflict, NotFound, RateLimited
from flux_training.clients.kelpie import Job
from flux_training.clients.pins import pin_weights
from flux_training.clients.queue.claims import Claim, posted_record_bytes
from flux_training.clients.queue.earlier_layout import posted_jobs_of_layout_1
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.recorded_runs import list_run_folders, runs_in
from flux_training.clients.records import read_record
from flux_training.clients.results import read_stored_results, weights_header
from flux_training.clients.stack.owner import new_mark
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import RunKeys


def migrate(stack: StackServices, owner: str) -> tuple[str, ...]:
    """Record every posted job below .flux/, then the current layout version in owner.json, unless the bucket has that already.

    Runs whose job the queue has forgotten are recorded as earlier runs of this stack, with their weights. A bucket that is
    being adopted gets its owner mark from components/bucket.py. Returns warnings. Raises ServiceError.
    """
    storage, layout, mark = stack.storage, stack.layout, stack.mark
    if not stack.bucket_exists or (mark is not None and mark.is_current):
        return ()
    folders = list_run_folders(storage, layout)
    runs = [layout.run(*place) for place in runs_in(layout, folders)]
    posted = posted_jobs_of_layout_1(storage, stack.connection.kelpie(), runs)
    in_parallel(lambda keys: _record(storage, owner, keys, posted[keys]), list(posted))
    forgotten = [keys for keys in runs if keys not in posted]
    queue = Queue(stack.connection.kelpie(), None)
    in_parallel(lambda keys: _record_forgotten_run(storage, queue, keys), forgotten)
    if crowded := [prefix for prefix, found in folders.items() if found.is_cut]:
        # Do not record the new layout version after an incomplete listing: runs that were not listed would then belong to no
        # stack.
        return tuple(_incomplete_listing_warning(storage, prefix) for prefix in crowded)
    if mark is not None and mark.owner == owner:
        # RateLimited means that another update is writing the same owner mark, so nothing is left to do.
        with suppress(RateLimited):
            storage.put_bytes(layout.owner, new_mark(owner, mark.made).to_json())
    return ()


def _incomplete_listing_warning(storage: Storage, prefix: str) -> str:
    return (
        f"bucket {storage.bucket}/{prefix} has more folders and objects than one listing returns, so some runs may not have been found; the "
        "bucket keeps its old layout; delete the objects there that do not belong to your runs, then run `up` again"
    )


def _record_forgotten_run(storage: Storage, queue: Queue, keys: RunKeys) -> None:
    """Record an earlier run whose job the queue has forgotten, and its weights if it finished.

    Only the weights show that such a run has finished. If the queue does have a job of the run, its posted.json was changed,
    and the weights are not recorded.
    """
    if not queue.own_jobs(RunPlace.at(storage.bucket, keys)):
        steps = _trained_steps(storage, keys)
        found = read_stored_results(storage, keys, steps)
        if found.are_unproven and found.weights is not None:
            pin_weights(storage, keys, found.weights, steps)
    _write_once(storage, keys.earlier, b"{}")


def _trained_steps(storage: Storage, keys: RunKeys) -> int:
    """The number of steps of a run whose job the queue has forgotten, from run.json or from the weights' header; 0 if unknown.

    Nodes can delete run.json.
    """
    record = read_record(storage, keys.record, RunRecord).value
    if record and record.steps:
        return record.steps
    weights = read_stored_results(storage, keys, 0).weights
    try:
        header = weights_header(storage, weights.files[0].key) if weights else None
    except (NotFound, ValueError):
        return 0
    return header.step or 0 if header else 0


def _record(storage: Storage, owner: str, keys: RunKeys, job: Job) -> None:
    """Record a posted job and its claim.

    The job is written first: a claim without a job could be taken over, and the run would be queued twice.
    """
    token = hashlib.sha256(f"layout 1 {job.id}".encode()).hexdigest()[:32]
    # The claim names no host or process, so another update may take it over once the job is gone.
    claim = Claim(owner=owner, host="", pid=0, claimed_at=0.0, token=token)
    _write_once(storage, keys.posted, posted_record_bytes(token, job.id))
    _write_once(storage, keys.claim, claim.to_json())


def _write_once(storage: Storage, key: str, data: bytes) -> None:
    try:
        storage.put_bytes(key, data, if_none_match=True)
    except Conflict:
        return
    except RateLimited:
        # Another update is writing the same object.
        if storage.head(key) is None:
            raise
