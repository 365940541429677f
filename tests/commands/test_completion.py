"""`flux completion` in real shells: what Tab makes of a half-typed line."""

import os
import pty
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.flux import environment, make_checkout, with_code
from tests.training.job_folders import make_job

# How each shell starts without the user's files, and the line that loads the script.
SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), 'eval "$(./flux completion bash)"'),
    "zsh": (
        ("zsh", "-f", "-i"),
        'autoload -Uz compinit && compinit -u -D && eval "$(./flux completion zsh)"',
    ),
    "fish": (("fish", "--no-config", "-i"), "./flux completion fish | source"),
}
LINES = {
    "./flux sta": "./flux status",
    "./flux list own-": "./flux list own-name",
    "./flux status --stack d": "./flux status --stack dev",
}
# A command of the shell's, whose output differs from what is typed.
READY = "echo rea''dy"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one job, `own-name`, and its `./flux`."""
    root = with_code(make_checkout(tmp_path_factory.mktemp("checkout") / "here"))
    make_job(root / "jobs", "own-name", images=1)
    script = root / "flux"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m flux_training.commands "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return root


class ShellSession:
    """A shell on a pseudo-terminal."""

    def __init__(self, command: tuple[str, ...], folder: Path, home: Path) -> None:
        folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "TMPDIR"), str(home))
        variables = environment(**folders, PS1="$ ")
        # Unlike a Popen with a terminal as its input, this makes the terminal the shell's controlling one.
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, variables)  # noqa: S606 - one of SHELLS

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def shows(self, text: str, seconds: float = 30) -> bool:
        """Read until the text appears."""
        seen, end = "", time.monotonic() + seconds
        while text not in seen and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.1)[0]:
                seen += os.read(self.terminal, 65536).decode(errors="replace")
        return text in seen

    def close(self) -> None:
        os.close(self.terminal)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize(
    "shell", ["bash", *(pytest.param(name, marks=pytest.mark.long) for name in ("zsh", "fish"))]
)
def test_tab_completes_commands_jobs_and_stacks(shell: str, checkout: Path, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on the PATH")
    command, load = SHELLS[shell]
    session = ShellSession(command, checkout, tmp_path)
    try:
        session.type(f"{load}; {READY}\n")
        assert session.shows("ready")
        for typed, completed in LINES.items():
            session.type(f"{typed}\t")
            assert session.shows(completed.removeprefix(typed)), completed
            session.type("\x15")
    finally:
        session.close()
