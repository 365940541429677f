"""Opens only regular files, and follows no link that leaves the project.

A job folder may come from a stranger: a pull request, an archive. A link in it could send the operator's keys to the bucket, and
opening a named pipe would wait for ever.
"""

import errno
import os
import stat
from pathlib import Path

PROJECT_FILE = "Pulumi.yaml"
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular_file(path: Path, limit: int = -1) -> bytes:
    """The file's bytes, at most `limit` of them. Raises OSError, also for anything but a regular file, without waiting."""
    # Check before opening, because opening a device can have a side effect.
    _refuse_special(path, path.stat().st_mode)
    with open(path, "rb", opener=_without_waiting) as file:
        # Check again, because the file may have been replaced since the first check.
        _refuse_special(path, os.fstat(file.fileno()).st_mode)
        return file.read(limit)


def special_kind(path: Path) -> str:
    """`a named pipe (FIFO)`, `a folder`, …; empty for a regular file, and for one that does not exist."""
    try:
        return _kind(path.stat().st_mode)
    except OSError:
        return ""


def outside_target(path: Path, root: Path) -> str:
    """Where the path leads if links take it out of the folder `root`; empty if it stays inside."""
    target = os.path.realpath(path)
    return "" if Path(target).is_relative_to(os.path.realpath(root)) else target


def target_outside_project(file: Path) -> str:
    """Where a file of a `dataset/` leads if it is a link out of the project; empty if it is not."""
    return outside_target(file, project_of_job_folder(file.parent.parent)) if file.is_symlink() else ""


def project_of_job_folder(job_folder: Path) -> Path:
    """The project that a job folder belongs to: the nearest folder above it with Pulumi.yaml, or else the one that holds `jobs/`."""
    above = job_folder.absolute().parents
    found = next((folder for folder in above if (folder / PROJECT_FILE).is_file()), None)
    return found or above[min(1, len(above) - 1)]


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_special(path: Path, mode: int) -> None:
    if kind := _kind(mode):
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def _kind(mode: int) -> str:
    return next((words for is_kind, words in KINDS if is_kind(mode)), "")
