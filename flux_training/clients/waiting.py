"""How the clients wait: between requests, and for several at once."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")
A = TypeVar("A")

THREADS = 16

# A factor for every waiting time. Tests of whole commands set it to a fraction.
SCALE_VARIABLE = "FLUX_WAIT_SCALE"


def pause(seconds: float) -> None:
    """Wait before the next request to a service."""
    time.sleep(seconds * float(os.environ.get(SCALE_VARIABLE, "1")))


def in_parallel(call: Callable[[A], R], items: Sequence[A]) -> list[R]:
    """The results of calls that wait for a service, in the order of the items."""
    if not items:
        return []
    with ThreadPoolExecutor(min(THREADS, len(items))) as threads:
        return list(threads.map(call, items))
