"""Weights that were verified before, remembered by ETag in `.flux-cache/`.

Without it a preview of 200 finished runs reads another 32 MB of headers (measured: 3.1 s instead of 1.6 s, with storage on the same machine).
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.dataset.image_cache import CACHE_FOLDER, is_cache_off, write_cache_file
from flux_training.training.runs import weights

CACHE_FILE = "weights.json"
# The version of the validity rules. Increase it when they change, so that all cached entries become invalid.
VERSION = hashlib.sha256(Path(weights.__file__).read_bytes()).hexdigest()[:16]
# The maximum number of entries, each of about a hundred bytes.
MAX_ENTRIES = 10_000


class VerifiedWeightsCache:
    """Thread-safe. With `place` None nothing is remembered; a file that cannot be read counts as empty."""

    def __init__(self, place: Path | None, entries: dict[str, str]) -> None:
        self._place = place
        self._entries = entries
        self._lock = threading.Lock()
        self._changed = False

    @staticmethod
    def load() -> VerifiedWeightsCache:
        """From the current directory (the checkout), unless the cache is off."""
        if is_cache_off():
            return VerifiedWeightsCache(None, {})
        place = Path(CACHE_FOLDER) / CACHE_FILE
        try:
            document = json.loads(place.read_bytes())
            entries = {str(key): str(etag) for key, etag in document["etags"].items()}
            return VerifiedWeightsCache(place, entries if document["version"] == VERSION else {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return VerifiedWeightsCache(place, {})

    def knows(self, storage: Storage, info: ObjectInfo, steps: int) -> bool:
        if self._place is None:
            return False
        with self._lock:
            return bool(info.etag) and self._entries.get(_key(storage, info, steps)) == info.etag

    def add(self, storage: Storage, info: ObjectInfo, steps: int) -> None:
        if self._place is None:
            return
        with self._lock:
            self._entries[_key(storage, info, steps)] = info.etag
            self._changed = True

    def save(self) -> None:
        if self._place is None or not self._changed:
            return
        newest = dict(list(self._entries.items())[-MAX_ENTRIES:])
        text = json.dumps({"version": VERSION, "etags": newest}, separators=(",", ":"))
        self._changed = not write_cache_file(self._place, text.encode())


NOTHING_VERIFIED = VerifiedWeightsCache(None, {})


def _key(storage: Storage, info: ObjectInfo, steps: int) -> str:
    return f"{storage.endpoint_url or 'S3'} {storage.bucket} {info.key} {info.size} {steps}"
