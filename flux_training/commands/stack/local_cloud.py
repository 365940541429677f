"""Starting and stopping the cloud on this machine, as the separate program that it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TextIO

from flux_training.training.errors import FluxError

# Options for `python -m localcloud start`, such as "--port 9000 --step-seconds 0".
OPTIONS_VARIABLE = "LOCALCLOUD"
# A worker tells of a finished job up to one heartbeat late: 30 seconds are right for hours of training, not for a minute.
USUAL_OPTIONS = ("--heartbeat-seconds", "2")


def start(environ: Mapping[str, str] = os.environ, words: TextIO | None = None) -> None:
    """Start it, or find it running; it speaks to `words` (standard output). Raises FluxError; what went wrong it has said itself."""
    options = environ.get(OPTIONS_VARIABLE, "").split()
    if not is_running():
        _call("start", *USUAL_OPTIONS, *options, words=words)
    elif options:
        # It tells what becomes of options that come too late.
        _call("start", *options, words=words)


def is_running() -> bool:
    line = [sys.executable, "-m", "localcloud", "status"]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own words


def stop() -> None:
    """Stop it; its files stay. Raises FluxError."""
    _call("stop")


def _call(*arguments: str, words: TextIO | None = None) -> None:
    line = [sys.executable, "-m", "localcloud", *arguments]
    code = subprocess.run(line, check=False, stdout=words).returncode  # noqa: S603 - our own words
    if code != 0:
        raise FluxError(
            f"the local cloud could not {arguments[0]} (exit code {code})", "", "its own words are above"
        )
