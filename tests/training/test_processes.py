"""Whether a process is running."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from flux_training.training.processes import is_alive


def test_zombies_are_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(child.pid)
    assert is_alive(os.getpid())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid)  # a zombie
    child.wait()
    assert not is_alive(child.pid)


@pytest.mark.parametrize(("hours", "alive"), [(0, True), (-1000, False)])
def test_a_process_that_started_later_is_not_the_same_one(hours: int, alive: bool) -> None:
    assert is_alive(os.getpid(), datetime.now(UTC) + timedelta(hours=hours)) == alive


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_process: psutil.Process) -> str:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert is_alive(os.getpid())
