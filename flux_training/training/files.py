"""Files of the user's: written whole or not at all, sorted as people sort them, and changed by one command at a time."""

from __future__ import annotations

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
    """The whole new content or the old file: also after kill -9, and if it is `lasting`, after a power cut."""
    with _written_beside(path, content, lasting) as partial:
        partial.replace(path)


def write_new(path: Path, content: str | bytes) -> bool:
    """Like `write_atomically`, but False, and nothing written, when there is such a file already."""
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
    """Sorts `img2` before `img10`, and without regard to case; equal only for equal names."""
    # Text and number by turns, so that only like is compared with like.
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


@contextlib.contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Keeps a second command of ours out of this folder; the kernel takes the lock away with the process.

    Raises FluxError when one is at work there already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise FluxError(
            f"another flux command is at work in {folder}", "", "wait until it has ended, then run this again"
        ) from error
    try:
        yield
    finally:
        os.close(handle)
