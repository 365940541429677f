"""The lock on a stack: a file that says who is at work on it, the same that the CLI writes and heeds.

A lock whose process has ended on this host is taken over; any other is respected.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.errors import LockedError
from engine.state import now
from engine.stores import Store


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    store: Store
    key: str

    def release(self) -> None:
        """Let others work on the stack."""
        self.store.remove(self.key)


def take(store: Store, folder: str, tell: Callable[[str], None]) -> Lock:
    """Lock the stack of this lock folder.  Raises LockedError where somebody else is at it."""
    for key in _locks(store, folder):
        content = _read(store, key)
        if not _has_ended(content):
            continue
        store.remove(key)
        tell(
            f"took over the lock of an update that has ended without releasing it (process {content.get('pid')})"
        )
    _refuse(store, folder, None)
    lock = Lock(store, f"{folder}/{uuid.uuid4()}.json")
    content = {"pid": os.getpid(), "username": _user(), "hostname": socket.gethostname(), "timestamp": now()}
    store.write(lock.key, json.dumps(content, separators=(",", ":")).encode())
    try:
        _refuse(store, folder, lock.key)  # two that looked at the same time both see each other here
    except LockedError:
        lock.release()
        raise
    return lock


def cancel(store: Store, folder: str) -> int:
    """Remove all locks; the number removed."""
    keys = _locks(store, folder)
    for key in keys:
        store.remove(key)
    return len(keys)


def _locks(store: Store, folder: str) -> list[str]:
    return [key for key in store.keys(folder) if key.endswith(".json") and "/." not in key]


def _refuse(store: Store, folder: str, own: str | None) -> None:
    others = [key for key in _locks(store, folder) if key != own]
    if not others:
        return
    lines = [
        f"the stack is currently locked by {len(others)} lock(s). Either wait for the other process(es) to end or "
        "delete the lock file with `cancel`."
    ]
    for key in others:
        content = _read(store, key)
        lines.append(
            f"  {key.rpartition('/')[2]}: created by {content.get('username')}@{content.get('hostname')} "
            f"(pid {content.get('pid')}) at {content.get('timestamp')}"
        )
    raise LockedError("\n".join(lines))


def _read(store: Store, key: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(store.read(key) or b"{}")
        if isinstance(content, dict):
            return content
    return {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return str(os.getuid())


def _has_ended(content: dict[str, Any]) -> bool:
    """Whether the lock's process is known to have ended: only this host's processes can be looked at."""
    pid = content.get("pid")
    if content.get("hostname") != socket.gethostname() or not isinstance(pid, int):
        return False
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _is_zombie(pid) or _started_later(pid, str(content.get("timestamp")))


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits to be collected (Linux): it answers signals, but works no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _started_later(pid: int, timestamp: str) -> bool:
    """Whether the process with this number is younger than the lock: the number was given out again (Linux)."""
    try:
        locked = datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime")
        )
    except (OSError, ValueError, StopIteration, IndexError):
        return False
    return booted + ticks / os.sysconf("SC_CLK_TCK") > locked + 5
