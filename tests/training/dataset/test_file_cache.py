"""The cache of what files hold: what it spares, what never fools it, and what happens when it is broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click

from flux_training.commands.jobs.lint import lint
from flux_training.commands.plan import plan
from flux_training.commands.stack.command import preview, up
from flux_training.training import file_cache
from flux_training.training.dataset.facts import DatasetFacts, FileFacts
from flux_training.training.dataset.file_cache import (
    CACHE_FOLDER,
    NO_CACHE_VARIABLE,
    FolderCache,
    all_settled,
    keep,
    scan,
    signature_of,
)
from flux_training.training.errors import BadInput
from flux_training.training.jobs.declare import read_job
from flux_training.training.jobs.examine import Examiner, JobPlace
from flux_training.training.jobs.folder import known_images, read_images, remember_images
from tests.training.job_folders import make_job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job folder, in a checkout where whatever was written counts as written long ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file_cache, "SETTLED_SECONDS", -60)
    return make_job(tmp_path / "jobs", "cat")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the job folders whose files were looked at."""
    names: list[str] = []
    look = FileFacts.dataset

    def noted(self: FileFacts, path: Path) -> DatasetFacts:
        names.append(path.name)
        return look(self, path)

    monkeypatch.setattr(FileFacts, "dataset", noted)
    return names


def test_an_unchanged_folder_is_not_read_again_and_gives_the_same(job: Path, read: list[str]) -> None:
    first = read_images(job)
    assert read == ["cat"]
    second = read_images(job)
    assert read == ["cat"]
    assert (second, second.images, second.captions) == (first, first.images, first.captions)


def test_images_are_remembered_in_the_checkout_that_is_named(job: Path) -> None:
    images = read_images(job)
    shutil.rmtree(CACHE_FOLDER)
    checkout = Path("elsewhere")
    remember_images(images, "signature", checkout)
    assert known_images(images.folder, "signature", checkout) == images
    assert known_images(images.folder, "another", checkout) is None
    assert known_images(images.folder, "signature") is None
    assert not Path(CACHE_FOLDER).exists()


def test_nothing_is_known_of_an_empty_folder(job: Path) -> None:
    """Not even when it was filled between the look at its signature and the reading, and so remembered as empty."""
    remember_images(read_images(job), signature_of([]))
    shutil.rmtree(job / "dataset")
    with pytest.raises(BadInput, match="no such folder"):
        read_images(job)


def test_each_entry_of_a_folder_is_in_its_signature_but_for_the_hidden_ones(tmp_path: Path) -> None:
    # By turns, so that whatever order the file system gives, some come after each kind.
    for number in range(6):
        (tmp_path / f".hidden{number}").touch()
        (tmp_path / f"there{number}").write_bytes(bytes(number))
        (tmp_path / f"gone{number}").symlink_to("nowhere")
    gone, there = scan(tmp_path)[:6], scan(tmp_path)[6:]
    assert gone == [(f"gone{number}", 0, 0, 0, 0, 0) for number in range(6)]
    assert [(name, size) for name, _, size, *_ in there] == [
        (f"there{number}", number) for number in range(6)
    ]
    assert all_settled(gone)


def test_a_name_that_is_no_utf_8_has_a_signature_too(tmp_path: Path) -> None:
    signatures = {signature_of([])}
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        path = tmp_path / os.fsdecode(name)
        path.touch()
        signatures.add(signature_of([(path.name, *scan(tmp_path)[0][1:])]))
    assert len(signatures) == 3


@pytest.mark.parametrize("content", [b"", b"one line", b"two\nlines\n", b"\n\n"])
def test_what_is_kept_is_given_back_for_its_signature_alone(tmp_path: Path, content: bytes) -> None:
    cache = FolderCache.of(tmp_path / "dataset", tmp_path, environ={})
    assert cache.load("a") is None
    cache.save("a", {"count": 3}, content)
    loaded = cache.load("a")
    assert loaded is not None
    assert (loaded[0]["count"], loaded[1]) == (3, content)
    assert cache.load("b") is None


