"""How many transfers may be under way at one time: as many as the line and the storage get through, and no more than pay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# At first, at most. An answer of 100 ms then bounds nothing below 640 transfers a second.
FIRST_WIDTH = 32
MOST_WIDTH = 64
# Bytes of the files that are under way at one time; more than this waits, unless it is the only one.
MOST_BYTES = 128 * 1024 * 1024

# A rate is that of so many transfers for each that may be under way.
ROUND = 3
# Half as many more at a time are to bring this part of half as many more a second.
PAYS = 0.5
# Rates to wait before what did not pay is tried again.
REST = 16


class Worth:
    """How many at a time are worth it. Where answers take long, half as many more bring half as many more a second; where the line or
    the machine is full, they only wait for each other: then the step is taken back."""

    def __init__(self, first: int, most: int) -> None:
        self.width = first
        self._most = most
        self._before: tuple[int, float] | None = None
        self._rest = 0

    def measured(self, rate: float) -> None:
        """`rate`: transfers a second with `width` of them under way."""
        before, self._before = self._before, None
        if before and not _pays(before, (self.width, rate)):
            self.width, self._rest = before[0], REST
        elif self._rest:
            self._rest -= 1
        elif self.width < self._most:
            self._before = self.width, rate
            self.width = min(self._most, self.width + max(1, self.width // 2))


def _pays(before: tuple[int, float], after: tuple[int, float]) -> bool:
    wider, faster = (new / old - 1 for old, new in zip(before, after, strict=True))
    return faster >= PAYS * wider


class Pace:
    """Whose turn it is. One more under way for each round that went well, up to what is worth it; half as many at each 429, 503 or timeout.

    Thread-safe.
    """

    def __init__(
        self,
        first: int = FIRST_WIDTH,
        most: int = MOST_WIDTH,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.width = float(first)
        self._worth = Worth(first, most)
        self._most_bytes = most_bytes
        self._clock = clock
        self._room = threading.Condition()
        self._under_way = self._bytes = self._halvings = 0
        self._since: float | None = None
        self._ended = 0

    @contextmanager
    def turn(self, size: int = 0) -> Iterator[int]:
        """Wait for room for `size` bytes; gives what `slow_down` wants to know."""
        with self._room:
            self._room.wait_for(lambda: self._has_room(size))
            if self._under_way == 0:
                self._since = None
            self._under_way += 1
            self._bytes += size
            halvings = self._halvings
            self._wake_one()
        try:
            yield halvings
        finally:
            with self._room:
                self._under_way -= 1
                self._bytes -= size
                self._wake_one()

    def went_well(self) -> None:
        with self._room:
            if self.width < self._worth.width:
                self.width = min(float(self._worth.width), self.width + 1 / self.width)
                self._since = None
            else:
                self._measure()

    def slow_down(self, halvings: int) -> None:
        """Once for all the requests that were under way together: their refusals are one piece of news."""
        with self._room:
            if halvings == self._halvings:
                self._halvings += 1
                self.width = max(1.0, self.width / 2)

    def _measure(self) -> None:
        now = self._clock()
        if self._since is None:
            self._since, self._ended = now, 0
            return
        self._ended += 1
        if self._ended >= ROUND * self.width and now > self._since:
            self._worth.measured(self._ended / (now - self._since))
            self.width = float(self._worth.width)
            self._since, self._ended = now, 0

    def _wake_one(self) -> None:
        """Whoever gets a turn wakes the next one in its turn: to wake all that wait at each end costs more than the transfers' own work."""
        if self._has_room(0):
            self._room.notify()

    def _has_room(self, size: int) -> bool:
        if self._under_way == 0:
            return True
        return self._under_way < int(self.width) and self._bytes + size <= self._most_bytes
