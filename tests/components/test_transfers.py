"""What a dataset costs in requests, against a real S3 server: sent once, copied inside the bucket, or not touched at all."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from localcloud.testing import logged_requests, wait_until
from pulumi.dynamic import dynamic

from components.dataset import DatasetProvider, upload_images
from components.messages import TransferProgress
from components.training_job import TrainingJobProvider, refuse_incomplete_dataset
from flux_training.clients.bulk import FileToUpload
from flux_training.clients.connection import Connection
from flux_training.clients.datasets import is_dataset_complete
from flux_training.clients.storage import Storage
from flux_training.training.dataset.manifest import Image
from flux_training.training.errors import FluxError
from flux_training.training.jobs.folder import ImageSet
from flux_training.training.runs.run import Layout
from tests.components.groups import new_name

IMAGES = 60


@pytest.fixture
def storage(connection: Connection) -> Storage:
    made = connection.storage(new_name())
    made.ensure()
    return made


def image_set(folder: Path, salt: str = "", changed: frozenset[int] = frozenset()) -> ImageSet:
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for number in range(IMAGES):
        data = f"{'changed' if number in changed else ''} picture {number}".encode()
        name = f"{number:05}.jpg"
        (folder / name).write_bytes(data)
        images[name] = Image(name, len(data), hashlib.sha256(data).hexdigest())
    return ImageSet.of(folder, images, {name: f"caption {name}{salt}" for name in images})


def cost(cloud: dict[str, Any], before: int) -> Counter[tuple[str, str]]:
    """(method, what it was about) of the requests since."""

    def about(path: str) -> str:
        return "image" if "/datasets/" in path and path.endswith(".jpg") else "else"

    return Counter((one["method"], about(one["path"])) for one in logged_requests(cloud)[before:])


def test_only_changed_images_are_uploaded_and_others_copied(
    cloud: dict[str, Any], storage: Storage, tmp_path: Path
) -> None:
    layout = Layout("")
    first = image_set(tmp_path / "one")
    upload_images(storage, layout, first, lambda _text: None)
    assert is_dataset_complete(storage, layout, first.digest)

    other_captions = image_set(tmp_path / "one", salt=", another word")
    assert other_captions.digest == first.digest
    assert other_captions.manifest != first.manifest
    before = len(logged_requests(cloud))
    assert is_dataset_complete(storage, layout, other_captions.digest)
    assert cost(cloud, before) == {("GET", "else"): 2}

    second = image_set(tmp_path / "two", changed=frozenset({7}))
    before = len(logged_requests(cloud))
    shown: list[str] = []
    upload_images(storage, layout, second, shown.append)
    puts = cost(cloud, before)["PUT", "image"]
    assert puts == IMAGES
    assert sum(text.startswith("uploading") for text in shown) == 1
    assert sum(text.startswith("copying") for text in shown) == IMAGES - 1
    sizes = {item.key.rpartition("/")[2]: item.size for item in storage.list(layout.dataset(second.digest))}
    assert sizes == {name: image.size for name, image in second.images.items()}


def test_an_interrupted_upload_continues(cloud: dict[str, Any], storage: Storage, tmp_path: Path) -> None:
    layout, images = Layout(""), image_set(tmp_path / "one", changed=frozenset(range(IMAGES)))
    begin = len(logged_requests(cloud))
    sent = [
        FileToUpload(tmp_path / "one" / name, layout.dataset(images.digest) + name, image.size, image.sha256)
        for name, image in list(images.images.items())[:40]
    ]
    storage.send_files(sent)
    upload_images(storage, layout, images, lambda _text: None)
    # Counted from the beginning: an answer comes before its line in the log.
    wait_until(lambda: cost(cloud, begin)["PUT", "image"] >= IMAGES)
    assert cost(cloud, begin)["PUT", "image"] == IMAGES
    assert is_dataset_complete(storage, layout, images.digest)


def test_images_missing_despite_their_index_are_uploaded(storage: Storage, tmp_path: Path) -> None:
    layout, first = Layout("p/"), image_set(tmp_path / "one")
    upload_images(storage, layout, first, lambda _text: None)
    storage.delete_many([item.key for item in storage.list(layout.dataset(first.digest))])
    second = image_set(tmp_path / "two", changed=frozenset({1}))
    upload_images(storage, layout, second, lambda _text: None)
    assert is_dataset_complete(storage, layout, second.digest)


def test_a_thousand_providers_are_serialized_once_per_class() -> None:
    texts = {
        dynamic.serialize_provider(kind())
        for _ in range(1000)
        for kind in (DatasetProvider, TrainingJobProvider)
    }
    assert len(texts) == 2


def test_jobs_of_one_dataset_ask_once_whether_it_is_complete(
    cloud: dict[str, Any], storage: Storage, tmp_path: Path
) -> None:
    layout, images = Layout(""), image_set(tmp_path / "one")
    with pytest.raises(FluxError, match="are missing in the bucket"):
        refuse_incomplete_dataset(storage, layout, images.digest, "`make refresh`", 0)
    upload_images(storage, layout, images, lambda _text: None)
    before = len(logged_requests(cloud))
    for now in (0, 0, 1):
        refuse_incomplete_dataset(storage, layout, images.digest, "`make refresh`", now)
    # Two requests for each answer. An answer comes before its line in the log.
    wait_until(lambda: cost(cloud, before)["GET", "else"] >= 4)
    assert cost(cloud, before)["GET", "else"] == 4


def test_progress_shows_rate_and_remaining_time() -> None:
    now, shown = [0.0], list[str]()
    transfer = TransferProgress("uploading", 4, 8_000_000, shown.append, lambda: now[0])
    now[0] = 2.0
    transfer.add(1, 2_000_000)
    now[0] = 8.0
    transfer.add(3, 6_000_000)
    assert shown == ["uploading 1 of 4, 1.0 MB/s, about 6 s left", "uploading 4 of 4, 1.0 MB/s"]
