"""The cache of image facts."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from flux_training.commands.jobs.lint import lint
from flux_training.commands.plan.command import plan
from flux_training.commands.stack.command import preview, up
from flux_training.training.dataset import facts, image_cache, image_facts
from flux_training.training.dataset.facts import DatasetFacts, DatasetReader
from flux_training.training.dataset.image_cache import (
    CACHE_FILE,
    CACHE_FOLDER,
    NO_CACHE_VARIABLE,
    VERSION,
    ImageCache,
    Stamp,
    file_stamp,
    is_old_enough_to_cache,
    write_cache_file,
)
from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.jobs.folder import read_images
from flux_training.training.opening import read_regular_file
from tests.training.job_folders import make_job, write_image

CACHE = Path(CACHE_FOLDER, CACHE_FILE)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job folder with three images, in a checkout where every file counts as old enough to be cached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(NO_CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(image_cache, "SETTLED_SECONDS", -60)
    return make_job(tmp_path / "jobs", "cat")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were decoded."""
    names: list[str] = []
    read_image_facts = facts.read_image_facts

    def noted(path: Path) -> ImageFacts:
        names.append(path.name)
        return read_image_facts(path)

    monkeypatch.setattr(facts, "read_image_facts", noted)
    return names


def read(job: Path) -> DatasetFacts:
    return DatasetReader(ImageCache.of()).dataset(job)


def test_unchanged_images_are_not_decoded_again(job: Path, decoded: list[str]) -> None:
    first = read(job)
    assert sorted(decoded) == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert read(job) == first
    assert len(decoded) == 3


def test_an_edited_caption_does_not_decode_an_image_again(job: Path, decoded: list[str]) -> None:
    before = read_images(job)
    (job / "dataset/00002.txt").write_text("another caption", encoding="utf-8")
    after = read_images(job)
    assert after.captions["00002.jpg"] == "another caption"
    assert after.digest == before.digest
    assert len(decoded) == 3


def rewrite_keeping_size_and_mtime(path: Path) -> None:
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace_keeping_size_and_mtime(path: Path) -> None:
    before = path.stat()
    copy = path.with_suffix(".new")
    shutil.copy2(path, copy)
    rewrite_keeping_size_and_mtime(copy)
    copy.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [rewrite_keeping_size_and_mtime, replace_keeping_size_and_mtime, lambda path: write_image(path, 77)],
)
def test_only_a_changed_image_is_decoded_again(
    job: Path, decoded: list[str], change: Callable[[Path], None]
) -> None:
    before = read_images(job)
    decoded.clear()
    change(job / "dataset/00001.jpg")
    after = read_images(job)
    assert decoded == ["00001.jpg"]
    assert after.digest != before.digest
    assert after.images["00001.jpg"].sha256 != before.images["00001.jpg"].sha256


@pytest.mark.parametrize(("seconds", "settled"), [(2.2, False), (60, True)])
def test_recently_changed_files_are_not_settled(seconds: float, settled: bool) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    assert is_old_enough_to_cache((1, then, 0, 1)) == is_old_enough_to_cache((1, 0, then, 1)) == settled


def test_a_recently_written_image_is_not_cached(
    job: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = iter([False] * 3 + [True] * 9)
    monkeypatch.setattr(facts, "is_old_enough_to_cache", lambda _stamp: next(ages))
    for _ in range(3):
        read(job)
    assert len(decoded) == 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version": "0"}',
        b'{"version": null, "folders": {"x": 3}}',
        json.dumps({"version": VERSION, "folders": {"x": 3}}).encode(),
    ],
)
def test_a_broken_cache_is_ignored_and_replaced(job: Path, decoded: list[str], content: bytes) -> None:
    CACHE.parent.mkdir()
    CACHE.write_bytes(content)
    read(job)
    read(job)
    assert len(decoded) == 3


