"""The lock on a stack: a file that says who is working on it. The CLI writes and respects the same files.

Our locks also identify their process, by a namespace of process ids and the process's start time; the CLI ignores
these keys. A lock whose process has ended on this machine is taken over. In a folder, that includes the CLI's locks with
this machine's name, and locks from before its last restart; in a bucket it does not, because host names are not unique.
"""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi_embedded.errors import LockedError
from pulumi_embedded.state.serialization import current_time
from pulumi_embedded.state.stores import Store


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds."""

    store: Store
    key: str

    def release(self) -> None:
        self.store.remove(self.key)


def take_lock(store: Store, folder: str, on_take_over: Callable[[str], None]) -> Lock:
    """Lock the stack whose locks are in this folder. Raises LockedError if another process holds a lock."""
    for key in _lock_keys(store, folder):
        content = _read(store, key)
        if _is_alive(content, store.is_local) is not False:
            continue
        store.remove(key)
        on_take_over(
            f"took over the lock of an update that has ended without releasing it (process {content.get('pid')})"
        )
    _check_unlocked(store, folder, own=None)
    lock = Lock(store, f"{folder}/{uuid.uuid4()}.json")
    content = {
        "pid": os.getpid(),
        "username": current_user(),
        "hostname": socket.gethostname(),
        "timestamp": current_time(),
        "place": process_namespace(),
        "started": _start_time(os.getpid()),
    }
    store.write(lock.key, json.dumps(content, separators=(",", ":")).encode())
    try:
        # If two processes take the lock at the same time, both fail here.
        _check_unlocked(store, folder, own=lock.key)
    except LockedError:
        lock.release()
        raise
    return lock


def remove_locks(store: Store, folder: str) -> tuple[int, list[int]]:
    """Remove all locks. Returns how many there were, and which of their processes still run."""
    keys = _lock_keys(store, folder)
    contents = [_read(store, key) for key in keys]
    for key in keys:
        store.remove(key)
    return len(keys), [content["pid"] for content in contents if _is_alive(content, store.is_local)]


def _lock_keys(store: Store, folder: str) -> list[str]:
    return [key for key in store.list_keys(folder) if key.endswith(".json") and "/." not in key]


def _check_unlocked(store: Store, folder: str, own: str | None) -> None:
    others = [key for key in _lock_keys(store, folder) if key != own]
    if not others:
        return
    contents = {key: _read(store, key) for key in others}
    is_running = any(_is_alive(content, store.is_local) for content in contents.values())
    advice = (
        "An update is running on this machine: wait until it ends."
        if is_running
        else f"Wait until the other update ends; if none is running, {_cancel_command(folder)} deletes the lock."
    )
    lines = [f"the stack is currently locked by {len(others)} lock(s). {advice}"]
    for key, content in contents.items():
        lines.append(
            f"  {key.rpartition('/')[2]}: created by {content.get('username')}@{content.get('hostname')} "
            f"(pid {content.get('pid')}) at {content.get('timestamp')}"
        )
    raise LockedError("\n".join(lines))


def _cancel_command(folder: str) -> str:
    """As the user can type it: with the path of this environment's script if there is no `pulumi` on the PATH."""
    script = Path(sys.executable).with_name("pulumi")
    program = os.path.relpath(script) if shutil.which("pulumi") is None and script.exists() else "pulumi"
    return f"`{program} cancel --stack {folder.rpartition('/')[2]}`"


def _read(store: Store, key: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(store.read(key) or b"{}")
        if isinstance(content, dict):
            return content
    return {}


def current_user() -> str:
    """The user's name, or number if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run with a user id that has no name
        return str(os.getuid())


def _is_alive(content: dict[str, Any], is_local: bool) -> bool | None:
    """Whether the lock's process still runs, or None if that cannot be known. `is_local`: the lock is in a folder."""
    pid, started, namespace = content.get("pid"), content.get("started"), content.get("place")
    if not isinstance(pid, int):
        return None
    if started and namespace == process_namespace():
        return _start_time(pid) == str(started)
    if not is_local or content.get("hostname") != socket.gethostname():
        return None
    # The CLI's lock does not store a start time, and another process may have got its process id since.
    if namespace is None:
        return None if _start_time(pid) else False
    return False if str(namespace).split()[0] != _boot_id() else None


def process_namespace() -> str:
    """Where process ids are unique: this boot of this machine and, on Linux, the container's pid namespace."""
    try:
        return f"{_boot_id()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return _boot_id()


def _boot_id() -> str:
    """Identifies this boot of the machine; where the system has no such id, the machine's network card."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{uuid.getnode():012x}"


def _start_time(pid: int) -> str:
    """When the process started. Empty if there is no such process or it is a zombie.

    In ticks since boot on Linux, where psutil's `create_time()` would change when the clock is set.
    """
    if Path("/proc/self/stat").exists():
        try:
            # In /proc/PID/stat, the command's name is in brackets and may contain spaces, so split
            # after the last bracket.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]
    found = subprocess.run(  # noqa: S603 - a fixed program and a number
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
