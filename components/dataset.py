"""One immutable set of images in the bucket, uploaded once for all jobs that train on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from components.messages import TransferProgress, inform, progress
from components.properties import Properties, carry_over, is_known
from components.provider import FluxProvider, FluxResource
from flux_training.clients.bulk import Outgoing
from flux_training.clients.datasets import ImageIndex, is_complete, missing
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import dataset_index
from flux_training.training.errors import FluxError
from flux_training.training.jobs.folder import ImageSet, read_images
from flux_training.training.runs.run import Layout

# The type of the component that contains all datasets.
PIPELINE = "flux:index:TrainingPipeline"


@dataclass(frozen=True, kw_only=True)
class DatasetState(Properties):
    """Only what `read` and `delete` need besides the id (the digest): this is stored once per dataset."""

    bucket: str
    prefix: str
    name: str

    @property
    def layout(self) -> Layout:
        return Layout(self.prefix)


@dataclass(frozen=True, kw_only=True)
class DatasetArgs(DatasetState):
    """`folder` is the `dataset/` folder of a job; `images` is their number."""

    folder: str
    digest: str
    images: int
    owner: str


class DatasetProvider(FluxProvider[DatasetArgs, DatasetState]):
    args_class = DatasetArgs
    state_class = DatasetState
    replaced_by = ("bucket", "prefix")
    # Images are copied from the old dataset, and its jobs must be deleted before it is.
    deletes_before_replacing = False
    # A complete dataset cannot differ from what was declared.
    reads_inputs = False

    def changed(self, id_: str, old: DatasetState, new: DatasetArgs) -> list[str]:
        digest = ["digest"] if is_known(new.digest) and new.digest != id_ else []
        return super().changed(id_, old, new) + digest

    def make(self, args: DatasetArgs) -> tuple[str, DatasetState]:
        storage, layout = self.connection.storage(args.bucket), args.layout
        # Before the first image, so that an interrupted upload can be deleted.
        storage.put_bytes(_reference(layout, args.digest, args.name), b"{}")
        if not is_complete(storage, layout, args.digest):
            image_set = read_images(Path(args.folder).parent)
            if image_set.digest != args.digest:
                raise FluxError(f"{args.folder} changed while the update was running", "", "run it again")
            urn = dataset_urn(args.owner, args.name)
            upload(storage, layout, image_set, lambda text: progress(text, urn))
        return args.digest, carry_over(DatasetState, args)

    def find(self, id_: str, state: DatasetState) -> DatasetState | None:
        storage = self.connection.storage(state.bucket)
        return state if storage.exists() and is_complete(storage, state.layout, id_) else None

    def remove(self, id_: str, state: DatasetState) -> None:
        storage, layout = self.connection.storage(state.bucket), state.layout
        if not storage.exists():
            return
        storage.delete_many([_reference(layout, id_, state.name)])
        if next(iter(storage.list(layout.dataset_references(id_))), None) is not None:
            return
        if self._is_in_use(state.bucket, layout.dataset(id_)):
            inform(f"the images of dataset {id_[:12]} are kept: an unfinished run still trains on them")
            return
        # Delete the index first: what an interrupted deletion leaves is never taken for a complete dataset.
        storage.delete_many([layout.dataset_index(id_)])
        storage.delete_many([item.key for item in storage.list(layout.dataset(id_))])

    def _is_in_use(self, bucket: str, dataset: str) -> bool:
        """By one listing of all jobs: a job that changes its status between two listings by status could be in neither."""
        return any(
            rule.bucket == bucket and rule.prefix.rstrip("/") == dataset.rstrip("/")
            for job in self.connection.kelpie().list_jobs()
            if job.unfinished
            for rule in job.sync.before
        )


def upload(storage: Storage, layout: Layout, image_set: ImageSet, on_progress: Callable[[str], None]) -> None:
    """Bring every missing image into the bucket, copied inside it from another dataset where possible.

    The index is written last, once all images are seen in the bucket.
    """
    folder, images = layout.dataset(image_set.digest), image_set.images
    index = image_index_of(storage, layout)
    wanted = missing(storage, layout, image_set.digest, images)
    sources = {name: index.key_of(images[name]) for name in wanted}
    copies = [(key, folder + name) for name, key in sources.items() if key and key != folder + name]
    left = wanted
    if copies:
        storage.copy_many(copies, TransferProgress("copying", len(copies), 0, on_progress).add)
        # Images that were not where their index says are uploaded after all.
        left = missing(storage, layout, image_set.digest, images)
    files = [
        Outgoing(image_set.folder / name, folder + name, images[name].size, images[name].sha256)
        for name in left
    ]
    size = sum(file.size for file in files)
    storage.send_files(files, TransferProgress("uploading", len(files), size, on_progress).add)
    if wanted and (absent := missing(storage, layout, image_set.digest, images)):
        raise FluxError(
            f"the bucket lacks {', '.join(absent)} after the upload",
            "a dataset is used only if it is complete",
            "run it again",
        )
    storage.put_bytes(layout.dataset_index(image_set.digest), dataset_index(images))
    index.add(image_set.digest, images)


_indexes: dict[tuple[str, str, str], ImageIndex] = {}
_indexes_lock = Lock()


def image_index_of(storage: Storage, layout: Layout) -> ImageIndex:
    """One for all datasets of a stack in this process, so that a thousand of them read the indexes once."""
    with _indexes_lock:
        place = (storage.endpoint_url or "", storage.bucket, layout.prefix)
        return _indexes.setdefault(place, ImageIndex(storage, layout))


def _reference(layout: Layout, digest: str, name: str) -> str:
    """Records that the dataset resource of this name needs the images: several resources may need the same."""
    return f"{layout.dataset_references(digest)}{name}.json"


def dataset_urn(owner: str, name: str) -> str:
    """The URN of a stack's dataset, which Pulumi does not pass to its provider. `owner`: `<project>/<stack>`."""
    project, _, stack = owner.rpartition("/")
    return f"urn:pulumi:{stack}::{project}::{PIPELINE}$pulumi-python:{Dataset._resource_type_name}::{name}"


class Dataset(FluxResource[DatasetArgs], module="flux", name="Dataset"):
    """Its Pulumi id is the digest of its images. Named after the first declared job that has them."""

    provider_class = DatasetProvider
