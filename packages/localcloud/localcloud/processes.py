"""Processes identified by pid and start time, so that a reused pid is never signalled, and file locks."""

import contextlib
import fcntl
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

# psutil computes a process's start time from the system clock, so the value changes when
# the clock is adjusted.
MAX_CLOCK_DRIFT_SECONDS = 5.0


def start_time(pid: int) -> str | None:
    """When the process started, as text to store; None when there is no such process. A zombie counts as none."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return str(process.create_time())
    return None


def is_same(pid: int, started: str | None) -> bool:
    """Whether `pid` is alive and still the process that started at `started`."""
    current = start_time(pid)
    return current is not None and abs(float(current) - _seconds(started)) < MAX_CLOCK_DRIFT_SECONDS


def _seconds(started: str | None) -> float:
    """NaN, which is unequal to every time, for what version 0.1 has stored in another format."""
    try:
        return float(started or "nan")
    except ValueError:
        return math.nan


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int, started: str | None) -> None:
    """SIGKILL the process group that was led by the process, also when only its children are left.

    The kernel does not reuse a pid while a group with that number exists. So the group is the right one if `pid` is free or still
    belongs to the same process, and the machine was not restarted since.
    """
    is_free_or_same = start_time(pid) is None or is_same(pid, started)
    if not is_free_or_same or not _seconds(started) >= psutil.boot_time() - MAX_CLOCK_DRIFT_SECONDS:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def try_lock(path: Path) -> IO[str] | None:
    """Lock the file until the returned handle is closed or this process dies. None when another process holds the lock."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    if not path.exists():
        return False
    file = try_lock(path)
    if file is None:
        return True
    file.close()
    return False


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock file; wait for it without limit."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
