"""Ctrl-C at many moments of `make up`, in a terminal."""

import os
import pty
import select
import time

import pytest

from tests.e2e.checkout import Checkout

MOMENTS = [0.1 + 0.5 * number for number in range(16)]
CTRL_C = b"\x03"


def interrupt(checkout: Checkout, seconds: float) -> str:
    """What `make up` prints if Ctrl-C is pressed after so many seconds, and again if it came before it could be caught."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(checkout.root)
        os.execvpe("make", ["make", "up"], dict(checkout.environment))  # noqa: S606 - as a shell does
    presses = [time.monotonic() + seconds + later for later in (0, 10)]
    printed = b""
    while True:
        if presses and time.monotonic() >= presses[0]:
            os.write(terminal, CTRL_C)
            del presses[0]
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                printed += os.read(terminal, 65536)
            except OSError:  # Linux: the other end is closed
                break
    os.waitpid(process, 0)
    os.close(terminal)
    return printed.decode(errors="replace")


@pytest.mark.long
def test_ctrl_c_at_any_moment_of_up_prints_no_traceback(checkout: Checkout) -> None:
    for seconds in MOMENTS:
        printed = interrupt(checkout, seconds)
        for wrong in ("Traceback", "KeyboardInterrupt", "Exception ignored"):
            assert wrong not in printed, f"after {seconds} s:\n{printed}"
