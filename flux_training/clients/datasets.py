"""Which images are in the bucket: those of one dataset, and those of all."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import Image, parse_dataset_index
from flux_training.training.runs.run import Layout

PARALLEL_READS = 16


def is_complete(storage: Storage, layout: Layout, digest: str) -> bool:
    """Whether the dataset's index exists, and every image in it is in the bucket with its size."""
    raw = storage.get_bytes(layout.dataset_index(digest))
    if raw is None:
        return False
    try:
        images = parse_dataset_index(raw)
    except ValueError:
        return False
    return not missing(storage, layout, digest, images)


def missing(storage: Storage, layout: Layout, digest: str, images: Mapping[str, Image]) -> list[str]:
    """The names of the images that are not in the bucket, or have another size there."""
    folder = layout.dataset(digest)
    present = {item.key.removeprefix(folder): item.size for item in storage.list(folder)}
    return [name for name, image in sorted(images.items()) if present.get(name) != image.size]


class ImageIndex:
    """The images of all datasets in a bucket, read from their indexes at the first use. Thread-safe.

    An index says only what was uploaded once: the object may have been deleted since.
    """

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self._storage, self._layout = storage, layout
        self._lock = Lock()
        self._keys: dict[tuple[str, int], str] | None = None

    def key_of(self, image: Image) -> str | None:
        """The key below which the bucket should have the image."""
        with self._lock:
            if self._keys is None:
                self._keys = self._read()
            return self._keys.get((image.sha256, image.size))

    def add(self, digest: str, images: Mapping[str, Image]) -> None:
        with self._lock:
            if self._keys is not None:
                self._keys |= self._keys_of(digest, images)

    def _read(self) -> dict[tuple[str, int], str]:
        indexes = [item.key for item in self._storage.list(self._layout.dataset_indexes)]
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            raw = list(pool.map(self._storage.get_bytes, indexes))
        found: dict[tuple[str, int], str] = {}
        for key, content in zip(indexes, raw, strict=True):
            digest = key.removeprefix(self._layout.dataset_indexes).removesuffix(".json")
            with suppress(ValueError):
                found |= self._keys_of(digest, parse_dataset_index(content or b"{}"))
        return found

    def _keys_of(self, digest: str, images: Mapping[str, Image]) -> dict[tuple[str, int], str]:
        folder = self._layout.dataset(digest)
        return {(image.sha256, image.size): folder + name for name, image in images.items()}
