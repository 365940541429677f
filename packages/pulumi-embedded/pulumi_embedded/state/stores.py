"""Where a backend's files are stored: a folder, or a bucket (`s3_store.py`). Keys use `/` between their parts."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from pulumi_embedded.errors import EngineError


class StoreError(EngineError, OSError):
    """The store could not do what it was asked to do."""


class Log(Protocol):
    """An append-only file of lines. What was appended survives a crash."""

    def start(self, head: bytes) -> None:
        """Replace the log by this line. After a crash, the log is either the old one or the new one. Raises OSError."""

    def append(self, lines: bytes) -> None:
        """Return once the lines, each ended by a newline, are durable. Raises OSError."""

    def read(self) -> bytes:
        """Everything since the last `start`. Empty if there is no log."""

    def remove(self) -> None: ...

    def put_aside(self) -> str:
        """Rename the log so that a person can inspect it, and return its new name."""


class Store(Protocol):
    """Files by key. `is_local`: the files are on this machine."""

    is_local: bool

    def read(self, key: str) -> bytes | None:
        """The content, or None if there is no such file. Raises OSError."""

    def write(self, key: str, data: bytes) -> None:
        """Write atomically: readers see the old content or the new one. Raises OSError and keeps the old content."""

    def modified(self, key: str) -> float:
        """When the file was last written, as a Unix time; 0 if there is no such file."""

    def copy(self, source: str, target: str) -> None: ...

    def remove(self, key: str) -> None:
        """Delete the file if it exists."""

    def list_keys(self, folder: str) -> list[str]:
        """The sorted keys of the files directly in the folder. Empty if there is no such folder."""

    def log(self, key: str) -> Log: ...


@dataclass
class FolderStore:
    """A store in a folder of this machine."""

    is_local = True

    root: Path

    def read(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        self._remove_attributes(key)
        replace_file(self.root / key, data)

    def modified(self, key: str) -> float:
        try:
            return (self.root / key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def copy(self, source: str, target: str) -> None:
        """Make a hard link where the file system supports it: files are replaced, never edited."""
        old, new = self.root / source, self.root / target
        new.parent.mkdir(parents=True, exist_ok=True)
        fresh = new.with_name(f".{new.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            os.link(old, fresh)
        except OSError:
            fresh.write_bytes(old.read_bytes())
        self._remove_attributes(target)
        fresh.replace(new)

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)
        self._remove_attributes(key)

    def list_keys(self, folder: str) -> list[str]:
        path = self.root / folder
        if not path.is_dir():
            return []
        return sorted(f"{folder}/{found.name}" for found in path.iterdir() if found.is_file())

    def log(self, key: str) -> Log:
        return FileLog(self.root / key)

    def _remove_attributes(self, key: str) -> None:
        """Remove the file in which the CLI keeps the MD5 of the content: it would be wrong after our write."""
        (self.root / f"{key}.attrs").unlink(missing_ok=True)


@dataclass
class FileLog:
    """A log in one file, fsynced after each `append`."""

    path: Path
    _file: BinaryIO | None = field(default=None, init=False)

    def start(self, head: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        file = fresh.open("wb")
        try:
            file.write(head)
            _sync(file)
            fresh.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError:
            file.close()
            raise
        self.close()
        self._file = file

    def append(self, lines: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab")
            if not self.read().endswith(b"\n"):
                lines = b"\n" + lines  # start a new line, because the last one is incomplete
        self._file.write(lines)
        _sync(self._file)

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def put_aside(self) -> str:
        aside = self.path.with_suffix(f".{os.getpid()}.aside")
        self.path.replace(aside)
        return aside.name

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new content, also after a power failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            _sync(file)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
