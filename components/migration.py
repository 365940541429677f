"""Moves the records of a bucket with layout 1 to where nodes cannot write them.

Safe if it is killed or runs several times at once: what it writes depends only on the job that was posted, it replaces nothing,
and the mark changes last.
"""

import hashlib
from contextlib import suppress

from flux_training.clients.errors import Conflict, NotFound, RateLimited
from flux_training.clients.kelpie import Job
from flux_training.clients.pins import pin_weights
from flux_training.clients.queue.claims import Claim, posted_record
from flux_training.clients.queue.earlier_layout import posted_in_layout_1
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.recorded_runs import folders_of_runs, runs_in
from flux_training.clients.records import read_record
from flux_training.clients.results import stored_results, weights_header
from flux_training.clients.stack.owner import new_mark
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import RunKeys


def migrate(stack: StackServices, owner: str) -> tuple[str, ...]:
    """Unless the bucket has the current layout: record every posted job below .flux/, then the layout in owner.json.

    Runs whose job the queue has forgotten are marked, so that they stay known as runs of this stack, and their weights are recorded.
    A bucket that is being adopted gets its mark from components/bucket.py. Returns warnings. Raises ServiceError.
    """
    storage, layout, mark = stack.storage, stack.layout, stack.mark
    if not stack.bucket_exists or (mark is not None and mark.is_current):
        return ()
    folders = folders_of_runs(storage, layout)
    runs = [layout.run(*place) for place in runs_in(layout, folders)]
    posted = posted_in_layout_1(storage, stack.connection.kelpie(), runs)
    in_parallel(lambda keys: _record(storage, owner, keys, posted[keys]), list(posted))
    forgotten = [keys for keys in runs if keys not in posted]
    queue = Queue(stack.connection.kelpie(), None)
    in_parallel(lambda keys: _keep_earlier(storage, queue, keys), forgotten)
    if crowded := [prefix for prefix, found in folders.items() if found.is_cut]:
        # Once the mark is set, runs that a cut listing leaves out would belong to nobody.
        return tuple(_crowded(storage, prefix) for prefix in crowded)
    if mark is not None and mark.owner == owner:
        with suppress(RateLimited):  # another update is writing the same
            storage.put_bytes(layout.owner, new_mark(owner, mark.made).to_json())
    return ()


def _crowded(storage: Storage, prefix: str) -> str:
    return (
        f"bucket {storage.bucket}/{prefix} has more folders and objects than are listed, so some of its runs may not have been found; the "
        "bucket keeps the layout of an earlier version; delete what is not of your runs, then run `up` again"
    )


def _keep_earlier(storage: Storage, queue: Queue, keys: RunKeys) -> None:
    """Nothing but the weights tells that such a run has finished. If a job has this run after all, somebody changed its posted.json."""
    if not queue.own_jobs(RunPlace.at(storage.bucket, keys)):
        steps = _steps_of(storage, keys)
        found = stored_results(storage, keys, steps)
        if found.are_unproven and found.weights is not None:
            pin_weights(storage, keys, found.weights, steps)
    _write_once(storage, keys.earlier, b"{}")


def _steps_of(storage: Storage, keys: RunKeys) -> int:
    """Of a forgotten run: by run.json, or else by its weights, because a node can delete run.json. 0 if neither tells it."""
    record = read_record(storage, keys.record, RunRecord).value
    if record and record.steps:
        return record.steps
    weights = stored_results(storage, keys, 0).weights
    try:
        header = weights_header(storage, weights.files[0].key) if weights else None
    except (NotFound, ValueError):
        return 0
    return header.step or 0 if header else 0


def _record(storage: Storage, owner: str, keys: RunKeys, job: Job) -> None:
    """The posted job comes before the claim: a claim without its job could be taken over, and the run queued again."""
    token = hashlib.sha256(f"layout 1 {job.id}".encode()).hexdigest()[:32]
    # Nobody holds this claim: whoever finds that the claim's job is gone may take it over.
    claim = Claim(owner=owner, host="", pid=0, claimed_at=0.0, token=token)
    _write_once(storage, keys.posted, posted_record(token, job.id))
    _write_once(storage, keys.claim, claim.to_json())


def _write_once(storage: Storage, key: str, data: bytes) -> None:
    try:
        storage.put_bytes(key, data, if_none_match=True)
    except Conflict:
        return
    except RateLimited:
        # Another update is writing the same at this moment.
        if storage.head(key) is None:
            raise