def test_invalid_entries_are_ignored(job: Path, decoded: list[str]) -> None:
    first = read(job)
    document = json.loads(CACHE.read_text())
    (entries,) = document["folders"].values()
    entries["00001.jpg"][4] = {"no": "facts"}
    entries["00002.jpg"] = 3
    CACHE.write_text(json.dumps(document))
    decoded.clear()
    assert read(job) == first
    assert sorted(decoded) == ["00001.jpg", "00002.jpg"]


def test_reading_works_if_the_cache_cannot_be_written(job: Path) -> None:
    Path(CACHE_FOLDER).write_text("a file where the folder should be", encoding="utf-8")
    assert read(job) == read(job)


@pytest.mark.parametrize(("value", "cached"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_environment_variable_disables_the_cache(
    job: Path, monkeypatch: pytest.MonkeyPatch, value: str, cached: bool
) -> None:
    monkeypatch.setenv(NO_CACHE_VARIABLE, value)
    read(job)
    assert CACHE.exists() == cached


@pytest.mark.parametrize("command", [lint, plan, preview, up])
def test_commands_that_use_the_cache_have_no_cache_option(command: click.Command) -> None:
    assert "--no-cache" in [option for parameter in command.params for option in parameter.opts]


def test_an_unreadable_image_is_not_cached(
    job: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason may be temporary, such as too many open files or a network drive."""

    def failing(path: Path) -> bytes:
        if path.name == "00002.jpg":
            raise OSError(errno.EMFILE, "Too many open files")
        return read_regular_file(path)

    with monkeypatch.context() as broken:
        broken.setattr(image_facts, "read_regular_file", failing)
        assert read(job).images["00002.jpg"].unread
    decoded.clear()
    assert not read(job).images["00002.jpg"].unread
    assert decoded == ["00002.jpg"]


def test_images_decoded_before_an_interrupt_are_cached(job: Path, decoded: list[str]) -> None:
    def stop_at_two(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DatasetReader(ImageCache.of(), stop_at_two).dataset(job)
    decoded.clear()
    read(job)
    assert decoded == ["00003.jpg"]


def test_a_cache_file_is_written_without_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    assert write_cache_file(tmp_path / "new/folder/it", b"facts")
    assert (tmp_path / "new/folder/it").read_bytes() == b"facts"
    assert not write_cache_file(tmp_path / "new/folder/it/below", b"facts")
    assert waits == []


def cached(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / CACHE).read_text())
    return content


def stamped(path: Path) -> Stamp:
    stamp = file_stamp(path)
    assert stamp is not None
    return stamp


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    made = {name: tmp_path / name for name in ("one/a", "one/b", "two/a")}
    for path in made.values():
        path.write_bytes(b"x")
    return made


def test_facts_are_stored_by_folder_and_name(tmp_path: Path, images: dict[str, Path]) -> None:
    cache = ImageCache(tmp_path)
    for name, path in images.items():
        cache.put(path, stamped(path), ImageFacts(path.name, 1, name))
    cache.save()
    again = ImageCache(tmp_path)
    for name, path in images.items():
        assert again.get(path, stamped(path)) == ImageFacts(path.name, 1, name)
    assert cached(tmp_path)["version"] == VERSION
    assert set(cached(tmp_path)["folders"]) == {str(tmp_path / "one"), str(tmp_path / "two")}
    again.forget_other_images(tmp_path / "one", {"b"})
    again.save()
    folders = cached(tmp_path)["folders"]
    assert {folder[-3:]: sorted(names) for folder, names in folders.items()} == {"one": ["b"], "two": ["a"]}


def test_an_unchanged_cache_is_not_written(tmp_path: Path, images: dict[str, Path]) -> None:
    cache = ImageCache(tmp_path)
    path = images["one/a"]
    assert cache.get(path, stamped(path)) is None
    cache.forget_other_images(tmp_path / "one", {"a"})
    cache.save()
    assert not (tmp_path / CACHE_FOLDER).exists()
    cache.put(path, stamped(path), ImageFacts("a", 1, "sha"))
    cache.save()
    (tmp_path / CACHE).unlink()
    cache.save()
    assert not (tmp_path / CACHE).exists()
