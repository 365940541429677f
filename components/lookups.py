"""Answers that hold for a while, asked for once by all the resources of an `up` that want them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

# Long enough for a thousand jobs to share an answer, short enough that what changes under a long `up` is noticed.
SECONDS = 30.0

T = TypeVar("T")


class Lookups:
    """Thread-safe. What an answer is `wanted` for decides whether it is kept: a no is asked again each time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._asking: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, ask: Callable[[], T], wanted: Callable[[T], bool]) -> T:
        """The answer of at most SECONDS ago, or what `ask` gives. Those who want the same wait for one of them to ask."""
        with self._lock:
            asking = self._asking.setdefault(key, Lock())
        with asking:
            kept = self._kept.get(key)
            if kept is not None and self._clock() - kept[0] < SECONDS:
                answer: T = kept[1]
                return answer
            answer = ask()
            if wanted(answer):
                self._kept[key] = (self._clock(), answer)
            return answer
