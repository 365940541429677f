"""What the launcher puts into the folder that the worker uploads from."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flux_training.node.launcher import settings, uploads
from flux_training.node.launcher.uploads import UploadFolder
from tests.node.fake_trainer import weights
from tests.node.fault_proxy import FaultProxy
from tests.node.quick_trainer import optimizer
from tests.node.runs import Node

CHECKPOINT, OLDER = "job_000000008.safetensors", "job_000000004.safetensors"


class OutputFolder:
    """The trainer's folder on a node, and what is mirrored of it."""

    def __init__(self, node: Node, restored: tuple[str, ...] = ()) -> None:
        self.folder, self.upload, self.pruned = node.output, node.upload, list[str]()
        run = settings.read_settings(node.environment)
        self.digests: dict[str, str] = {}
        self.uploads = UploadFolder(run, restored, self.pruned.append, self.digests)
        self.uploads.start()

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def is_uploaded(self, name: str, data: bytes) -> bool:
        path = self.upload / name
        return path.exists() and path.read_bytes() == data

    def scans(self) -> None:
        """Waits for what three scans see."""
        time.sleep(0.25)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.chdir(tmp_path)
    node = Node(tmp_path, scan_seconds=0.05)
    node.output.mkdir(parents=True)
    return node


@pytest.fixture
def output(node: Node) -> Iterator[OutputFolder]:
    output = OutputFolder(node)
    yield output
    output.uploads.stop()


def test_finished_weights_and_samples_are_linked(output: OutputFolder) -> None:
    data = weights(8)
    saved, sample = output.write(CHECKPOINT, data), output.write("samples/1__8_0.jpg", b"jpeg")
    output.until(
        lambda: output.is_uploaded(CHECKPOINT, data) and output.is_uploaded("samples/1__8_0.jpg", b"jpeg")
    )
    assert (output.upload / CHECKPOINT).samefile(saved)
    assert (output.upload / "samples/1__8_0.jpg").samefile(sample)


def test_what_the_trainer_rewrites_in_place_is_copied(output: OutputFolder) -> None:
    data = optimizer(8)
    state = output.write("optimizer.pt", data)
    output.until(lambda: output.is_uploaded("optimizer.pt", data))
    state.write_bytes(optimizer(16)[:-5])  # half-way through the next save
    output.scans()
    assert output.is_uploaded("optimizer.pt", data)
    state.write_bytes(optimizer(16))
    output.until(lambda: output.is_uploaded("optimizer.pt", optimizer(16)))


@pytest.mark.parametrize("data", [weights(8)[:-1], weights(8, (0.5, float("nan"))), b""])
def test_an_unsound_checkpoint_is_never_put_there(data: bytes, output: OutputFolder) -> None:
    output.write(CHECKPOINT, data)
    output.scans()
    assert not (output.upload / CHECKPOINT).exists()
    output.write(CHECKPOINT, weights(8))
    output.until(lambda: output.is_uploaded(CHECKPOINT, weights(8)))


def test_a_slowly_written_checkpoint_appears_whole(output: OutputFolder) -> None:
    data, sizes = weights(8, (0.5,) * 400), set()
    with (output.folder / CHECKPOINT).open("wb") as file:
        for at in range(0, len(data), 50):
            file.write(data[at : at + 50])
            file.flush()
            time.sleep(0.02)
            sizes |= {path.stat().st_size for path in output.upload.glob(CHECKPOINT)}
    output.until(lambda: output.is_uploaded(CHECKPOINT, data))
    assert sizes <= {len(data)}


def test_what_the_trainer_prunes_disappears_there_too(output: OutputFolder) -> None:
    path = output.write(OLDER, weights(4))
    output.until(lambda: output.is_uploaded(OLDER, weights(4)))
    path.unlink()
    output.until(lambda: not (output.upload / OLDER).exists())
    assert output.pruned == []  # the worker deletes the object


def test_a_restored_file_is_not_put_there_and_its_object_is_deleted_when_it_is_pruned(node: Node) -> None:
    (node.output / OLDER).write_bytes(weights(4))
    output = OutputFolder(node, (OLDER,))
    output.scans()
    assert not (output.upload / OLDER).exists()
    (output.folder / OLDER).unlink()
    output.until(lambda: output.pruned == [OLDER])
    output.uploads.stop()


def test_a_folder_that_cannot_be_read_deletes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    (node.output / OLDER).write_bytes(weights(4))
    output = OutputFolder(node, (OLDER,))
    output.write(CHECKPOINT, weights(8))
    output.until(lambda: output.is_uploaded(CHECKPOINT, weights(8)))

    def fail(path: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", fail)
    output.scans()
    output.uploads.stop()
    assert (output.pruned, output.is_uploaded(CHECKPOINT, weights(8))) == ([], True)


def test_a_restored_checkpoint_that_is_saved_again_is_put_there(node: Node) -> None:
    (node.output / OLDER).touch()
    output = OutputFolder(node, (OLDER,))
    output.write(OLDER, weights(4))
    output.until(lambda: output.is_uploaded(OLDER, weights(4)))
    (output.folder / OLDER).unlink()
    output.until(lambda: not (output.upload / OLDER).exists())
    output.uploads.stop()
    assert output.pruned == []


def test_links_and_unfinished_samples_are_left_alone(output: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (output.folder / "link.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(output.folder / "pipe")
    output.write("samples/.tmp/1.jpg", b"half")
    output.write("config.yaml", b"job: extension")
    output.until(lambda: output.is_uploaded("config.yaml", b"job: extension"))
    output.scans()
    names = {path.relative_to(output.upload).as_posix() for path in output.upload.rglob("*")}
    assert names == {"run.json", "config.yaml"}


def test_where_files_cannot_be_linked_they_are_copied(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = output.write(CHECKPOINT, weights(8))
    output.until(lambda: output.is_uploaded(CHECKPOINT, weights(8)))
    assert not (output.upload / CHECKPOINT).samefile(path)


def test_the_last_files_are_put_there_when_the_trainer_has_ended(node: Node) -> None:
    output = OutputFolder(node)
    output.write(CHECKPOINT, weights(8))
    output.uploads.stop()
    assert output.is_uploaded(CHECKPOINT, weights(8))
    assert not (node.home / uploads.STAGING_FOLDER).exists()


def test_a_pruned_restored_checkpoint_is_deleted_in_the_bucket(tmp_path: Path) -> None:
    """A whole run: only the newest checkpoint is downloaded, none is uploaded again, the pruned one is deleted."""
    node = Node(tmp_path)
    names = [f"job_{step:09}.safetensors" for step in (4, 8)]
    for name, step in zip(names, (4, 8), strict=True):
        (node.stored / name).write_bytes(weights(step))
    program = f"import os, time; os.remove('output/job/{names[0]}'); time.sleep(4)"
    node.set_trainer(program=program)
    with FaultProxy(node.storage.url, lambda _request: None) as proxy:
        node.run(AWS_ENDPOINT_URL=proxy.url)
    requests = [(request.method, request.path.rpartition("/")[2]) for request in proxy.requests]
    assert ("DELETE", names[0]) in requests
    assert ("GET", names[0]) not in requests
    assert ("GET", names[1]) in requests
    assert sorted(path.name for path in node.stored.glob("job*")) == [names[1]]
    assert list(node.upload.glob("job*")) == []
