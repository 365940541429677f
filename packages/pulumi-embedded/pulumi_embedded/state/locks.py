"""The lock on a stack: a file that says who is at work on it, the same that the CLI writes and heeds.

Ours also say where their process can be seen and when it began (the CLI skips what it does not know).  A lock
whose process has ended here is taken over.  In a bucket only what can be seen counts, for machines of one name are
common; in a folder of this machine's also a lock of the CLI's under this machine's name, and one from before it restarted.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi_embedded.errors import LockedError
from pulumi_embedded.state.serialization import now
from pulumi_embedded.state.stores import Store


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
        if _is_alive(content, store.is_local) is not False:
            continue
        store.remove(key)
        tell(
            f"took over the lock of an update that has ended without releasing it (process {content.get('pid')})"
        )
    _refuse(store, folder, None)
    lock = Lock(store, f"{folder}/{uuid.uuid4()}.json")
    content = {
        "pid": os.getpid(),
        "username": _user(),
        "hostname": socket.gethostname(),
        "timestamp": now(),
        "place": _place(),
        "started": _start_of(os.getpid()),
    }
    store.write(lock.key, json.dumps(content, separators=(",", ":")).encode())
    try:
        _refuse(store, folder, lock.key)  # two that looked at the same time both see each other here
    except LockedError:
        lock.release()
        raise
    return lock


@dataclass(frozen=True)
class Cancelled:
    """The locks that were removed; `alive`: the processes that are known to go on all the same."""

    count: int
    alive: list[int]


def cancel(store: Store, folder: str) -> Cancelled:
    """Remove all locks."""
    keys = _locks(store, folder)
    contents = [_read(store, key) for key in keys]
    for key in keys:
        store.remove(key)
    return Cancelled(
        len(keys), [content["pid"] for content in contents if _is_alive(content, store.is_local)]
    )


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


def _is_alive(content: dict[str, Any], is_local: bool) -> bool | None:
    """Whether the lock's process still runs; None where that cannot be known.  `is_local`: the lock lies in a folder."""
    pid, started, place = content.get("pid"), content.get("started"), content.get("place")
    if not isinstance(pid, int):
        return None
    if started and place == _place():
        return _start_of(pid) == str(started)
    if not is_local or content.get("hostname") != socket.gethostname():
        return None
    if place is None:  # the CLI's: a process of that number may be another one by now
        return None if _start_of(pid) else False
    return False if str(place).split()[0] != _boot() else None


def _place() -> str:
    """Where processes have the numbers that they have here: this run of this machine, and a container's own numbers."""
    try:
        return f"{_boot()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return _boot()


def _boot() -> str:
    """Names this run of this machine; where it is no Linux, the machine by its network card."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():012x}"


def _start_of(pid: int) -> str:
    """A mark of when the process began; empty where there is none (one that only waits to be collected is none)."""
    if Path("/proc/self/stat").exists():
        try:
            # The command's name, in brackets, may hold spaces: fields are counted after the last bracket.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]
    found = subprocess.run(  # noqa: S603 - a fixed program and a number
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
