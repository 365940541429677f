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

from engine.backend import replace_file
from engine.errors import LockedError
from engine.state import now


@dataclass(frozen=True)
class Lock:
    """A lock that is held."""

    path: Path

    def release(self) -> None:
        """Let others work on the stack."""
        self.path.unlink(missing_ok=True)


def take(folder: Path, tell: Callable[[str], None]) -> Lock:
    """Lock the stack of this lock folder.  Raises LockedError where somebody else is at it."""
    for path in _others(folder, None):
        content = _read(path)
        if not _has_ended(content):
            continue
        path.unlink(missing_ok=True)
        tell(
            f"took over the lock of an update that has ended without releasing it (process {content.get('pid')})"
        )
    _refuse(folder, None)
    lock = Lock(folder / f"{uuid.uuid4()}.json")
    content = {"pid": os.getpid(), "username": _user(), "hostname": socket.gethostname(), "timestamp": now()}
    replace_file(lock.path, json.dumps(content, separators=(",", ":")).encode())
    try:
        _refuse(folder, lock.path)  # two that looked at the same time both see each other here
    except LockedError:
        lock.release()
        raise
    return lock


def cancel(folder: Path) -> int:
    """Remove all locks; the number removed."""
    paths = _others(folder, None)
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _others(folder: Path, own: Path | None) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path != own) if folder.is_dir() else []


def _refuse(folder: Path, own: Path | None) -> None:
    others = _others(folder, own)
    if not others:
        return
    lines = [
        f"the stack is currently locked by {len(others)} lock(s). Either wait for the other process(es) to end or "
        "delete the lock file with `cancel`."
    ]
    for path in others:
        content = _read(path)
        lines.append(
            f"  {path.name}: created by {content.get('username')}@{content.get('hostname')} "
            f"(pid {content.get('pid')}) at {content.get('timestamp')}"
        )
    raise LockedError("\n".join(lines))


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
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
