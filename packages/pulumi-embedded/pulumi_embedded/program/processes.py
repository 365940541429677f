"""The two processes beside the engine: the program and the dynamic provider.

Each runs in a session of its own, so that Ctrl-C reaches the engine alone, and reads its settings as one JSON
line from stdin: it can start and import while the engine is still busy.  Stdin stays open for as long as the
engine lives; its end is how a child learns that it is orphaned.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pulumi_embedded import memory
from pulumi_embedded.project.config import Project

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_SECRET_ENVIRONMENT: Final = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")


def interpreter(project: Project) -> str:
    """The Python of the project's virtual environment if there is one, else the engine's own."""
    if project.virtualenv:
        for path in ("bin/python", "Scripts/python.exe"):
            python = project.folder / project.virtualenv / path
            if python.exists():
                return str(python)
    return sys.executable


class Child:
    """A process of ours: `runner.py`, `provhost.py` or a plugin."""

    @classmethod
    def script(cls, name: str, project: Project) -> Child:
        """One of our scripts under the project's interpreter."""
        return cls([interpreter(project), "-u", str(_PACKAGE / name)], project)

    def __init__(self, command: list[str], project: Project) -> None:
        given = {key: value for key, value in os.environ.items() if key not in _SECRET_ENVIRONMENT}
        # Where one end closes first, gRPC writes a line of its own into the output, which says nothing to anybody.
        environment = {"GRPC_VERBOSITY": "ERROR", **memory.ENVIRONMENT, **given}
        # A fixed command: our own script, or a plugin by the name that Pulumi gives it.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            cwd=project.program_folder(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, settings: dict[str, Any]) -> None:
        """Give the child its settings; it starts its work."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            self._process.stdin.flush()

    def first_line(self) -> str:
        """The first line of its stdout; empty where it ended before."""
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        return self._process.stdout.readline().decode(errors="replace").strip()

    def follow_stdout(self, show: Callable[[str], None]) -> None:
        """Pass on what it prints to stdout, once the first line has been read."""
        threading.Thread(target=_pump, args=(self._process.stdout, show), daemon=True).start()

    def follow(self, show: Callable[[str], None], *, stdout: bool = True) -> list[threading.Thread]:
        """Pass on every line it prints, from now on; `stdout=False` leaves that stream alone."""
        streams = [self._process.stderr, *([self._process.stdout] if stdout else [])]
        threads = [threading.Thread(target=_pump, args=(stream, show), daemon=True) for stream in streams]
        for thread in threads:
            thread.start()
        return threads

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, or None where it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def finish(self, timeout: float = 5.0) -> None:
        """Close its stdin, which ends it after the request under way; after `timeout` seconds it is killed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self.wait(timeout) is None:
            self.kill()

    def kill(self) -> None:
        """End it and what it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _pump(stream: Any, show: Callable[[str], None]) -> None:
    for line in stream:
        show(line.decode(errors="replace").rstrip("\r\n"))
