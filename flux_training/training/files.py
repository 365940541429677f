"""Atomic writing, natural sorting, and a lock per folder."""

import contextlib
import difflib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flux_training.training.errors import FluxError

NEW_FILE_MODE = 0o644
# For each errno, what went wrong and what the user should do next.
REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space (`df -h` shows the disks), then run the same command again"),
    errno.EDQUOT: ("your quota on this disk is used up", "delete files that you do not need, then run the same command again"),
    errno.EFBIG: ("the file would exceed the maximum file size", "raise the limit (`ulimit -f unlimited`), then run the same command again"),
    errno.EROFS: ("the file system is read-only", "mount it for writing, or work in a copy elsewhere"),
    errno.EACCES: ("you have no permission", "change its owner or mode (`ls -ld` shows them), or work in a copy elsewhere"),
    errno.EPERM: ("you have no permission", "change its owner or mode (`ls -ld` shows them), or work in a copy elsewhere"),
    errno.ENAMETOOLONG: ("its name is longer than this file system allows", "give it a shorter name (Linux takes 255 bytes, an encrypted home folder 143)"),
}  # fmt: skip
DRIVE_GONE = ("the disk or network drive does not answer", "check that the drive is connected and mounted (`df` lists it), then run the same command again")  # fmt: skip
# These errors are only explained if they name a file. Otherwise the cause is a connection or a
# terminal, not a disk.
REMEDIES_OF_FILES = dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), DRIVE_GONE)
# Names with another digit are other files on purpose, such as `dataset2`.
MIN_SIMILARITY = 0.85
# Error numbers from file systems that do not support locks, such as some network drives.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
# The name of a temporary file contains at most this many characters of the target's name. Four bytes per
# character and eleven bytes for the other parts stay below the limit of 255 bytes for a file name.
MAX_NAME_OF_PARTIAL = 60


def explain_file_error(error: OSError) -> FluxError | None:
    """What a full disk, a missing permission or a lost drive means to the user; None if the error has another cause."""
    named = error.filename2 or error.filename
    remedies = REMEDIES | REMEDIES_OF_FILES if named else REMEDIES
    if error.errno not in remedies:
        return None
    # If writing to an open file fails, the operating system's error does not name the file.
    place = named or f"a file below {Path.cwd()} or {tempfile.gettempdir()}"
    return FluxError(f"cannot use {place}", *remedies[error.errno])


def write_atomically(path: Path, content: str | bytes, lasting: bool = True) -> None:
    """Replaces a file atomically, so that kill -9 leaves the old or the new content; if `lasting`, a power cut as well."""
    with _temporary_file_with(path, content, lasting) as partial:
        partial.replace(path)


def write_new(path: Path, content: str | bytes) -> bool:
    """Like `write_atomically`, but returns False and writes nothing if the file exists."""
    with _temporary_file_with(path, content) as partial:
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError:
            return _replace_new(partial, path)
        return True


def _replace_new(partial: Path, path: Path) -> bool:
    """For file systems without hard links, such as exFAT and many network drives. An interruption can leave an empty file."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    partial.replace(path)
    return True


@contextlib.contextmanager
def _temporary_file_with(path: Path, content: str | bytes, lasting: bool = True) -> Iterator[Path]:
    raw = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:MAX_NAME_OF_PARTIAL]}.")
    partial = Path(name)
    try:
        with add_file_name_to_errors(path), os.fdopen(handle, "wb") as file:
            file.write(raw)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(path.stat().st_mode if path.exists() else NEW_FILE_MODE)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def add_file_name_to_errors(path: Path) -> Iterator[None]:
    """Adds the file's name to errors of the system, which have none if writing to an open file fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts `img2` before `img10` and ignores case; equal only for equal names."""
    # Text and numbers alternate in the key, so text is never compared with a number.
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def rename_hint(folder: Path, name: str, is_folder: bool = False) -> str:
    """`; rename Train.yml to train.yml`, if the folder has a file whose name is nearly the expected one; otherwise empty."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if entry.is_dir() == is_folder)
    except OSError:
        return ""
    likely = max(names, key=lambda known: _similarity(known, name), default="")
    return f"; rename {likely} to {name}" if _similarity(likely, name) >= MIN_SIMILARITY else ""


def _similarity(one: str, other: str) -> float:
    """From 0 to 1, without regard to case; 0 for the same name, and for names with other digits."""
    if one == other or re.findall(r"\d", one) != re.findall(r"\d", other):
        return 0.0
    return difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio()


@contextlib.contextmanager
def lock_for_flux_command(folder: Path) -> Iterator[None]:
    """Locks a folder against other flux commands until the process ends. Raises FluxError if one holds the lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            raise FluxError(
                f"another flux command is using {folder}", "", "wait until it has ended, then run this again"
            )
        yield
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False if another process holds the lock.

    Without effect on a file system that has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
