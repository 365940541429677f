"""Start and stop the daemon, and find out whether it runs, from another process."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from localcloud import processes
from localcloud.database import open_database
from localcloud.home import Home

POLL_SECONDS = 0.02
START_SECONDS = 120.0  # the start takes longer if many stored objects have to be checked
STOP_SECONDS = 30.0


class DaemonError(Exception):
    """The daemon did not start; `exit_code` is for the command."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def cloud_status(home: Home) -> dict[str, Any]:
    """The content of HOME/connection.json when the daemon runs, else {"running": false, …}."""
    connection = home.load_connection()
    # A held lock does not prove that the daemon runs: after a kill, the lock remains until the
    # last thread has ended.
    if connection and processes.start_time(connection["pid"]) and processes.is_locked(home.daemon_lock):
        return connection
    return {"version": 1, "running": False, "home": str(home.path)}


def start_cloud(home: Home, changes: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Store the changed settings, and start the daemon unless it runs. Raises DaemonError.

    Returns (connection, whether this call started it). When several processes call this at once, only one of them starts the daemon.
    """
    home.create()
    with processes.waiting_lock(home.start_lock):
        stored = home.load_settings()
        settings = replace(stored, **changes)
        if settings != stored or not home.settings.exists():
            home.save_settings(settings)
        current = cloud_status(home)
        if current["running"]:
            return current, False
        _wait_for_lock_release(home)
        _spawn(home)
        return cloud_status(home), True


def _wait_for_lock_release(home: Home) -> None:
    """Wait for a daemon that is stopping: it has removed its connection, but still holds its lock."""
    deadline = time.monotonic() + STOP_SECONDS
    while processes.is_locked(home.daemon_lock):
        if time.monotonic() > deadline:
            message = f"a daemon that is stopping holds {home.daemon_lock} for too long; run `stop` first"
            raise DaemonError(message, 1)
        time.sleep(POLL_SECONDS)


def _spawn(home: Home) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as answer:
        with home.daemon_log.open("ab") as output:
            command = [sys.executable, "-m", "localcloud.daemon", "--home", str(home.path)]
            child = subprocess.Popen(  # noqa: S603 (our own program)
                [*command, "--report", str(write_end)],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(write_end,),
                start_new_session=True,  # the daemon continues when the terminal is closed
            )
        os.close(write_end)
        ready, _, _ = select.select([answer], [], [], START_SECONDS)
        line = answer.readline() if ready else ""
    if not line:
        child.kill()
        child.wait()
        message = f"the daemon ended at once (exit code {child.returncode}); see {home.daemon_log}"
        raise DaemonError(message, 1)
    message = json.loads(line)
    if not message.get("ok"):
        child.wait()
        raise DaemonError(message["error"], message["exit"])


def stop_cloud(home: Home) -> bool:
    """Stop nodes and daemon, and wait until they have ended. Returns False when no daemon ran.

    Nodes that a killed daemon left behind are killed too.
    """
    from localcloud.salad.supervisor import (
        kill_orphans,
    )  # imported here so that `start` and `status` are faster

    if not home.path.exists():
        return False
    with processes.waiting_lock(home.start_lock):
        was_running = processes.is_locked(home.daemon_lock)
        if was_running:
            _stop_daemon(home)
        if home.database.exists():
            database = open_database(home.database)
            kill_orphans(home, database)
            database.close()
        home.connection.unlink(missing_ok=True)
        return was_running


def _stop_daemon(home: Home) -> None:
    """SIGTERM, then SIGKILL when it takes too long."""
    # The process that holds the lock wrote its pid into the lock file, so this is the daemon's pid.
    pid = int(home.daemon_lock.read_text(encoding="utf-8"))
    started = processes.start_time(pid)
    deadline = time.monotonic() + STOP_SECONDS + home.load_settings().stop_grace_seconds
    processes.send(pid, signal.SIGTERM)
    # The daemon releases the lock shortly before its process ends, so wait for both.
    while processes.is_locked(home.daemon_lock) or processes.is_same(pid, started):
        if time.monotonic() > deadline:
            processes.send(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
