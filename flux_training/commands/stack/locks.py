"""The lock that a killed Pulumi CLI leaves behind. The embedded engine takes such a lock over by itself; the CLI does not."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

from flux_training.commands.stack.file import PROJECT
from flux_training.training.processes import is_alive


def is_left_behind(root: Path, stack: str) -> bool:
    """Whether the stack is locked, and every lock is of a process of this machine that has ended.

    Looks into the file backend of the checkout; with any other backend it finds no lock.
    """
    folder = root / ".pulumi" / "locks" / "organization" / PROJECT / stack
    locks = [read_lock(path) for path in folder.glob("*.json")] if folder.is_dir() else []
    return bool(locks) and all(is_dead(lock, socket.gethostname(), is_alive) for lock in locks)


def has_journal(root: Path, stack: str) -> bool:
    """Whether the embedded engine left steps that are not in the state file yet."""
    return (root / ".pulumi" / "journals" / PROJECT / f"{stack}.jsonl").exists()


def is_dead(lock: dict[str, object], host: str, alive: Callable[[int], bool]) -> bool:
    """Only what is known to be dead is: a lock of another host, or one that cannot be read, is not."""
    pid = lock.get("pid")
    return lock.get("hostname") == host and isinstance(pid, int) and not alive(pid)


def read_lock(path: Path) -> dict[str, object]:
    """Empty when it cannot be read."""
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return lock if isinstance(lock, dict) else {}
