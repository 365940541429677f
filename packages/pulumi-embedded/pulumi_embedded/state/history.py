"""A stack's history, in the CLI's files: after each update, what was done and the resulting checkpoint.

    .pulumi/history/<project>/<stack>/<stack>-<nanoseconds>.history.json      what was done, and the result
    .pulumi/history/<project>/<stack>/<stack>-<nanoseconds>.checkpoint.json   the state after it
    .pulumi/backups/<project>/<stack>/<stack>.<nanoseconds>.json              the same state

Compressed files end in .json.gz. `PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS=true` turns the backups off.
"""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_embedded import VERSION
from pulumi_embedded.state.backend import Backend, StackId
from pulumi_embedded.state.serialization import encode_json

_NO_BACKUPS: Final = "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS"


@dataclass
class HistoryEntry:
    """One update."""

    kind: str
    message: str = ""
    exec_kind: str = "cli"
    config: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    started: int = field(default_factory=lambda: int(time.time()))
    succeeded: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "startTime": self.started,
            "message": self.message,
            "environment": {
                "exec.kind": self.exec_kind,
                "exec.agent": f"python-engine/{VERSION}",
                "pulumi.os": platform.system().lower(),
                "runtime.name": "python",
            },
            "config": dict(self.config),
            "version": 0,
            "result": "succeeded" if self.succeeded else "failed",
            "endTime": int(time.time()),
            **({"resourceChanges": dict(self.changes)} if self.changes else {}),
        }


def add_entry(backend: Backend, stack: StackId, entry: HistoryEntry) -> None:
    """Record an update that has ended and whose checkpoint is written. Raises OSError."""
    moment = time.time_ns()
    prefix = f"{backend.history_folder(stack)}/{stack.name}-{moment}"
    backend.store.write(
        f"{prefix}.history.json{backend.file_suffix}", backend.compress(encode_json(entry.to_json()))
    )
    checkpoint = backend.stack_key(stack)
    if checkpoint is None:
        raise FileNotFoundError(f"the stack {stack.project}/{stack.name} was removed during the update")
    suffix = checkpoint.removeprefix(f"stacks/{stack.project}/{stack.name}")
    backend.store.copy(checkpoint, f"{prefix}.checkpoint{suffix}")
    if os.environ.get(_NO_BACKUPS, "").lower() not in ("1", "true"):
        folder = f"backups/{stack.project}/{stack.name}"
        backend.store.copy(checkpoint, f"{folder}/{stack.name}.{moment}{suffix}")
