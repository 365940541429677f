"""One immutable set of images in the bucket, uploaded once for all jobs that train on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from components.messages import TransferProgress, inform, show_progress
from components.properties import Properties, copy_shared_fields, is_known
from components.provider import FluxProvider, FluxResource
from flux_training.clients.bulk import FileToUpload
from flux_training.clients.datasets import (
    ImageIndex,
    StoredImage,
    changed_or_missing_images,
    dataset_record_bytes,
    etags_of_sound_images,
    is_dataset_complete,
    list_stored_images,
    read_dataset,
)
from flux_training.clients.kelpie import Job
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import Image
from flux_training.training.errors import FluxError
from flux_training.training.jobs.folder import ImageSet, read_images
from flux_training.training.names import dataset_file
from flux_training.training.runs.run import Layout
from flux_training.training.words import counted

# The resource type of the component that is the parent of all datasets.
PIPELINE = "flux:index:TrainingPipeline"
# The maximum number of image names that one message lists.
MAX_NAMES = 5


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
    # Create the new dataset before deleting the old one: images are copied from the old one, and its jobs must be deleted
    # first.
    deletes_before_replacing = False
    # A dataset is written only once it is complete, so `read` cannot find differences from the declared inputs.
    reads_inputs = False

    def changed(self, id_: str, old: DatasetState, new: DatasetArgs) -> list[str]:
        digest = ["digest"] if is_known(new.digest) and new.digest != id_ else []
        return super().changed(id_, old, new) + digest

    def create_or_adopt(self, args: DatasetArgs) -> tuple[str, DatasetState]:
        storage, layout = self.connection.storage(args.bucket), args.layout
        # Write the reference before uploading the first image, so that `destroy` can delete an interrupted upload.
        storage.put_bytes(_reference(layout, args.digest, args.name), b"{}")
        if not is_dataset_complete(storage, layout, args.digest):
            images = Path(args.folder).parent
            image_set = read_images(images, images.parent / args.name)
            if image_set.digest != args.digest:
                raise FluxError(
                    f"{args.folder} changed while the update was running", "", "run the same command again"
                )
            urn = dataset_urn(args.owner, args.name)
            names = upload_images(storage, layout, image_set, lambda text: show_progress(text, urn))
            if names:
                inform(upload_again_message(args.name, names))
        return args.digest, copy_shared_fields(DatasetState, args)

    def find(self, id_: str, state: DatasetState) -> DatasetState | None:
        storage = self.connection.storage(state.bucket)
        return state if storage.exists() and is_dataset_complete(storage, state.layout, id_) else None

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
        # Delete the index first, so that an interrupted deletion does not leave what looks like a complete dataset.
        storage.delete_many([layout.dataset_index(id_)])
        storage.delete_below(layout.dataset(id_))

    def _is_in_use(self, bucket: str, dataset: str) -> bool:
        """Whether an unfinished job downloads the dataset.

        Uses one listing of all jobs, because a job that changes its status between two listings by status could be missing from
        both.
        """
        jobs = self.connection.kelpie().list_jobs()
        return any((bucket, dataset.rstrip("/")) in downloads_of(job) for job in jobs if job.unfinished)


def downloads_of(job: Job) -> set[tuple[str, str]]:
    """The (bucket, prefix without trailing slash) pairs that a job's node downloads.

    The launcher downloads the images. For jobs queued before version 0.2.0 the worker does.
    """
    images = job.environment.get("FLUX_BUCKET", ""), job.environment.get("FLUX_DATASET_PREFIX", "")
    places = [images, *((rule.bucket, rule.prefix) for rule in job.sync.before)]
    return {(bucket, prefix.rstrip("/")) for bucket, prefix in places}


def upload_images(
    storage: Storage, layout: Layout, image_set: ImageSet, on_progress: Callable[[str], None]
) -> list[str]:
    """Upload every missing image to the bucket, or copy it from another dataset there.

    The record is written last, once the bucket is seen to have all images. Returns the names of the images that had been
    recorded before but were missing or had been replaced.
    """
    digest, images, folder = image_set.digest, image_set.images, image_set.folder
    record = read_dataset(storage, layout, digest) or {}
    known = {name: record.get(name, StoredImage(image)) for name, image in images.items()}
    present = list_stored_images(storage, layout, digest, images)
    etags = etags_of_sound_images(folder, known, present)
    wanted = {name: image for name, image in images.items() if name not in etags}
    if wanted:
        etags |= _copy(storage, layout, image_set, wanted, on_progress)
        left = {name: image for name, image in wanted.items() if name not in etags}
        etags |= _send(storage, layout, image_set, left, on_progress)
        present = list_stored_images(storage, layout, digest, images)
    expected = {name: StoredImage(image, etags[name]) for name, image in images.items()}
    if absent := changed_or_missing_images(expected, present):
        raise FluxError(
            f"after the upload, these images are missing or different in the bucket: {', '.join(absent)}",
            "jobs can only train on a complete dataset",
            "run the same command again",
        )
    finished = {name: StoredImage(image, present[name].etag) for name, image in images.items()}
    storage.put_bytes(layout.dataset_index(digest), dataset_record_bytes(finished))
    shared_image_index(storage, layout).add(digest, finished)
    return sorted(wanted.keys() & record.keys())


def _copy(
    storage: Storage,
    layout: Layout,
    image_set: ImageSet,
    wanted: Mapping[str, Image],
    on_progress: Callable[[str], None],
) -> dict[str, str]:
    """Copy images from other datasets in the bucket. Returns the ETags of the copies.

    Some sources may turn out to be missing or different when they are copied; those images are left out.
    """
    index, folder = shared_image_index(storage, layout), layout.dataset(image_set.digest)
    found = {name: index.source_of(image) for name, image in wanted.items()}
    sources = {name: source for name, source in found.items() if source and source.key != folder + name}
    if not sources:
        return {}
    pairs = [(source.key, folder + name) for name, source in sources.items()]
    storage.copy_many(pairs, TransferProgress("copying", len(pairs), 0, on_progress).add)
    expected = {name: StoredImage(wanted[name], source.etag) for name, source in sources.items()}
    return etags_of_sound_images(
        image_set.folder, expected, list_stored_images(storage, layout, image_set.digest, expected)
    )


def _send(
    storage: Storage,
    layout: Layout,
    image_set: ImageSet,
    images: Mapping[str, Image],
    on_progress: Callable[[str], None],
) -> dict[str, str]:
    folder = layout.dataset(image_set.digest)
    files = [
        FileToUpload(dataset_file(image_set.folder, name), folder + name, image.size, image.sha256)
        for name, image in images.items()
    ]
    size = sum(file.size for file in files)
    sent = storage.send_files(files, TransferProgress("uploading", len(files), size, on_progress).add)
    return {key.removeprefix(folder): etag for key, etag in sent.items()}


def upload_again_message(job: str, names: Sequence[str]) -> str:
    """The message that a job's images are uploaded again; empty if `names` is empty. `job` is the job that has the images."""
    if not names:
        return ""
    shown = ", ".join(names[:MAX_NAMES]) + " …" * (len(names) > MAX_NAMES)
    return f"{job}: {counted(len(names), 'image')} missing or changed in the bucket; uploading again: {shown}"


_indexes: dict[tuple[str, str, str], ImageIndex] = {}
_indexes_lock = Lock()


def shared_image_index(storage: Storage, layout: Layout) -> ImageIndex:
    """The index of images in a bucket.

    All datasets of a stack in this process share one, so that a thousand datasets read the records only once.
    """
    with _indexes_lock:
        place = (storage.endpoint_url or "", storage.bucket, layout.prefix)
        return _indexes.setdefault(place, ImageIndex(storage, layout))


def _reference(layout: Layout, digest: str, name: str) -> str:
    """The key of the object that says that a dataset resource needs the images. Several resources may need the same images."""
    return f"{layout.dataset_references(digest)}{name}.json"


def dataset_urn(owner: str, name: str) -> str:
    """The URN of a stack's dataset, which Pulumi does not pass to its provider. `owner`: `<project>/<stack>`."""
    project, _, stack = owner.rpartition("/")
    return f"urn:pulumi:{stack}::{project}::{PIPELINE}$pulumi-python:{Dataset._resource_type_name}::{name}"


class Dataset(FluxResource[DatasetArgs], module="flux", name="Dataset"):
    """Its Pulumi id is the digest of its images. Named after the first declared job that has them."""

    provider_class = DatasetProvider
