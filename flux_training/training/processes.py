"""Whether a process of this machine is running. Locks and claims name their holder by its process id."""

from contextlib import suppress
from datetime import datetime

import psutil

# psutil computes a process's start time from the system clock, so the value changes when
# the clock is adjusted.
CLOCK_TOLERANCE_SECONDS = 5.0


def is_alive(pid: int, held_since: datetime | None = None) -> bool:
    """Whether the process is running. With `held_since`, a process that started later does not count: it reuses the id.

    A zombie, which has ended but was not waited for, is not running.
    """
    with suppress(psutil.AccessDenied):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if held_since is not None:
                return process.create_time() <= held_since.timestamp() + CLOCK_TOLERANCE_SECONDS
        except psutil.NoSuchProcess:
            return False
    return True
