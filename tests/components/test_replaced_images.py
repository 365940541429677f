"""Images that somebody replaced in the bucket, with the keys of a node, against a real S3 server: found by one listing, sent again."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from components.dataset import upload_again_message, upload_images
from components.repair import repair_datasets
from flux_training.clients.connection import Connection
from flux_training.clients.datasets import is_dataset_complete, read_dataset
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import Survey
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import dataset_index
from flux_training.training.finding import LintReport
from flux_training.training.jobs.folder import ImageSet, read_images
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings, StorageSettings
from tests.components.groups import new_name
from tests.components.test_transfers import image_set
from tests.training.job_folders import add_folders, make_job

LAYOUT = Layout("p/")
VICTIM = "00003.jpg"


@pytest.fixture
def storage(connection: Connection) -> Storage:
    made = connection.storage(new_name())
    made.ensure()
    return made


def send(storage: Storage, images: ImageSet) -> list[str]:
    return upload_images(storage, LAYOUT, images, lambda _text: None)


def key_of(images: ImageSet, name: str = VICTIM) -> str:
    return LAYOUT.dataset(images.digest) + name


def replace(storage: Storage, images: ImageSet) -> None:
    """Other bytes of the same length."""
    storage.put_bytes(key_of(images), b"#" * images.images[VICTIM].size)


def is_right(storage: Storage, images: ImageSet) -> bool:
    return storage.get_bytes(key_of(images)) == (images.folder / VICTIM).read_bytes()


def test_the_record_has_size_etag_and_digest_of_each_object(storage: Storage, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    assert send(storage, images) == []
    etags = {item.key: item.etag for item in storage.list(LAYOUT.dataset(images.digest))}
    record = read_dataset(storage, LAYOUT, images.digest)
    assert record is not None
    assert {name: (one.image, one.etag) for name, one in record.items()} == {
        name: (image, etags[key_of(images, name)]) for name, image in images.images.items()
    }


def test_control_images_and_masks_are_checked_like_images(storage: Storage, tmp_path: Path) -> None:
    """A node replaces a control image by one of the same length, deletes a mask, and adds an image that no manifest names."""
    add_folders(make_job(tmp_path / "jobs", "edit"))
    images = read_images(tmp_path / "jobs/edit")
    send(storage, images)
    folder = LAYOUT.dataset(images.digest)
    storage.put_bytes(f"{folder}control/00001.png", b"#" * images.images["control/00001.png"].size)
    storage.delete_many([f"{folder}mask/00001.png"])
    storage.put_bytes(f"{folder}control/00009.png", b"another")
    assert not is_dataset_complete(storage, LAYOUT, images.digest)
    assert send(storage, images) == ["control/00001.png", "mask/00001.png"]
    assert is_dataset_complete(storage, LAYOUT, images.digest)
    for name in ("control/00001.png", "mask/00001.png"):
        assert storage.get_bytes(folder + name) == (tmp_path / "jobs/edit" / name).read_bytes()


def test_an_image_replaced_by_others_of_the_same_length_is_sent_again(
    storage: Storage, tmp_path: Path
) -> None:
    images = image_set(tmp_path)
    send(storage, images)
    replace(storage, images)
    assert not is_dataset_complete(storage, LAYOUT, images.digest)
    assert send(storage, images) == [VICTIM]
    assert is_right(storage, images)
    assert is_dataset_complete(storage, LAYOUT, images.digest)
    assert send(storage, images) == []


def test_an_image_placed_before_the_upload_is_not_believed(storage: Storage, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    replace(storage, images)
    assert send(storage, images) == []
    assert is_right(storage, images)


def test_a_replaced_image_is_not_copied_into_another_dataset(storage: Storage, tmp_path: Path) -> None:
    first, second = image_set(tmp_path / "1"), image_set(tmp_path / "2", changed=frozenset({7}))
    send(storage, first)
    replace(storage, first)
    send(storage, second)
    assert is_right(storage, second)


def test_a_record_without_etags_is_completed_and_what_was_replaced_is_sent_again(
    storage: Storage, tmp_path: Path
) -> None:
    """Older versions recorded sizes and digests only."""
    images = image_set(tmp_path)
    send(storage, images)
    storage.put_bytes(LAYOUT.dataset_index(images.digest), dataset_index(images.images))
    replace(storage, images)
    assert is_dataset_complete(storage, LAYOUT, images.digest)
    assert send(storage, images) == [VICTIM]
    assert is_right(storage, images)
    assert send(storage, images) == []


def test_a_record_of_other_images_counts_as_missing(storage: Storage, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    send(storage, images)
    key = LAYOUT.dataset_index(images.digest)
    record = json.loads(storage.get_bytes(key) or b"")
    record["images"][VICTIM]["sha256"] = "0" * 64
    storage.put_bytes(key, json.dumps(record).encode())
    assert read_dataset(storage, LAYOUT, images.digest) is None


@pytest.mark.parametrize(
    ("state", "failing", "repaired"),
    [
        (RunState.NEW, False, True),
        (RunState.CANCELED, False, True),
        (RunState.PENDING, False, False),  # a thousand waiting jobs cost no request
        (RunState.RUNNING, True, True),
        (RunState.COMPLETED, False, False),
        (RunState.FAILED, False, False),
    ],
)
def test_images_are_repaired_before_a_node_downloads_them(
    connection: Connection,
    storage: Storage,
    tmp_path: Path,
    state: RunState,
    failing: bool,
    repaired: bool,
) -> None:
    images = image_set(tmp_path)
    send(storage, images)
    replace(storage, images)
    settings = StackSettings(
        cloud="local", storage=StorageSettings(bucket=storage.bucket, prefix="p"), jobs={}
    )
    job = SimpleNamespace(name="cat", run_id="r", image_set=images, dataset_of="cat")
    failing_runs = frozenset({"r"} if failing else ())
    survey = Survey(
        LintReport((), ()), [cast(Any, job)], {"cat": state}, failing=failing_runs, bucket_exists=True
    )
    for dry_run in (True, False):
        told = repair_datasets(StackServices(connection, settings), survey, dry_run)
        assert told == ([upload_again_message("cat", [VICTIM])] if repaired else [])
        assert is_right(storage, images) == (repaired and not dry_run)


def test_what_is_sent_again_is_told() -> None:
    assert upload_again_message("cat", []) == ""
    assert (
        upload_again_message("cat", ["1.jpg"])
        == "cat: 1 image missing or changed in the bucket; uploading again: 1.jpg"
    )
    assert upload_again_message("cat", [*"abcdefg"]).endswith("uploading again: a, b, c, d, e …")
