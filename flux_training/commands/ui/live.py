"""Reads the stack's status again and again, as `flux status --watch` does, and hands each change to the open pages."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flux_training.clients.connection import Connection
from flux_training.commands.ui.documents import stack_document
from flux_training.commands.watch.follow import poll_seconds
from flux_training.commands.watch.watcher import JobRow, StackStatus, Watcher
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout

# The seconds between two questions to the engine whether an `up` has deployed other runs. Each question starts a process.
OUTPUTS_SECONDS = 15.0


@dataclass(frozen=True)
class DeployedStack:
    """What the last `up` deployed, and the services that it uses."""

    watcher: Watcher
    connection: Connection
    layout: Layout

    @property
    def runs(self) -> Sequence[str]:
        return [job.keys.base for job in self.watcher.jobs]


class LiveStack:
    """One survey for all open pages. While none is open, nothing is requested from any service.

    `find_deployed` returns None if nothing is deployed. Raises FluxError.
    """

    def __init__(self, stack: str, find_deployed: Callable[[], DeployedStack | None]) -> None:
        self.stack = stack
        self.deployed: DeployedStack | None = None
        self.status: StackStatus | None = None
        self._find_deployed = find_deployed
        self._looked_up, self._has_failed = float("-inf"), False
        self._changed = threading.Condition()
        self._readers, self._version = 0, 0
        self._document: dict[str, Any] = {}
        self.is_closed = False

    def run(self) -> None:
        """Until `close`."""
        while not self.is_closed:
            with self._changed:
                self._changed.wait_for(lambda: self._readers > 0 or self.is_closed)
            if not self.is_closed:
                self.read()
            with self._changed:
                self._changed.wait_for(lambda: self.is_closed, self._pause())

    def close(self) -> None:
        """End `run` and all streams."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a page is open."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def newer(self, version: int, timeout: float) -> tuple[int, dict[str, Any]] | None:
        """The document and its version, once there is a newer one; None after `timeout` seconds, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > version or self.is_closed, timeout)
            return None if self._version <= version or self.is_closed else (self._version, self._document)

    def row(self, job: str) -> JobRow | None:
        """The job's row of the last survey."""
        rows = self.status.rows if self.status else ()
        return next((row for row in rows if row.name == job), None)

    def read(self) -> None:
        """Read the status once and publish it."""
        error = ""
        try:
            self._find_deployed_stack()
            if self.deployed and not (self.status and self.status.has_ended):
                self.status = self.deployed.watcher.read()
        except FluxError as failure:
            error = str(failure)
        self._has_failed = bool(error)
        watcher = self.deployed.watcher if self.deployed else None
        clusters = watcher.clusters if watcher else {}
        local = watcher is not None and watcher.local
        self._publish(stack_document(self.stack, self.status, clusters, local, error))

    def _find_deployed_stack(self) -> None:
        """Find what is deployed; again while nothing is, once all runs have ended, and after a failure, which may be due to a cloud that moved."""
        is_settled = self.status is not None and not self.status.has_ended and not self._has_failed
        if is_settled or time.monotonic() - self._looked_up < OUTPUTS_SECONDS:
            return
        found = self._find_deployed()
        self._looked_up = time.monotonic()
        if found is None or self.deployed is None or found.runs != self.deployed.runs:
            self.status = None
        self.deployed = found

    def _publish(self, document: dict[str, Any]) -> None:
        with self._changed:
            if document != self._document:
                self._document = document
                self._version += 1
                self._changed.notify_all()

    def _count(self, by: int) -> None:
        with self._changed:
            self._readers += by
            self._changed.notify_all()

    def _pause(self) -> float:
        return poll_seconds(self.deployed.watcher) if self.deployed else OUTPUTS_SECONDS
