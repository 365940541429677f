from __future__ import annotations

import os
import subprocess
import sys
import time

from flux_training.training.processes import is_alive


def test_a_process_that_ended_is_not_alive_even_while_nobody_collected_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(child.pid)
    assert is_alive(os.getpid())
    child.kill()
    deadline = time.monotonic() + 10
    while is_alive(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(child.pid)  # a zombie: nobody has waited for it yet
    child.wait()
    assert not is_alive(child.pid)
