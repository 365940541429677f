"""Runs the `flux` command in a terminal or a pipe, and makes checkouts for it."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Copies include compiled files, so that processes need not compile; half-written ones of parallel tests are left out.
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")
CODE = ("flux_training",)
STACK_FILE = """\
# The stack of a test.
config:
  flux-training:cloud: local
  flux-training:storage:
    kind: s3
    bucket: flux-training
  # Each is a folder below jobs/.
  flux-training:jobs:
    first: {}   # the first one
  # What trains them.
  flux-training:cluster:
    gpu: RTX 5090
"""
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:[0-9]*;)*(?:3[0-8]|9[0-7])(?:;[0-9;]*)?m")
BAR = "━"


def make_checkout(folder: Path) -> Path:
    """A folder with a stack file and jobs/, for commands that run in this process."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "Pulumi.dev.yaml").write_text(STACK_FILE, encoding="utf-8")
    return folder


def with_code(checkout: Path) -> Path:
    """Add the command's code to a checkout, for commands in their own process."""
    for part in CODE:
        shutil.copytree(ROOT / part, checkout / part, ignore=HALF_WRITTEN)
    return checkout


@dataclass(frozen=True)
class FinishedCommand:
    code: int
    output: str


def line_of(arguments: Sequence[str], checkout: Path | None = None) -> list[str]:
    own = checkout / ".venv/bin/python" if checkout else Path(sys.executable)
    python = own if own.exists() else sys.executable
    return [str(python), "-m", "flux_training.commands", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment without variables that affect colours, and without the user's keys."""
    foreign = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "CI", "GITHUB_ACTIONS", "OPENAI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "100", **more}


def in_pipe(checkout: Path, *arguments: str, env: Mapping[str, str] | None = None) -> FinishedCommand:
    """Run `flux` by the checkout's virtual environment, if it has one."""
    done = subprocess.run(
        line_of(arguments, checkout),
        cwd=checkout,
        env=dict(env or environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,  # the Pulumi CLI installs a project's packages itself, from an index
    )
    return FinishedCommand(done.returncode, done.stdout)


def in_terminal(checkout: Path, *arguments: str, env: Mapping[str, str] | None = None) -> FinishedCommand:
    """The same with a pseudo-terminal as standard input, output and error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line_of(arguments, checkout),
        cwd=checkout,
        env=dict(env or environment()),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([ours], [], [], 0.1)
        try:
            part = os.read(ours, 65536) if ready else b""
        except OSError:  # Linux: the other end is closed
            break
        if ready and not part:
            break
        output += part
    os.close(ours)
    return FinishedCommand(process.wait(timeout=10), output.decode())
