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
    """Raises KeyboardInterrupt at Ctrl-C and keeps in mind that it did: compiled libraries replace it by errors of their own."""

    was_called: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.was_called = True
        signal.default_int_handler(number, frame)


HANDLER = InterruptHandler()


def catch_interrupts() -> None:
    """Handle Ctrl-C. `./flux` and make start Python with it ignored in a terminal: a Python that is starting prints a traceback.

    In a pipe they do not, so it stays ignored where a script has started `flux` in the background.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or sys.stdin.isatty():
        signal.signal(signal.SIGINT, HANDLER)
    sys.unraisablehook = _on_unraisable


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python prints and drops what a destructor or a callback raises, such as those of an import. Ctrl-C is raised again."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(unraisable)


def end_silently() -> None:
    """From now on, Ctrl-C ends the process: the end of Python, which waits for threads, would print a traceback."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_interrupted() -> NoReturn:
    end_silently()
    sys.stderr.write(f"{STOPPED}\n")
    sys.exit(EXIT_INTERRUPTED)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until the end of the block. For processes that are started in it, it waits until they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
