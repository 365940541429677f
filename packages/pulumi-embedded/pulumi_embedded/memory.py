"""How much memory that was given back the processes keep.

glibc takes large blocks from the system by themselves, and raises what it calls large (128 KiB at first, up to 32 MiB) whenever
such a block is freed.  After one state of 4 MB every later one lies in a heap that small blocks soon pin down: at a thousand
resources 15 to 20 MB of the three processes (docs/decisions/0011).  Naming the threshold keeps it where it is.  What the user says in MALLOC_* counts for the program and the providers, not for the engine itself.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

_LARGE: Final = 128 * 1024
# Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE), "MALLOC_TRIM_THRESHOLD_": str(_LARGE)}
"""The same for a process that is about to be started."""


def keep_little() -> None:
    """For this process; where the C library is another one, nothing."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
