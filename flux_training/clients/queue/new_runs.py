"""A run that was never queued. Nodes can compute the id of a job's next attempt, and write below it: its node would continue from that.

Only what a node would continue from is deleted. Everything else may be results that somebody copied or restored without `.flux/`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.results import stored_results, weights_problems
from flux_training.clients.storage import MAX_KEYS_PER_DELETE, ObjectInfo, Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState

# Deleting this many takes about a minute, and the claim lasts for ten.
MAX_OUTPUTS = 20_000
OPTIMIZER = "optimizer.pt"
# What a storage copies with one request. No LoRA has so many.
MAX_COPIED_BYTES = 5 * 10**9


def was_queued(storage: Storage, keys: RunKeys, jobs: Iterable[Job]) -> bool:
    """Whether a witness out of the nodes' reach knows the run: one of its `jobs` in the queue, or a record other than a claim.

    An update that failed before its post leaves a claim. Raises ServiceError.
    """
    records = storage.list(keys.claim.removesuffix("claim.json"))
    return any(jobs) or any(record.key != keys.claim for record in records)


@dataclass
class NewRun:
    """The objects in the output/ of a run that is queued for the first time. `kept`: ETags of those that were left there, by key."""

    storage: Storage
    keys: RunKeys
    kept: dict[str, str] = field(default_factory=dict)

    def set_aside_results(self, steps: int) -> str:
        """Move weights of so many steps out of model/, where training would replace them. Returns the folder; empty if there are none.

        They may be a copy of earlier results. Raises ServiceError.
        """
        weights = stored_results(self.storage, self.keys, steps).weights
        if weights is None or weights.size > MAX_COPIED_BYTES:
            return ""
        if weights_problems(self.storage, weights, steps):
            return ""
        # Others may be set aside later, if this update fails before its post.
        folder = f"{self.keys.set_aside}{hashlib.sha256(weights.etag.encode()).hexdigest()[:12]}/"
        found = [*(file.key for file in weights.files), self.keys.done]
        self.storage.copy_many([(key, f"{folder}{key.removeprefix(self.keys.model)}") for key in found])
        self.storage.delete_many(found)
        return folder

    def clear(self, renew: Callable[[], None]) -> int:
        """Delete what the run's node would continue from. Returns how many objects. `renew` is called before each part.

        Raises ServiceError, and FluxError if there are more than MAX_OUTPUTS objects.
        """
        found = self._outputs()
        planted = [item.key for item in found if self._is_continued_from(item.key)]
        for start in range(0, len(planted), MAX_KEYS_PER_DELETE):
            renew()
            self.storage.delete_many(planted[start : start + MAX_KEYS_PER_DELETE])
        self.kept = {item.key: item.etag for item in found}
        return len(planted)

    def clear_after_post(self, kelpie: Kelpie, job: Job) -> int:
        """Delete what was written between `clear` and the post. Returns how many objects; 0 if a node may have written them."""
        found = self._outputs()
        written = [item.key for item in found if self.kept.get(item.key) != item.etag]
        planted = [key for key in written if self._is_continued_from(key)]
        # The queue is asked after the listing: whatever was there before a node got the run is not from that node.
        if not planted or not _waits(kelpie.get_job(job.id)):
            return 0
        self.storage.delete_many(planted)
        return len(planted)

    def _outputs(self) -> list[ObjectInfo]:
        found = list(itertools.islice(self.storage.list(self.keys.output), MAX_OUTPUTS + 1))
        if len(found) > MAX_OUTPUTS:
            raise FluxError(
                f"{self.keys.job}: more than {MAX_OUTPUTS:,} objects are below {self.keys.output}, although the run was never queued",
                "its node would continue from them, and they are too many to be deleted here",
                "delete them with a tool of the storage, or give the job another `attempt`",
            )
        return found

    def _is_continued_from(self, key: str) -> bool:
        """Whether it is a checkpoint, final weights, an optimizer's state or a progress.json, as the launcher finds them."""
        name = key.removeprefix(self.keys.output)
        if name.startswith(self.keys.job) and name.endswith(".safetensors"):
            return "/" not in name
        return name == OPTIMIZER or key == self.keys.progress


def _waits(job: Job) -> bool:
    return job.status == RunState.PENDING and job.started is None
