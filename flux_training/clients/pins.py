"""Records the weights of a run that were verified first, in `.flux/runs/<job>/<run id>/results.json`."""

import hashlib

from flux_training.clients.errors import Conflict
from flux_training.clients.records import read_record
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.records import DoneRecord
from flux_training.training.runs.run import Layout, RunKeys

PART_BYTES = 16 * 1024 * 1024


def read_pin(storage: Storage, keys: RunKeys) -> PinnedWeights | None:
    """None if the run has no record. Raises ServiceError."""
    return read_record(storage, keys.results, PinnedWeights).value


def pinned_keys(storage: Storage, layout: Layout) -> frozenset[str]:
    """The keys of all `results.json`, by one listing. Raises ServiceError."""
    listed = (item.key for item in storage.list(layout.run_records))
    return frozenset(key for key in listed if key.endswith("/results.json"))


def pin_weights(storage: Storage, keys: RunKeys, weights: ObjectInfo, steps: int) -> PinnedWeights | None:
    """Record these weights, which were verified. Returns the record: another process may have been first.

    The digest is that of done.json, which a download is compared with, or else is computed. None if they change meanwhile. Raises ServiceError.
    """
    done = read_record(storage, keys.done, DoneRecord).value
    sha256 = done.sha256 if done and done.sha256 else _digest(storage, weights)
    if sha256 is None:
        return None
    pin = PinnedWeights(sha256=sha256, size=weights.size, step=steps, etag=weights.etag)
    try:
        storage.put_bytes(keys.results, pin.to_json(), if_none_match=True)
    except Conflict:
        return read_pin(storage, keys)
    return pin


def accept_weights(
    storage: Storage, keys: RunKeys, weights: ObjectInfo, steps: int, earlier: PinnedWeights
) -> PinnedWeights | None:
    """Record these weights in place of the `earlier` ones. None if they change meanwhile. Raises ServiceError.

    Their digest is computed: done.json may name another.
    """
    sha256 = _digest(storage, weights)
    if sha256 is None:
        return None
    replaces = earlier.replaces if earlier.sha256 == sha256 else earlier.sha256
    pin = PinnedWeights(sha256=sha256, size=weights.size, step=steps, etag=weights.etag, replaces=replaces)
    storage.put_bytes(keys.results, pin.to_json())
    return pin


def _digest(storage: Storage, weights: ObjectInfo) -> str | None:
    """The SHA-256 of the object; None if it is no longer the same at the end."""
    digest = hashlib.sha256()
    for start in range(0, weights.size, PART_BYTES):
        digest.update(storage.get_range(weights.key, start, PART_BYTES))
    now = storage.head(weights.key)
    return digest.hexdigest() if now and (now.size, now.etag) == (weights.size, weights.etag) else None
