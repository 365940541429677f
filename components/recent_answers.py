"""Answers that all resources of an update share for a short time, so that a thousand of them ask a service once."""

import time
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

# Short enough that a change made during a long update is noticed.
MAX_AGE_SECONDS = 30.0

T = TypeVar("T")


class RecentAnswers:
    """Thread-safe; threads with the same question wait for one of them to ask it. Only useful answers are kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._asking: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, ask: Callable[[], T], is_useful: Callable[[T], bool]) -> T:
        with self._lock:
            asking = self._asking.setdefault(key, Lock())
        with asking:
            kept = self._kept.get(key)
            if kept is not None and self._clock() - kept[0] < MAX_AGE_SECONDS:
                answer: T = kept[1]
                return answer
            answer = ask()
            if is_useful(answer):
                self._kept[key] = (self._clock(), answer)
            return answer
