"""One immutable set of images in the bucket. Sent once, whatever number of jobs trains on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.messages import Pulse, inform, progress
from components.provider import FluxProvider, Props, inputs_of, replace_on
from flux_training.clients.bulk import Outgoing
from flux_training.clients.datasets import is_complete, missing
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import Image, dataset_index, parse_dataset_index
from flux_training.training.errors import FluxError
from flux_training.training.jobs.folder import ImageSet, read_images
from flux_training.training.runs.run import Layout

# What taking it down, and looking at it, need besides the id, which is the digest; a thousand of them make the state long enough.
OUTPUTS = ("home", "bucket", "prefix", "name")
INDEXES_AT_ONCE = 16
# The type of the component that all datasets are below.
PIPELINE = "flux:index:TrainingPipeline"


class DatasetProvider(FluxProvider):
    def diff(self, id_: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        # The old one last: its images are copied from, and its jobs have to go before it does.
        seen = {**olds, "digest": id_} if "digest" in news else olds
        return replace_on(("bucket", "prefix", "digest"), seen, news, old_first=False)

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        # Before the first image: an upload that dies half-way is then still ours to take down.
        storage.put_bytes(_reference(layout, props["digest"], props["name"]), b"{}")
        if not is_complete(storage, layout, props["digest"]):
            image_set = read_images(Path(props["folder"]).parent)
            if image_set.digest != props["digest"]:
                raise FluxError(f"{props['folder']} changed while the update was running", "", "run it again")
            urn = dataset_urn(props["owner"], props["name"])
            send(storage, layout, image_set, lambda text: progress(text, urn))
        return CreateResult(props["digest"], inputs_of(props, OUTPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        storage = self.connection.storage(props["bucket"])
        if not storage.exists() or not is_complete(storage, Layout(props["prefix"]), id_):
            return ReadResult("", {})
        # No inputs: a set of images that is whole cannot have drifted from what was declared.
        return ReadResult(id_, inputs_of(props, OUTPUTS))

    def update(self, _id: str, _olds: Props, news: Props) -> UpdateResult:
        # Only where the folder lies has changed: the images are the same, or this would be a replacement.
        return UpdateResult(inputs_of(news, OUTPUTS))

    def delete(self, digest: str, props: Props) -> None:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        self.check_home(props)
        if not storage.exists():
            return
        storage.delete_many([_reference(layout, digest, props["name"])])
        if next(iter(storage.list(layout.dataset_references(digest))), None) is not None:
            return
        if self._is_being_trained_on(props["bucket"], layout.dataset(digest)):
            inform(f"the images of dataset {digest[:12]} stay: an unfinished run still trains on them")
            return
        # The index first: what is left of an interrupted removal can then never pass for a whole dataset.
        storage.delete_many([layout.dataset_index(digest)])
        storage.delete_many([item.key for item in storage.list(layout.dataset(digest))])

    def _is_being_trained_on(self, bucket: str, dataset: str) -> bool:
        """One listing: of two, by status, a job that changes hands in between can be in neither."""
        return any(
            rule.bucket == bucket and rule.prefix.rstrip("/") == dataset.rstrip("/")
            for job in self.connection.kelpie().list_jobs()
            if job.unfinished
            for rule in job.sync.before
        )


def send(storage: Storage, layout: Layout, image_set: ImageSet, tell: Callable[[str], None]) -> None:
    """Bring every image that is not there yet: copied inside the bucket where another dataset has it, else uploaded.

    The index is written last, and only when all of them are seen in the bucket.
    """
    folder = layout.dataset(image_set.digest)
    todo = missing(storage, layout, image_set.digest, image_set.images)
    shelf = shelf_of(storage, layout)
    copies = [
        (source, folder + name)
        for name in todo
        if (source := shelf.place_of(image_set.images[name])) and source != folder + name
    ]
    if copies:
        storage.copy_many(copies, Pulse("copying", len(copies), 0, tell).told)
        # What was not where its index says, or not whole, comes from here after all.
        todo_now = missing(storage, layout, image_set.digest, image_set.images)
    else:
        todo_now = todo
    images = [image_set.images[name] for name in todo_now]
    files = [Outgoing(image_set.folder / i.name, folder + i.name, i.size, i.sha256) for i in images]
    size = sum(file.size for file in files)
    storage.send_files(files, Pulse("uploading", len(files), size, tell).told)
    still_missing = missing(storage, layout, image_set.digest, image_set.images) if todo else []
    if still_missing:
        raise FluxError(
            f"the bucket lacks {', '.join(still_missing)} after the upload",
            "a dataset is only used when every image is there",
            "run it again",
        )
    storage.put_bytes(layout.dataset_index(image_set.digest), dataset_index(image_set.images))
    shelf.add(image_set)


class Shelf:
    """Which images the datasets of a bucket hold: read once a process, when the first image is to be brought, and kept up to date.

    Thread-safe. What it says is a hint: a copy may find nothing there.
    """

    def __init__(self, storage: Storage, layout: Layout) -> None:
        self._storage, self._layout = storage, layout
        self._lock = Lock()
        self._known: dict[tuple[str, int], str] | None = None

    def place_of(self, image: Image) -> str | None:
        """The key below which the bucket should have the image."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
            return self._known.get((image.sha256, image.size))

    def add(self, image_set: ImageSet) -> None:
        with self._lock:
            if self._known is not None:
                self._known |= self._places(image_set.digest, image_set.images)

    def _read(self) -> dict[tuple[str, int], str]:
        indexes = [item.key for item in self._storage.list(self._layout.dataset_indexes)]
        with ThreadPoolExecutor(INDEXES_AT_ONCE) as pool:
            raw = list(pool.map(self._storage.get_bytes, indexes))
        found: dict[tuple[str, int], str] = {}
        for key, content in zip(indexes, raw, strict=True):
            digest = key.removeprefix(self._layout.dataset_indexes).removesuffix(".json")
            with suppress(ValueError):
                found |= self._places(digest, parse_dataset_index(content or b"{}"))
        return found

    def _places(self, digest: str, images: Mapping[str, Image]) -> dict[tuple[str, int], str]:
        folder = self._layout.dataset(digest)
        return {(image.sha256, image.size): folder + name for name, image in images.items()}


_shelves: dict[tuple[str, str, str], Shelf] = {}
_shelves_lock = Lock()


def shelf_of(storage: Storage, layout: Layout) -> Shelf:
    """One for all the datasets of a stack: a thousand of them read the indexes once."""
    with _shelves_lock:
        place = (storage.endpoint_url or "", storage.bucket, layout.prefix)
        return _shelves.setdefault(place, Shelf(storage, layout))


def _reference(layout: Layout, digest: str, name: str) -> str:
    """Says that the dataset resource of this name wants the images: two resources may want the same ones."""
    return f"{layout.dataset_references(digest)}{name}.json"


def dataset_urn(owner: str, name: str) -> str:
    """The URN of a stack's dataset, which its provider is not told. `owner`: `<project>/<stack>`."""
    project, _, stack = owner.rpartition("/")
    return f"urn:pulumi:{stack}::{project}::{PIPELINE}$pulumi-python:{Dataset._resource_type_name}::{name}"


class Dataset(Resource, module="flux", name="Dataset"):
    """Its Pulumi id is the digest of its images. Named after the first declared job that has them."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(DatasetProvider(), name, props, opts)
