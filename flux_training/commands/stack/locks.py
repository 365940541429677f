"""Finds the lock that a killed Pulumi CLI leaves behind."""

import json
import socket
from pathlib import Path
from typing import Any

from flux_training.commands.stack.project import project_name
from flux_training.training.processes import is_alive
from flux_training.training.values import read_time


def is_locked_by_dead_process(root: Path, stack: str) -> bool:
    """Whether the stack is locked, and only by processes of this machine that have ended.

    Sees the locks of the file backend in the checkout only.
    """
    locks = [_read(path) for path in _lock_files(root, stack)]
    return bool(locks) and all(_is_dead(lock) for lock in locks)


def is_locked(root: Path, stack: str) -> bool:
    """Whether the stack is locked, also by a process that has ended. Sees the locks of the file backend only."""
    return bool(_lock_files(root, stack))


def processes_that_update(root: Path, stack: str) -> list[int]:
    """The processes of this machine that hold the stack's lock. Sees the locks of the file backend in the checkout only."""
    locks = [_read(path) for path in _lock_files(root, stack)]
    own = [lock for lock in locks if lock.get("hostname") == socket.gethostname() and not _is_dead(lock)]
    return sorted(lock["pid"] for lock in own if isinstance(lock.get("pid"), int))


def has_journal(root: Path, stack: str) -> bool:
    """Whether the embedded engine has left steps that are not in the state file yet."""
    return (root / ".pulumi" / "journals" / project_name(root) / f"{stack}.jsonl").exists()


def _lock_files(root: Path, stack: str) -> list[Path]:
    return list((root / ".pulumi/locks/organization" / project_name(root) / stack).glob("*.json"))


def _is_dead(lock: dict[str, Any]) -> bool:
    """False for a lock of another host and for one that cannot be read."""
    pid = lock.get("pid")
    if lock.get("hostname") != socket.gethostname() or not isinstance(pid, int):
        return False
    return not is_alive(pid, read_time(lock.get("timestamp")))


def _read(path: Path) -> dict[str, Any]:
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return lock if isinstance(lock, dict) else {}
