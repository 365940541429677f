"""Starts and stops the local cloud, a program of its own (packages/localcloud)."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from flux_training.clients.connection import LOCAL_FILE_VARIABLE, Connection, Setting, connect
from flux_training.clients.errors import Unavailable
from flux_training.training.errors import FluxError

# This environment variable has options for `python -m localcloud start`, such as "--port 9000 --step-seconds 0".
OPTIONS_VARIABLE = "LOCALCLOUD"
PACKAGE_FOLDER = Path(__file__).resolve().parents[2] / "packages" / "localcloud"
# The heartbeat interval for nodes of the local cloud. A worker reports a job's end with its next heartbeat, and the usual 30
# seconds are too long for jobs that take a minute.
DEFAULT_OPTIONS = ("--heartbeat-seconds", "2")


def connect_and_start_local_cloud(
    cloud: str | None,
    settings: Mapping[str, Setting],
    environ: Mapping[str, str],
    kind: str,
    stack: str = "",
) -> Connection:
    """Like `connect`, with the local cloud of this folder running. One that FLUX_LOCAL_CLOUD names has to run already.

    So `pulumi up`, `refresh` and `destroy` of a local stack need no command before them. Raises FluxError.
    """
    try:
        connection = connect(cloud, settings, environ, kind, stack)
        connection.check_alive()
    except Unavailable:
        if cloud != "local":
            raise
        ensure_local_cloud(environ, output=sys.stderr)
        connection = connect(cloud, settings, environ, kind, stack)
    return connection


def ensure_local_cloud(environ: Mapping[str, str] = os.environ, output: TextIO | None = None) -> None:
    """Start the local cloud of this folder, unless FLUX_LOCAL_CLOUD names another, which has to run. Raises FluxError."""
    named = environ.get(LOCAL_FILE_VARIABLE)
    if not named:
        start_local_cloud(environ, output)
        return
    try:
        connect("local", {}, environ).check_alive()
    except Unavailable:
        raise Unavailable(
            f"the local cloud of {named} is not running",
            f"the environment variable {LOCAL_FILE_VARIABLE} selects it",
            f"start it, or run `unset {LOCAL_FILE_VARIABLE}` to use that of this folder",
        ) from None


def start_local_cloud(environ: Mapping[str, str] = os.environ, output: TextIO | None = None) -> None:
    """Start it unless it is running. Raises FluxError; the local cloud itself has printed the reason."""
    options = environ.get(OPTIONS_VARIABLE, "").split()
    if not is_local_cloud_running():
        _call("start", *DEFAULT_OPTIONS, *options, output=output)
    elif options:
        # Run `start` even if the local cloud is running: it then warns that it ignores new options.
        _call("start", *options, output=output)


def is_local_cloud_running() -> bool:
    line = [sys.executable, "-m", "localcloud", "status"]
    return _run(line, capture_output=True) == 0


def stop_local_cloud() -> None:
    """Stop it; its files stay. Raises FluxError."""
    _call("stop")


def _call(*arguments: str, output: TextIO | None = None) -> None:
    line = [sys.executable, "-m", "localcloud", *arguments]
    code = _run(line, stdout=output)
    if code != 0:
        what = f"`localcloud {arguments[0]}` failed (exit code {code})"
        raise FluxError(what, "", "see the messages above")


def _run(line: list[str], **options: Any) -> int:
    """Run a command in a session of its own, so that Ctrl-C reaches only this process, which then ends the command."""
    environment = _local_cloud_environment()
    done = subprocess.run(line, env=environment, check=False, start_new_session=True, **options)  # noqa: S603 - fixed commands
    return done.returncode


def _local_cloud_environment() -> dict[str, str]:
    """The CLI's virtual environment has what the local cloud needs, but not the local cloud: requirements.txt lists packages of an index."""
    paths = [str(PACKAGE_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
