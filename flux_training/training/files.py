"""Atomic writing, natural sorting, and a lock per folder."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flux_training.training.errors import FluxError

NEW_FILE_MODE = 0o644


def write_atomically(path: Path, content: str | bytes, lasting: bool = True) -> None:
    """Replaces a file atomically, so that kill -9 leaves the old or the new content; if `lasting`, a power cut as well."""
    with _written_beside(path, content, lasting) as partial:
        partial.replace(path)


def write_new(path: Path, content: str | bytes) -> bool:
    """Like `write_atomically`, but returns False and writes nothing if the file exists."""
    with _written_beside(path, content) as partial:
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _written_beside(path: Path, content: str | bytes, lasting: bool = True) -> Iterator[Path]:
    raw = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(path.stat().st_mode if path.exists() else NEW_FILE_MODE)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts `img2` before `img10` and ignores case; equal only for equal names."""
    # Text and numbers alternate, so text is never compared with a number.
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


@contextlib.contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Locks a folder against other flux commands until the process ends. Raises FluxError if one holds the lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise FluxError(
            f"another flux command is using {folder}", "", "wait until it has ended, then run this again"
        ) from error
    try:
        yield
    finally:
        os.close(handle)
