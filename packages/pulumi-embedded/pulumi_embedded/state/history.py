"""A stack's history, as the CLI keeps it: after each update who did what, and the checkpoint it came to.

    .pulumi/history/<project>/<stack>/<stack>-<nanoseconds>.history.json      what was done, and how it ended
    .pulumi/history/<project>/<stack>/<stack>-<nanoseconds>.checkpoint.json   the state after it
    .pulumi/backups/<project>/<stack>/<stack>.<nanoseconds>.json              the same state

Packed, all three end in .json.gz.
`PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS=true` leaves out the last, as it does with the CLI.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_embedded import VERSION
from pulumi_embedded.state.backend import Backend
from pulumi_embedded.state.serialization import encoded
from pulumi_embedded.state.snapshot import StackId

_NO_BACKUPS: Final = "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS"


@dataclass
class Entry:
    """One update."""

    kind: str
    message: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    started: int = field(default_factory=lambda: int(time.time()))
    good: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "kind": self.kind,
            "startTime": self.started,
            "message": self.message,
            "environment": {
                "exec.kind": "cli",
                "exec.agent": f"python-engine/{VERSION}",
                "pulumi.os": platform.system().lower(),
                "runtime.name": "python",
            },
            "config": dict(self.config),
            "version": 0,
            "result": "succeeded" if self.good else "failed",
            "endTime": int(time.time()),
            **({"resourceChanges": dict(self.changes)} if self.changes else {}),
        }


def add(backend: Backend, stack: StackId, entry: Entry) -> None:
    """Note an update that has ended and whose checkpoint has been written.  Raises OSError."""
    moment = time.time_ns()
    place = f"{backend.history_folder(stack.project, stack.name)}/{stack.name}-{moment}"
    backend.store.write(f"{place}.history.json{backend.ending}", backend.packed(encoded(entry.to_json())))
    checkpoint = backend.stack_key(stack.project, stack.name)
    if checkpoint is None:
        raise FileNotFoundError(f"{stack.project}/{stack.name} has been removed meanwhile")
    ending = checkpoint.removeprefix(f"stacks/{stack.project}/{stack.name}")
    backend.store.copy(checkpoint, f"{place}.checkpoint{ending}")
    if os.environ.get(_NO_BACKUPS, "").lower() not in ("1", "true"):
        folder = backend.backup_folder(stack.project, stack.name)
        backend.store.copy(checkpoint, f"{folder}/{stack.name}.{moment}{ending}")
