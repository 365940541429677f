"""Where files lie: what a log says after a crash at each moment, and what a bucket's URL means."""

from pathlib import Path

import pytest
from pulumi_embedded.errors import NeedsCliError
from pulumi_embedded.state.s3_store import BucketUrl, ObjectLog
from pulumi_embedded.state.stores import FileLog, FolderStore


class CrashError(Exception):
    """The process has ended."""


class Objects:
    """What `ObjectLog` needs of a bucket, with an end after so many changes."""

    def __init__(self, changes: int = 1000) -> None:
        self.content: dict[str, bytes] = {}
        self.left = changes

    def _change(self) -> None:
        if self.left == 0:
            raise CrashError
        self.left -= 1

    def read(self, key: str) -> bytes | None:
        return self.content.get(key)

    def write(self, key: str, data: bytes) -> None:
        self._change()
        self.content[key] = data

    def remove(self, key: str) -> None:
        self._change()
        self.content.pop(key, None)

    def list_keys(self, folder: str) -> list[str]:
        return sorted(key for key in self.content if key.startswith(f"{folder}/"))


def log_of(objects: Objects) -> ObjectLog:
    return ObjectLog(objects, "log")  # type: ignore[arg-type]  # the part of a bucket that it uses


@pytest.mark.parametrize("changes", range(8))
def test_after_a_crash_a_log_of_objects_is_the_old_or_the_new_one(changes: int) -> None:
    objects = Objects()
    before = log_of(objects)
    before.start(b"head\n")
    for line in (b"a\n", b"b\n", b"c\n"):
        before.append(line)
    assert log_of(objects).read() == b"head\na\nb\nc\n"
    objects.left = changes
    fresh = log_of(objects)
    try:
        fresh.start(b"new head\n")
        fresh.append(b"d\n")
    except CrashError:
        assert changes < 6
    expected = [b"head\na\nb\nc\n", b"new head\n", b"new head\nd\n"]
    assert log_of(objects).read() == expected[min(changes, 1) + (changes >= 6)]
    objects.left = 1000
    again = log_of(objects)
    again.start(b"third\n")
    again.append(b"e\n")
    assert log_of(objects).read() == b"third\ne\n"
    again.remove()
    assert log_of(objects).read() == b""
    assert not objects.content


def test_a_reopened_log_is_appended_to(tmp_path: Path) -> None:
    objects = Objects()
    log_of(objects).start(b"head\n")
    log_of(objects).append(b"a\n")
    log_of(objects).append(b"b\n")
    assert log_of(objects).read() == b"head\na\nb\n"
    FileLog(tmp_path / "log").start(b"head\n")
    with (tmp_path / "log").open("ab") as file:
        file.write(b"cut o")
    FileLog(tmp_path / "log").append(b"a\n")
    assert FileLog(tmp_path / "log").read() == b"head\ncut o\na\n"  # the line cut off stands by itself


def test_a_folder_store_replaces_files(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.read("a/b") is None
    assert store.list_keys("a") == []
    store.write("a/b", b"1")
    (tmp_path / "a/b.attrs").write_text("{}")
    store.copy("a/b", "a/c")
    store.write("a/b", b"2")
    assert (store.read("a/b"), store.read("a/c")) == (b"2", b"1")
    assert store.list_keys("a") == ["a/b", "a/c"]  # and no stale attributes of the CLI's
    store.remove("a/b")
    store.remove("a/b")
    assert store.read("a/b") is None


def test_bucket_urls_are_parsed_like_the_cli() -> None:
    place = BucketUrl.parse(
        "s3://states/team/a?endpoint=127.0.0.1:9000&disableSSL=true&s3ForcePathStyle=true&region=r1&awssdk=v2"
    )
    assert place == BucketUrl("states", "team/a/", "http://127.0.0.1:9000", "r1", None, True)
    assert BucketUrl.parse("s3://states?endpoint=minio.example").endpoint == "https://minio.example"
    assert BucketUrl.parse("s3://states?prefix=p/&profile=ops") == BucketUrl("states", "p/", profile="ops")
    with pytest.raises(NeedsCliError, match="'kmskeyid'"):
        BucketUrl.parse("s3://states?kmskeyid=1")
