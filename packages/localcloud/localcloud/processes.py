"""Processes known by pid and start time, so that a reused pid is never taken for ours, and file locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def boot_id() -> str:
    """What tells this run of the machine from those before it; empty where the system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def start_time(pid: int) -> str | None:
    """An opaque mark of when the process began, None when there is none (a zombie counts as none)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The command's name, in brackets, may hold spaces: fields are counted after the last bracket.
            values = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if values[0] == "Z" else f"{values[19]}@{boot_id()}"
    found = subprocess.run(  # noqa: S603 (a fixed program and a number)
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    began = found.stdout.strip()
    return f"{began}@{boot_id()}" if began else None


def is_same(pid: int, started: str | None) -> bool:
    """True when `pid` is alive and is still the process that began at `started`."""
    return started is not None and start_time(pid) == started


def send(pid: int, number: signal.Signals) -> None:
    """Signal one process; a process that has gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int, started: str | None) -> None:
    """SIGKILL to a process that led a group, and to all that is left of its group; gone is no error.

    Nothing is sent when the number may belong to somebody else by now: a pid is not given again while a group of that
    number lives, so the group is ours when the pid is free or still ours, on the same run of the machine.
    """
    now_there = start_time(pid)
    if started is None or not started.endswith(f"@{boot_id()}") or now_there not in (None, started):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def try_lock(path: Path) -> IO[str] | None:
    """Take the lock file for as long as the returned file is open; None when somebody else holds it.

    The kernel lets go of it when its holder dies, however that was.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_locked(path: Path) -> bool:
    """True when a live process holds the lock file."""
    if not path.exists():
        return False
    file = try_lock(path)
    if file is None:
        return True
    file.close()
    return False


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock file, waiting for it as long as it takes."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
