"""Where a backend's files lie: a folder, or a bucket (see `buckets.py`).  Keys have `/` between their parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from pulumi_embedded.errors import EngineError


class StoreError(EngineError, OSError):
    """The store did not do what it was asked for."""


class Log(Protocol):
    """A file of lines that grows: what has been appended is there after a crash."""

    def start(self, head: bytes) -> None:
        """Begin anew with this line; a crash leaves the old lines or the new one.  Raises OSError."""

    def append(self, lines: bytes) -> None:
        """Return once the lines, each ended by a newline, are safe.  Raises OSError."""

    def read(self) -> bytes:
        """Everything since the last `start`; empty where there is no log."""

    def remove(self) -> None:
        """There is nothing to be read any more."""

    def put_aside(self) -> str:
        """Take the log out of the way, to be looked at by a person; where it is now."""

    def close(self) -> None:
        """Nothing more is appended; the log stays."""


class Store(Protocol):
    """Files by their keys.  `is_local`: they lie on this machine."""

    is_local: bool

    def read(self, key: str) -> bytes | None:
        """The content, None where there is no such file.  Raises OSError."""

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""

    def write(self, key: str, data: bytes) -> None:
        """Put the content there; a reader sees the old one or the new one.  Raises OSError; then the old one stays."""

    def modified(self, key: str) -> float:
        """When the file was written, in seconds; 0 where there is none."""

    def copy(self, source: str, target: str) -> None:
        """Put what is at `source` at `target` too."""

    def remove(self, key: str) -> None:
        """Take the file away, if it is there."""

    def keys(self, folder: str) -> list[str]:
        """The keys of the files in the folder itself, in order; none where there is no such folder."""

    def log(self, key: str) -> Log:
        """The log of this name."""


class FolderStore:
    """A store that is a folder."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes | None:
        """See `Store`."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """See `Store`."""
        return (self.root / key).exists()

    def write(self, key: str, data: bytes) -> None:
        """See `Store`.  The new content survives a power cut."""
        self._forget_attributes(key)
        replace_file(self.root / key, data)

    def modified(self, key: str) -> float:
        """See `Store`."""
        try:
            return (self.root / key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def copy(self, source: str, target: str) -> None:
        """See `Store`.  A second name for the same bytes where the file system can: files are replaced, never edited."""
        old, new = self.root / source, self.root / target
        new.parent.mkdir(parents=True, exist_ok=True)
        fresh = new.with_name(f".{new.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        try:
            os.link(old, fresh)
        except OSError:
            fresh.write_bytes(old.read_bytes())
        self._forget_attributes(target)
        fresh.replace(new)

    def remove(self, key: str) -> None:
        """See `Store`."""
        (self.root / key).unlink(missing_ok=True)
        self._forget_attributes(key)

    def keys(self, folder: str) -> list[str]:
        """See `Store`."""
        path = self.root / folder
        if not path.is_dir():
            return []
        return sorted(f"{folder}/{found.name}" for found in path.iterdir() if found.is_file())

    def log(self, key: str) -> Log:
        """See `Store`."""
        return FileLog(self.root / key)

    def _forget_attributes(self, key: str) -> None:
        """The CLI notes a file's MD5 beside it; ours would not fit."""
        (self.root / f"{key}.attrs").unlink(missing_ok=True)


class FileLog:
    """A log that is one file, synced at every `append`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def start(self, head: bytes) -> None:
        """See `Log`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        file = fresh.open("wb")
        try:
            file.write(head)
            _sync(file)
            fresh.replace(self._path)
            sync_folder(self._path.parent)
        except OSError:
            file.close()
            raise
        self.close()
        self._file = file

    def append(self, lines: bytes) -> None:
        """See `Log`."""
        if self._file is None:
            self._file = self._path.open("ab")
            if not self.read().endswith(b"\n"):
                lines = b"\n" + lines  # after a line that was cut off
        self._file.write(lines)
        _sync(self._file)

    def read(self) -> bytes:
        """See `Log`."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        """See `Log`."""
        self.close()
        self._path.unlink(missing_ok=True)

    def put_aside(self) -> str:
        """See `Log`."""
        aside = self._path.with_suffix(f".{os.getpid()}.aside")
        self._path.replace(aside)
        return aside.name

    def close(self) -> None:
        """See `Log`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            _sync(file)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
