"""Which images are in the bucket: those of one dataset, and those of all datasets.

Nodes can write datasets/, but not the records in `.flux/datasets/`. A record has each object's ETag from the upload of the
image, so that a listing shows whether an object was replaced (docs/services.md explains how far ETags can be trusted).
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from flux_training.clients.records import read_bounded
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.dataset.manifest import Image, canonical_json, dataset_digest
from flux_training.training.names import dataset_file
from flux_training.training.runs.run import Layout
from flux_training.training.untrusted import (
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_VALUES,
    Bytes,
    ETag,
    Sha256,
    UntrustedRecord,
    parse_record,
)

PARALLEL_READS = 16
MAX_OTHERS = 10_000
MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredImage:
    """An image as its dataset's record has it. `etag` is empty in records of versions that did not record it."""

    image: Image
    etag: str = ""

    def is_unchanged(self, found: ObjectInfo | None) -> bool:
        return found is not None and found.size == self.image.size and self.etag in ("", found.etag)


def dataset_record_bytes(images: Mapping[str, StoredImage]) -> bytes:
    """`.flux/datasets/<digest>.json`, which is written once every image is in the bucket."""
    entries = {
        name: {"size": one.image.size, "sha256": one.image.sha256, "etag": one.etag}
        for name, one in images.items()
    }
    return canonical_json({"version": 2, "images": entries})


def read_dataset(storage: Storage, layout: Layout, digest: str) -> dict[str, StoredImage] | None:
    """The dataset's record; None if there is none, or if it describes other images. Raises ServiceError."""
    raw = read_bounded(storage, layout.dataset_index(digest), MAX_MANIFEST_BYTES)
    found = parse_dataset_record(raw or b"")
    is_right = dataset_digest({name: one.image for name, one in found.items()}) == digest
    return found if is_right else None


class ImageRecord(UntrustedRecord):
    """An image in a dataset's record."""

    size: Bytes
    sha256: Sha256
    etag: ETag = ""


class DatasetRecord(UntrustedRecord):
    """`.flux/datasets/<digest>.json`: the images by name."""

    images: dict[str, ImageRecord]


def parse_dataset_record(raw: bytes) -> dict[str, StoredImage]:
    """Empty if it is not a record."""
    found = parse_record(raw, DatasetRecord, MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES).value
    entries = found.images if found else {}
    return {name: StoredImage(Image(name, one.size, one.sha256), one.etag) for name, one in entries.items()}


def list_stored_images(
    storage: Storage, layout: Layout, digest: str, names: Collection[str]
) -> dict[str, ObjectInfo]:
    """The objects of the dataset with these names. Raises ServiceError.

    Nodes can make others there: beyond MAX_OTHERS of them, each image that was not listed is looked up on its own.
    """
    folder, wanted = layout.dataset(digest), set(names)
    found: dict[str, ObjectInfo] = {}
    last = folder + max(wanted, default="")
    limit = len(wanted) + MAX_OTHERS
    for number, item in enumerate(storage.list(folder)):
        if number == limit:
            missing = sorted(wanted - found.keys())
            looked_up = {name: storage.head(folder + name) for name in missing}
            return found | {name: one for name, one in looked_up.items() if one}
        if (name := item.key.removeprefix(folder)) in wanted:
            found[name] = item
        if item.key >= last:
            break
    return found


def is_dataset_complete(storage: Storage, layout: Layout, digest: str) -> bool:
    """Whether the dataset has a record, and every object is as recorded. Raises ServiceError."""
    record = read_dataset(storage, layout, digest)
    return record is not None and not changed_or_missing_images(
        record, list_stored_images(storage, layout, digest, record)
    )


def changed_or_missing_images(
    record: Mapping[str, StoredImage], present: Mapping[str, ObjectInfo]
) -> list[str]:
    """The names of the images that are missing or not as recorded."""
    return [name for name, one in sorted(record.items()) if not one.is_unchanged(present.get(name))]


def etags_of_sound_images(
    folder: Path, wanted: Mapping[str, StoredImage], present: Mapping[str, ObjectInfo]
) -> dict[str, str]:
    """The ETags of the images whose object is known to have the right bytes, by name.

    Without a recorded ETag the object's own has to be the MD5 of the file in `folder` or beside it.
    """
    sound = {}
    for name, one in wanted.items():
        found = present.get(name)
        if (
            found is not None
            and one.is_unchanged(found)
            and (one.etag or _is_md5_of(found.etag, dataset_file(folder, name)))
        ):
            sound[name] = found.etag
    return sound


def _is_md5_of(etag: str, path: Path) -> bool:
    if not MD5.fullmatch(etag):
        return False
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == etag
    except OSError:
        return False


@dataclass(frozen=True)
class ImageSource:
    """An object that should be the wanted image. `etag` is empty if it was not recorded."""

    key: str
    etag: str


class ImageIndex:
    """The images of all datasets in a bucket, read from their records at the first use. Thread-safe.

    A record says only what was uploaded once: the object may have been deleted or replaced since.
    """

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self._storage, self._layout = storage, layout
        self._lock = Lock()
        self._sources: dict[tuple[str, int], ImageSource] | None = None

    def source_of(self, image: Image) -> ImageSource | None:
        """Where the bucket should have the image."""
        with self._lock:
            if self._sources is None:
                self._sources = self._read()
            return self._sources.get((image.sha256, image.size))

    def add(self, digest: str, images: Mapping[str, StoredImage]) -> None:
        with self._lock:
            if self._sources is not None:
                self._sources |= self._sources_of(digest, images)

    def _read(self) -> dict[tuple[str, int], ImageSource]:
        records = [item.key for item in self._storage.list(self._layout.dataset_indexes)]
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            raw = list(pool.map(lambda key: read_bounded(self._storage, key, MAX_MANIFEST_BYTES), records))
        found: dict[tuple[str, int], ImageSource] = {}
        for key, content in zip(records, raw, strict=True):
            digest = key.removeprefix(self._layout.dataset_indexes).removesuffix(".json")
            found |= self._sources_of(digest, parse_dataset_record(content or b""))
        return found

    def _sources_of(
        self, digest: str, images: Mapping[str, StoredImage]
    ) -> dict[tuple[str, int], ImageSource]:
        folder = self._layout.dataset(digest)
        return {
            (one.image.sha256, one.image.size): ImageSource(folder + name, one.etag)
            for name, one in images.items()
        }
