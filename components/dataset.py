"""One immutable set of images in the bucket. Sent once, whatever number of jobs trains on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from clients.datasets import images_elsewhere, is_complete, missing
from clients.storage import Storage
from components.messages import inform, progress
from components.provider import FluxProvider, Props, inputs_of, replace_on
from training.errors import FluxError
from training.folder import ImageSet, read_images
from training.manifest import dataset_index
from training.run import Layout

INPUTS = ("home", "bucket", "prefix", "name", "folder", "digest", "images", "bytes", "urn")


class DatasetProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        # The old one last: its images are copied from, and its jobs have to go before it does.
        return replace_on(("bucket", "prefix", "digest"), olds, news, old_first=False)

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        # Before the first image: an upload that dies half-way is then still ours to take down.
        storage.put_bytes(_reference(layout, props), b"{}")
        if not is_complete(storage, layout, props["digest"]):
            image_set = read_images(Path(props["folder"]).parent)
            if image_set.digest != props["digest"]:
                raise FluxError(f"{props['folder']} changed while the update was running", "", "run it again")
            urn = props["urn"]
            send(storage, layout, image_set, lambda text: progress(text, urn))
        return CreateResult(props["digest"], inputs_of(props, INPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        storage = self.connection.storage(props["bucket"])
        if not storage.exists() or not is_complete(storage, Layout(props["prefix"]), props["digest"]):
            return ReadResult("", {})
        outputs = inputs_of(props, INPUTS)
        return ReadResult(id_, outputs, outputs)

    def update(self, _id: str, _olds: Props, news: Props) -> UpdateResult:
        # Only where the folder lies has changed: the images are the same, or this would be a replacement.
        return UpdateResult(inputs_of(news, INPUTS))

    def delete(self, _id: str, props: Props) -> None:
        storage = self.connection.storage(props["bucket"])
        layout = Layout(props["prefix"])
        digest = props["digest"]
        self.check_home(props)
        if not storage.exists():
            return
        storage.delete_many([_reference(layout, props)])
        if next(iter(storage.list(layout.dataset_references(digest))), None) is not None:
            return
        if self._is_being_trained_on(props["bucket"], layout.dataset(digest)):
            inform(f"the images of dataset {digest[:12]} stay: an unfinished run still trains on them")
            return
        # The index first: what is left of an interrupted removal can then never pass for a whole dataset.
        storage.delete_many([layout.dataset_index(digest)])
        storage.delete_many([item.key for item in storage.list(layout.dataset(digest))])

    def _is_being_trained_on(self, bucket: str, dataset: str) -> bool:
        kelpie = self.connection.kelpie()
        return any(
            rule.bucket == bucket and rule.prefix.rstrip("/") == dataset.rstrip("/")
            for status in ("pending", "running")
            for job in kelpie.list_jobs(status=status)
            if job.sync is not None
            for rule in job.sync.before
        )


def send(storage: Storage, layout: Layout, image_set: ImageSet, tell: Callable[[str], None]) -> None:
    """Bring every image that is not there yet: copied inside the bucket where another dataset has it, else uploaded.

    The index is written last, and only when all of them are seen in the bucket.
    """
    folder = layout.dataset(image_set.digest)
    todo = missing(storage, layout, image_set.digest, image_set.images)
    elsewhere = images_elsewhere(storage, layout) if todo else {}
    for number, name in enumerate(todo, 1):
        image = image_set.images[name]
        source = elsewhere.get((image.sha256, image.size))
        tell(f"{'copying' if source else 'uploading'} {name} ({number} of {len(todo)})")
        if source:
            storage.copy(source, folder + name)
        else:
            storage.put_file(folder + name, image_set.folder / name, sha256=image.sha256)
    still_missing = missing(storage, layout, image_set.digest, image_set.images)
    if still_missing:
        raise FluxError(
            f"the bucket lacks {', '.join(still_missing)} after the upload",
            "a dataset is only used when every image is there",
            "run it again",
        )
    storage.put_bytes(layout.dataset_index(image_set.digest), dataset_index(image_set.images))


def _reference(layout: Layout, props: Props) -> str:
    """Says that the dataset resource of this name wants the images: two resources may want the same ones."""
    return f"{layout.dataset_references(props['digest'])}{props['name']}.json"


class Dataset(Resource, module="flux", name="Dataset"):
    """Named after the first declared job that has these images."""

    digest: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(DatasetProvider(), name, props, opts)
