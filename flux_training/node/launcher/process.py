"""Signals to this process, and its log."""

import contextlib
import os
import queue
import re
import signal
import sys
import threading
import time
from types import FrameType

from flux_training.node.launcher.errors import RunEndedError

MIN_SECRET_LENGTH = 6

_received: list[int] = []
_parent = os.getppid()
_log: queue.Queue[str] = queue.Queue(maxsize=2000)
_secret_names = [name for name in os.environ if re.search("TOKEN|SECRET|KEY|PASSW|CREDENTIAL", name.upper())]
_secrets = [
    line for name in _secret_names for line in os.environ[name].split("\n") if len(line) >= MIN_SECRET_LENGTH
]


def _on_signal(number: int, _frame: FrameType | None) -> None:
    _received.append(number)


def start() -> None:
    """Handle signals and start printing the log."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _on_signal)
    threading.Thread(target=_print_log, daemon=True).start()


def check_stopped() -> None:
    """Raises RunEndedError once the job is canceled or interrupted.

    Called in every loop: an exception raised by the signal handler itself could strike inside Popen.
    """
    if signal.SIGINT in _received:
        raise RunEndedError(-signal.SIGINT, "canceled")
    # Without its parent process, the worker, nothing is uploaded any more.
    if _received or os.getppid() != _parent:
        raise RunEndedError(-signal.SIGTERM, "interrupted")


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_stopped()
        time.sleep(min(0.1, left))


def say(line: str) -> None:
    """Log a line. A thread prints it, so that a full pipe blocks neither the watchdog nor the trainer."""
    with contextlib.suppress(queue.Full):
        _log.put_nowait(line)


def _print_log() -> None:
    while True:
        line = hide_secrets(_log.get()).encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        _log.task_done()


def hide_secrets(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def end(code: int) -> None:
    """Exit with `code`, or die by the signal `-code`: the worker counts no failure then."""
    deadline = time.monotonic() + 1
    while _log.unfinished_tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)  # os._exit does not wait for threads that hang in a full pipe or a download.
