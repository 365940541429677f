"""Ctrl-C: the first one stops starting steps, the second one stops everything."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Protocol

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener


class Stoppable(Protocol):
    """Something that starts steps until `stopping` is set."""

    cancelled: bool
    stopping: threading.Event


class StopFlag:
    """A `Stoppable` for runs without a program."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.cancelled = False


class Interrupts:
    """Handles SIGINT and SIGTERM for the target while it is entered. `cancel()` does what the first signal does."""

    def __init__(self, listener: Listener, on_second: Callable[[], None]) -> None:
        self._listener = listener
        self._on_second = on_second
        self._target: Stoppable | None = None
        self._count = 0
        self._is_cancelled = False

    def watch(self, target: Stoppable) -> Interrupts:
        self._target = target
        return self

    def __enter__(self) -> None:
        self._count = 0
        self._old = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._is_cancelled:
            self.cancel()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._target = None
        if self._count:
            self._listener.message(events.ERROR, "", "update canceled")

    def cancel(self) -> None:
        """Start no more steps. Running steps are finished and saved."""
        self._is_cancelled = True
        if self._target is not None:
            self._target.cancelled = True
            self._target.stopping.set()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 1:
            threading.Thread(target=self._on_second).start()  # this thread may hold a lock that it needs
            return
        self.cancel()
        self._listener.message(
            events.INFO,
            "",
            "canceling: running steps are being finished and saved; press Ctrl-C again to stop at once",
            ephemeral=True,  # shown now rather than with the diagnostics at the end
        )
