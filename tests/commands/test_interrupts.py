"""Ctrl-C at any moment: no traceback, and how to continue."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_training.commands import __main__ as start
from flux_training.commands import interrupts, main
from flux_training.commands.interrupts import STOPPED, InterruptHandler, interrupts_blocked
from flux_training.training.errors import FluxError
from tests.support.flux import ROOT

# Says whether it is still there after Ctrl-C.
SURVIVOR = "#!/bin/sh\nkill -INT $$\necho survived\n"


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[InterruptHandler]:
    """The handler of this test; afterwards Ctrl-C does what it did before."""
    handler = InterruptHandler()
    for module in (interrupts, start, main):
        monkeypatch.setattr(module, "HANDLER", handler)
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    yield handler
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = hook


def interrupted(replacement: Exception | None) -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        if replacement:
            raise replacement from None
        raise


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("replacement", [None, ValueError("unprintable"), FluxError("train.yml is wrong")])
def test_an_error_that_replaces_an_interrupt_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replacement: Exception | None
) -> None:
    """Compiled libraries such as pydantic raise errors of their own."""
    monkeypatch.setattr(main, "main", lambda **_: interrupted(replacement))
    with pytest.raises(SystemExit, match=r"^130$"):
        start.run()
    assert capsys.readouterr().err == f"{STOPPED}\n"


@pytest.mark.usefixtures("handler")
def test_another_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(main, "main", fail)
    with pytest.raises(ValueError, match="a bug"):
        start.run()


@pytest.mark.usefixtures("handler")
def test_an_interrupt_that_a_callback_has_dropped_is_raised_again() -> None:
    interrupts.catch_interrupts()
    unraisable: Any = SimpleNamespace(exc_type=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        sys.unraisablehook(unraisable)


def test_a_blocked_interrupt_comes_at_the_end_of_the_block() -> None:
    is_at_end = False
    with pytest.raises(KeyboardInterrupt), interrupts_blocked():  # noqa: PT012 - it is raised at the end
        # To this thread: others of pytest do not block it.
        signal.raise_signal(signal.SIGINT)
        is_at_end = True
    assert is_at_end


@pytest.mark.parametrize("command", [["./flux", "status"], ["make", "-o", ".venv/ready", "cloud"]])
@pytest.mark.parametrize("in_terminal", [True, False])
def test_in_a_terminal_python_starts_with_ctrl_c_ignored(
    tmp_path: Path, command: list[str], in_terminal: bool
) -> None:
    for name in ("flux", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(SURVIVOR)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    if command[0] == "./flux":
        (tmp_path / "Makefile").write_text("ready:\n")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdin=theirs if in_terminal else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert ("survived" in done.stdout) == in_terminal


def test_the_virtual_environment_is_made_with_ctrl_c_ignored(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "python").write_text(SURVIVOR)
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["make", "PYTHON=./python", ".venv/bin/python"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "survived" in done.stdout