def test_to_keep_something_says_whether_it_could_and_waits_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    assert keep(tmp_path / "new/folder/it", b"facts")
    assert (tmp_path / "new/folder/it").read_bytes() == b"facts"
    assert not keep(tmp_path / "new/folder/it/below", b"facts")
    assert waits == []


def test_jobs_that_train_on_the_same_images_decode_them_once(job: Path, read: list[str]) -> None:
    first = read_job(job.parent, "cat", None)
    for rank in ("low", "high"):
        other = make_job(job.parent, rank, images=0)
        (other / "dataset").rmdir()
        folder, images = read_job(job.parent, rank, "cat")
        assert (folder.name, images) == (rank, first[1])
    assert read == ["cat"]


def test_an_edited_caption_is_seen(job: Path) -> None:
    before = read_images(job)
    (job / "dataset/00002.txt").write_text("another caption", encoding="utf-8")
    after = read_images(job)
    assert after.captions["00002.jpg"] == "another caption"
    assert after.digest == before.digest


def _same_size_and_time(path: Path) -> None:
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _replaced_by_another(path: Path) -> None:
    before = path.stat()
    copy = path.with_suffix(".new")
    shutil.copy2(path, copy)
    _same_size_and_time(copy)
    copy.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [_same_size_and_time, _replaced_by_another])
def test_a_file_of_the_same_size_and_time_fools_nobody(job: Path, change: Callable[[Path], None]) -> None:
    before = read_images(job)
    change(job / "dataset/00001.jpg")
    after = read_images(job)
    assert after.digest != before.digest
    assert after.images["00001.jpg"].sha256 != before.images["00001.jpg"].sha256


def test_what_was_written_just_now_is_not_remembered(
    job: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "SETTLED_SECONDS", 3600)
    read_images(job)
    read_images(job)
    assert read == ["cat", "cat"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b'{"version": 1}\nxx', bytes(range(256))])
def test_a_broken_cache_is_as_good_as_none(job: Path, damage: bytes) -> None:
    first = read_images(job)
    kept = [path for path in Path(CACHE_FOLDER).rglob("*") if path.is_file()]
    assert len(kept) == 1
    for path in kept:
        path.write_bytes(damage)
    assert read_images(job) == first


def test_a_cache_whose_content_was_altered_is_not_believed(job: Path) -> None:
    first = read_images(job)
    (whole,) = (path for path in Path(CACHE_FOLDER).rglob("*") if path.is_file())
    whole.write_bytes(whole.read_bytes().replace(b"picture 1", b"picture 7"))
    assert read_images(job) == first


def test_no_cache_means_none(job: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_CACHE_VARIABLE, "1")
    read_images(job)
    read_images(job)
    assert read == ["cat", "cat"]
    assert not Path(CACHE_FOLDER).exists()


@pytest.mark.parametrize(("said", "kept"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_the_variable_says_it_for_lint_and_plan_too(
    job: Path, monkeypatch: pytest.MonkeyPatch, said: str, kept: bool
) -> None:
    monkeypatch.setenv(NO_CACHE_VARIABLE, said)
    Examiner.of().examine([JobPlace("cat", job, job)])
    assert Path(CACHE_FOLDER).exists() == kept


@pytest.mark.parametrize("command", [lint, plan, preview, up])
def test_every_command_that_keeps_something_can_leave_it(command: click.Command) -> None:
    assert "--no-cache" in [option for parameter in command.params for option in parameter.opts]


def test_a_place_that_cannot_be_written_is_no_failure(job: Path) -> None:
    Path(CACHE_FOLDER).write_text("a file where the folder should be", encoding="utf-8")
    assert read_images(job) == read_images(job)


def test_a_folder_with_findings_is_not_remembered_as_sound(job: Path) -> None:
    (job / "dataset/00003.txt").unlink()
    for _ in range(2):
        with pytest.raises(BadInput, match="no caption for this image"):
            read_images(job)
