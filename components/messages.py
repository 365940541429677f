"""Messages from a provider to the user, shown in the row of their resource.

A provider process cannot use pulumi.log. It gets the engine's address as an argument (docs/pulumi.md).
"""

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import grpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

from flux_training.training.words import make_command

PROGRESS_SECONDS = 2.0

_started = time.monotonic()
_last_shown: dict[str, float] = {}


def show_progress(text: str, urn: str) -> None:
    """Show a temporary message in the resource's row.

    Shows at most one message every two seconds, and none in the first two: without a terminal each message takes a line.
    """
    now = time.monotonic()
    if now - _last_shown.get(urn, _started) < PROGRESS_SECONDS:
        return
    _last_shown[urn] = now
    _log(text, urn, ephemeral=True)


class TransferProgress:
    """Describes a running transfer: progress, rate and remaining time.

    `count` is the number of files and `size` their total size in bytes (0 if unknown).
    """

    def __init__(
        self,
        verb: str,
        count: int,
        size: int,
        on_progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verb, self._count, self._size = verb, count, size
        self._on_progress, self._clock = on_progress, clock
        self._started = clock()
        self._files = self._bytes = 0

    def add(self, files: int, size: int) -> None:
        """Count more files and bytes as transferred."""
        self._files += files
        self._bytes += size
        self._on_progress(self.text())

    def text(self) -> str:
        """The progress as text, such as `uploading 120 of 2000, 12.3 MB/s, about 15 s left`."""
        seconds = max(self._clock() - self._started, 1e-6)
        done, total = (self._bytes, self._size) if self._size else (self._files, self._count)
        left = (total - done) * seconds / done if done else 0.0
        rate = (
            f"{self._bytes / seconds / 1e6:.1f} MB/s"
            if self._size
            else f"{self._files / seconds:.0f} files/s"
        )
        remaining = f", about {left:.0f} s left" if left >= 1 else ""
        return f"{self._verb} {self._files} of {self._count}, {rate}{remaining}"


def make_command_for(owner: str, target: str) -> str:
    """The command for a stack (`<project>/<stack>`), as a user can type it: `make refresh STACK=prod`."""
    return make_command(target, owner.rpartition("/")[2])


def inform(text: str, urn: str = "") -> None:
    """Show a message among the diagnostics."""
    _log(text, urn, ephemeral=False)


def _log(text: str, urn: str, ephemeral: bool) -> None:
    engine = _engine()
    if engine is None:
        return
    request = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=text, urn=urn, ephemeral=ephemeral)
    try:
        engine.Log(request, timeout=5)
    except grpc.RpcError:
        # A lost message must not stop the update, so errors are ignored.
        return


@cache
def _engine() -> Any:
    address = sys.argv[1] if len(sys.argv) > 1 else ""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return None
    # pulumi ships no types for its gRPC stubs' constructors.
    return engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))  # type: ignore[no-untyped-call,unused-ignore]  # see above
