"""Starting, stopping and looking at the daemon, from another process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from localcloud import processes
from localcloud.database import open_database
from localcloud.home import Home
from localcloud.supervisor import end_orphans

POLL = 0.02
START_SECONDS = 120.0  # an old home with many objects takes a while to look through
STOP_SECONDS = 30.0


class DaemonError(Exception):
    """The daemon did not start; `exit_code` is what the command ends with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def status(home: Home) -> dict[str, Any]:
    """HOME/connection.json's content when the daemon runs, {"running": false, …} when it does not."""
    connection = home.load_connection()
    if connection and processes.is_locked(home.daemon_lock):
        return connection
    return {"version": 1, "running": False, "home": str(home.path)}


def start(home: Home, changes: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Start the daemon unless it runs. Gives (connection, True when this call started it). Raises DaemonError.

    Of several calls at once, one starts it and the others find it running. `changes` to the settings are kept; a
    daemon that runs already takes them at its next start.
    """
    home.create()
    with processes.waiting_lock(home.start_lock):
        settings = home.load_settings().changed(changes)
        if settings != home.load_settings() or not home.settings.exists():
            home.save_settings(settings)
        current = status(home)
        if current["running"]:
            return current, False
        _wait_for_release(home)
        _spawn(home)
        return status(home), True


def _wait_for_release(home: Home) -> None:
    """A daemon that is just ending has no connection any more, but still its lock."""
    deadline = time.monotonic() + STOP_SECONDS
    while processes.is_locked(home.daemon_lock):
        if time.monotonic() > deadline:
            raise DaemonError(
                f"a daemon that neither runs nor ends holds {home.daemon_lock}; try `stop` first", 1
            )
        time.sleep(POLL)


def _spawn(home: Home) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as answer:
        with home.daemon_log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 (our own program)
                [
                    *(sys.executable, "-m", "localcloud.daemon"),
                    *("--home", str(home.path), "--report", str(writing)),
                ],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                # Its own session: it outlives the terminal.
                start_new_session=True,
            )
        os.close(writing)
        ready, _, _ = select.select([answer], [], [], START_SECONDS)
        line = answer.readline() if ready else ""
    if not line:
        child.kill()
        child.wait()
        raise DaemonError(
            f"the daemon ended at once (exit code {child.returncode}); see {home.daemon_log}", 1
        )
    message = json.loads(line)
    if not message.get("ok"):
        child.wait()
        raise DaemonError(message["error"], message["exit"])


def stop(home: Home) -> bool:
    """End nodes and daemon and wait until they are gone. Gives False when no daemon ran.

    Nodes that a killed daemon left behind are ended too.
    """
    if not home.path.exists():
        return False
    with processes.waiting_lock(home.start_lock):
        ran = processes.is_locked(home.daemon_lock)
        if ran:
            _end_daemon(home)
        if home.database.exists():
            database = open_database(home.database)
            end_orphans(home, database)
            database.close()
        home.connection.unlink(missing_ok=True)
        return ran


def _end_daemon(home: Home) -> None:
    """SIGTERM to the holder of the lock, SIGKILL when it takes too long."""
    # Whoever holds the lock wrote its pid into it, so this is our daemon and no other process.
    pid = int(home.daemon_lock.read_text(encoding="utf-8"))
    started = processes.start_time(pid)
    deadline = time.monotonic() + STOP_SECONDS + home.load_settings().stop_grace_seconds
    processes.send(pid, signal.SIGTERM)
    # Its lock goes a little before it does.
    while processes.is_locked(home.daemon_lock) or processes.is_same(pid, started):
        if time.monotonic() > deadline:
            processes.send(pid, signal.SIGKILL)
        time.sleep(POLL)
