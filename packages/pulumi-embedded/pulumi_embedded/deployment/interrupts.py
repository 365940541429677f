"""Ctrl-C: the first one stops starting steps, the second one stops everything."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener


@dataclass
class StopFlag:
    """Once `stopping` is set, by a failure or an interrupt, no step starts. `cancelled`: it was an interrupt."""

    stopping: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False


@dataclass
class Interrupts:
    """Handles SIGINT and SIGTERM during a deployment or deletion. `cancel()` does what the first signal does."""

    listener: Listener
    on_second: Callable[[], None]
    _target: StopFlag | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)
    _is_cancelled: bool = field(default=False, init=False)

    @contextmanager
    def handled(self, target: StopFlag) -> Iterator[None]:
        """Set the target's flags at the first signal."""
        self._target, self._count = target, 0
        numbers = (signal.SIGINT, signal.SIGTERM)
        old = {number: signal.signal(number, self._on_signal) for number in numbers}
        if self._is_cancelled:
            self.stop_starting_steps()
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            self._target = None
            if self._count:
                self.listener.on_message(events.ERROR, "", "update canceled")

    def stop_starting_steps(self) -> None:
        """Start no more steps. Running steps are finished and saved."""
        self._is_cancelled = True
        if self._target is not None:
            self._target.cancelled = True
            self._target.stopping.set()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._count += 1
        if self._count > 1:
            # Run the handler in a new thread, because the interrupted thread may hold a lock
            # that the handler needs.
            threading.Thread(target=self.on_second).start()
            return
        self.stop_starting_steps()
        self.listener.on_message(
            events.INFO,
            "",
            "canceling: running steps are being finished and saved; press Ctrl-C again to stop at once",
            ephemeral=True,  # shown immediately, and not among the diagnostics at the end
        )
