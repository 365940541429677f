"""Handles Ctrl-C at any moment. Imports only the standard library, because an import may be what was interrupted."""

import _thread
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
STOPPED = "\nstopped; nothing is lost: run the same command to continue"


@dataclass
class InterruptHandler:
    """Raises KeyboardInterrupt at Ctrl-C and records that it did, because compiled libraries may replace the exception with one of their own."""

    was_called: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.was_called = True
        signal.default_int_handler(number, frame)


HANDLER = InterruptHandler()


def catch_interrupts() -> None:
    """Handle Ctrl-C from now on. In a terminal, `./flux` and make start Python with SIGINT ignored, because Python would print a traceback if
    it were interrupted while starting.

    Without a terminal they do not: if SIGINT is ignored then, a script has started `flux` in the background, and it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or sys.stdin.isatty():
        signal.signal(signal.SIGINT, HANDLER)
    sys.unraisablehook = _on_unraisable


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise Ctrl-C again in the main thread: Python only prints exceptions that a destructor or a callback raises."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(unraisable)


def end_silently() -> None:
    """Let Ctrl-C end the process at once: Python would print a traceback if it were interrupted while it waits for threads at exit."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_interrupted() -> NoReturn:
    end_silently()
    sys.stderr.write(f"{STOPPED}\n")
    sys.exit(EXIT_INTERRUPTED)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Delay SIGINT until the end of the block. Processes started in the block inherit this, and get the signal once they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
