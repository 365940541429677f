"""Prepares the folder of a run that was never queued.

Nodes can compute the run id of a job's next attempt and write objects below it, from which the run's own node would continue.
Only those objects are deleted. Everything else may be results that somebody copied or restored without `.flux/`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.records import listed
from flux_training.clients.results import problems_of_weights, read_stored_results
from flux_training.clients.storage import MAX_KEYS_PER_DELETE, Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState

# The maximum number of objects that are deleted. Deleting this many takes about ten minutes, in which the run's claim is
# renewed.
MAX_OUTPUTS = 200_000
OPTIMIZER = "optimizer.pt"
# The maximum size that a storage copies with one request. No LoRA is that large.
MAX_COPIED_BYTES = 5 * 10**9


def was_queued(storage: Storage, keys: RunKeys, jobs: Iterable[Job]) -> bool:
    """Whether a witness out of the nodes' reach knows the run: one of its `jobs` in the queue, or a record other than a claim.

    An update that failed before its post leaves a claim. Raises ServiceError.
    """
    records = storage.list(keys.claim.removesuffix("claim.json"))
    return any(jobs) or any(record.key != keys.claim for record in records)


@dataclass(frozen=True)
class NewRun:
    """What is below a run that is queued for the first time."""

    storage: Storage
    keys: RunKeys

    def move_weights_aside(self, steps: int, renew: Callable[[], None]) -> str:
        """Move weights of so many steps out of model/, where training would replace them. Returns the folder; empty if there are none.

        They may be a copy of earlier results. `renew` is called before they are moved. Raises ServiceError.
        """
        weights = read_stored_results(self.storage, self.keys, steps).weights
        if weights is None or weights.size > MAX_COPIED_BYTES:
            return ""
        if problems_of_weights(self.storage, weights, steps):
            return ""
        # Renew the claim first. If this machine slept, another update may have queued the run, and the weights may come from
        # its node.
        renew()
        # If this update fails before its post, the next one may move other weights, so each update uses another folder.
        folder = f"{self.keys.set_aside}{hashlib.sha256(weights.etag.encode()).hexdigest()[:12]}/"
        found = [*(file.key for file in weights.files), self.keys.done]
        self.storage.copy_many([(key, f"{folder}{key.removeprefix(self.keys.model)}") for key in found])
        self.storage.delete_many(found)
        return folder

    def clear(self, renew: Callable[[], None]) -> int:
        """Delete what the run's node would continue from. Returns how many objects. `renew` is called before each part.

        Raises ServiceError, and FluxError if more than MAX_OUTPUTS objects are named like checkpoints.
        """
        planted, count = self._planted_checkpoints(), 0
        while part := list(itertools.islice(planted, MAX_KEYS_PER_DELETE)):
            renew()
            self.storage.delete_many(part)
            count += len(part)
        return count

    def clear_after_post(self, kelpie: Kelpie, job: Job) -> int:
        """Delete what was written between `clear` and the post. Returns how many objects; 0 if a node may have written them."""
        planted = list(self._planted_checkpoints())
        # Read the queue after listing the objects: if no node has got the run by then, none of the objects are from its node.
        if not planted or not _waits(kelpie.get_job(job.id)):
            return 0
        self.storage.delete_many(planted)
        return len(planted)

    def _planted_checkpoints(self) -> Iterator[str]:
        for number, item in enumerate(self.storage.list(f"{self.keys.output}{self.keys.job}")):
            if number == MAX_OUTPUTS:
                raise FluxError(
                    f"{self.keys.job}: more than {MAX_OUTPUTS:,} objects are below {self.keys.output}, although the run was never queued",
                    "the run's node would continue from them, and `up` does not delete so many",
                    "delete them with a tool of the storage, or give the job another `attempt`",
                )
            if self._is_checkpoint(item.key):
                yield item.key
        others = (f"{self.keys.output}{OPTIMIZER}", self.keys.progress)
        yield from (key for key in others if listed(self.storage, key))

    def _is_checkpoint(self, key: str) -> bool:
        """Whether the launcher would find a checkpoint or final weights there."""
        name = key.removeprefix(self.keys.output)
        return name.endswith(".safetensors") and "/" not in name


def _waits(job: Job) -> bool:
    return job.status == RunState.PENDING and job.started is None
