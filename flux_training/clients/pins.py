"""Records the weights of a run that were verified first, in `.flux/runs/<job>/<run id>/results.json`."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from flux_training.clients.errors import Conflict
from flux_training.clients.records import read_record
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.records import DoneRecord
from flux_training.training.runs.run import Layout, RunKeys

PART_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class StoredWeights:
    """A run's weights in the bucket: one file, or one for each noise stage."""

    files: tuple[ObjectInfo, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def etag(self) -> str:
        """Empty if that of a file is not known."""
        tags = [file.etag for file in self.files]
        return "+".join(tags) if all(tags) else ""

    @property
    def modified(self) -> datetime | None:
        """When the first of them was written."""
        return min((file.modified for file in self.files if file.modified), default=None)


def read_pin(storage: Storage, keys: RunKeys) -> PinnedWeights | None:
    """None if the run has no record. Raises ServiceError."""
    return read_record(storage, keys.results, PinnedWeights).value


def list_pin_keys(storage: Storage, layout: Layout) -> frozenset[str]:
    """The keys of all `results.json`, by one listing. Raises ServiceError."""
    listed = (item.key for item in storage.list(layout.run_records))
    return frozenset(key for key in listed if key.endswith("/results.json"))


def pin_weights(storage: Storage, keys: RunKeys, weights: StoredWeights, steps: int) -> PinnedWeights | None:
    """Record these weights, which were verified. Returns the record: another process may have been first.

    The digest is that of done.json, which a download is compared with, or else is computed. None if they change meanwhile. Raises ServiceError.
    """
    done = read_record(storage, keys.done, DoneRecord).value
    digests = (done.digests(len(weights.files)) if done else None) or file_digests(storage, weights)
    if digests is None:
        return None
    pin = PinnedWeights.of(digests, weights.size, steps, weights.etag)
    try:
        storage.put_bytes(keys.results, pin.to_json(), if_none_match=True)
    except Conflict:
        return read_pin(storage, keys)
    return pin


def accept_weights(
    storage: Storage, keys: RunKeys, weights: StoredWeights, steps: int, earlier: PinnedWeights | None
) -> PinnedWeights | None:
    """Record these weights in place of the `earlier` ones, if there were any. None if they change meanwhile. Raises ServiceError.

    Their digest is computed: done.json may name another.
    """
    digests = file_digests(storage, weights)
    if digests is None:
        return None
    pin = PinnedWeights.of(digests, weights.size, steps, weights.etag)
    if earlier is not None:
        replaces = earlier.replaces if earlier.sha256 == pin.sha256 else earlier.sha256
        pin = pin.model_copy(update={"replaces": replaces})
    storage.put_bytes(keys.results, pin.to_json())
    return pin


def file_digests(storage: Storage, weights: StoredWeights) -> tuple[str, ...] | None:
    """The SHA-256 of each file; None if one changes meanwhile. Raises ServiceError."""
    found = [_digest(storage, file) for file in weights.files]
    digests = tuple(digest for digest in found if digest)
    return digests if len(digests) == len(found) else None


def _digest(storage: Storage, weights: ObjectInfo) -> str | None:
    """None if the object is no longer the same at the end."""
    digest = hashlib.sha256()
    for start in range(0, weights.size, PART_BYTES):
        digest.update(storage.get_range(weights.key, start, PART_BYTES))
    now = storage.head(weights.key)
    return digest.hexdigest() if now and (now.size, now.etag) == (weights.size, weights.etag) else None
