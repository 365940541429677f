"""Words from a provider to the person in front of the terminal, in the row of the resource they are about.

A provider process cannot use pulumi.log (it has no engine); it has the engine's address in its arguments [PULUMI.md, measured].
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import grpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

PROGRESS_SECONDS = 2.0

_begun = time.monotonic()
_last_told: dict[str, float] = {}


def progress(text: str, urn: str) -> None:
    """Shown in the resource's row while it lasts, not repeated at the end.

    At most every two seconds, and not in the first two: without a terminal each is a line of its own.
    """
    now = time.monotonic()
    if now - _last_told.get(urn, _begun) < PROGRESS_SECONDS:
        return
    _last_told[urn] = now
    _log(text, urn, ephemeral=True)


class Pulse:
    """How a transfer of `count` files, `size` bytes together (0: not known), gets on, at what rate, and for how long still."""

    def __init__(
        self,
        verb: str,
        count: int,
        size: int,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verb, self._count, self._size, self._tell, self._clock = verb, count, size, tell, clock
        self._begun = clock()
        self._done = self._sent = 0

    def told(self, files: int, size: int) -> None:
        """So many files and bytes more are through."""
        self._done += files
        self._sent += size
        self._tell(self.text())

    def text(self) -> str:
        """`uploading 120 of 2000, 12.3 MB/s, about 15 s left`."""
        seconds = max(self._clock() - self._begun, 1e-6)
        done, whole = (self._sent, self._size) if self._size else (self._done, self._count)
        left = (whole - done) * seconds / done if done else 0.0
        rate = (
            f", {self._sent / seconds / 1e6:.1f} MB/s"
            if self._size
            else f", {self._done / seconds:.0f} a second"
        )
        return f"{self._verb} {self._done} of {self._count}{rate}" + (
            f", about {left:.0f} s left" if left >= 1 else ""
        )


def inform(text: str, urn: str = "") -> None:
    """Shown among the diagnostics."""
    _log(text, urn, ephemeral=False)


def _log(text: str, urn: str, ephemeral: bool) -> None:
    engine = _engine()
    if engine is None:
        return
    request = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=text, urn=urn, ephemeral=ephemeral)
    try:
        engine.Log(request, timeout=5)
    except grpc.RpcError:
        # Words are all that is lost; the work they are about goes on.
        return


@cache
def _engine() -> Any:
    address = sys.argv[1] if len(sys.argv) > 1 else ""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return None
    # pulumi ships no types for its gRPC stubs' constructors.
    return engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))  # type: ignore[no-untyped-call,unused-ignore]
