"""The engine's child processes: the program, and the providers.

Each child runs in its own session, so that Ctrl-C only reaches the engine. It reads its settings from stdin as one line of
JSON, so it can be started, and import its modules, while the engine is still busy. Stdin stays open as long as the engine
lives; its end tells the child to exit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pulumi_embedded.project.config import Project

_LOOPBACK: Final = "127.0.0.1,localhost,::1"
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_SECRET_VARIABLES: Final = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")


def project_interpreter(project: Project) -> str:
    """The Python of the project's virtual environment if there is one, otherwise the engine's own."""
    if project.virtualenv:
        for path in ("bin/python", "Scripts/python.exe"):
            python = project.folder / project.virtualenv / path
            if python.exists():
                return str(python)
    return sys.executable


class ChildProcess:
    """A process that runs `runner.py`, `dynamic_host.py` or a plugin."""

    @classmethod
    def start_script(cls, name: str, project: Project) -> ChildProcess:
        """Start one of this package's scripts with the project's interpreter."""
        return cls([project_interpreter(project), "-u", str(_PACKAGE / name)], project)

    def __init__(self, command: list[str], project: Project) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in _SECRET_VARIABLES}
        # Without this setting, gRPC prints a line when the other process closes a connection first.
        environment = {"GRPC_VERBOSITY": "ERROR", **inherited, **_no_proxy(inherited)}
        self._process = subprocess.Popen(  # noqa: S603 - our own script, or a plugin found by its fixed name
            command,
            cwd=project.program_folder(),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def send_settings(self, settings: dict[str, Any]) -> None:
        """Send the child its settings, so that it starts its work."""
        assert self._process.stdin is not None  # noqa: S101 - created with a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            self._process.stdin.flush()

    def first_line(self) -> str:
        """The first line of its stdout. Empty if the process ended before it printed one."""
        assert self._process.stdout is not None  # noqa: S101 - created with a pipe
        return self._process.stdout.readline().decode(errors="replace").strip()

    def forward_output(
        self, on_line: Callable[[str], None], *, stdout: bool = True, stderr: bool = True
    ) -> list[threading.Thread]:
        """Pass on every line that it prints to these streams. Follow stdout after `first_line`."""
        streams = [*([self._process.stderr] if stderr else []), *([self._process.stdout] if stdout else [])]
        threads = [threading.Thread(target=_pump, args=(stream, on_line), daemon=True) for stream in streams]
        for thread in threads:
            thread.start()
        return threads

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, or None if it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def finish(self, timeout: float = 5.0) -> None:
        """Close its stdin, which ends it after the current request. Kill it after `timeout` seconds."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self.wait(timeout) is None:
            self.kill()

    def kill(self) -> None:
        """Kill it and the processes it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that let the SDK's gRPC, and a program's clients, reach this machine without the user's proxy.

    Libraries read one or the other spelling of no_proxy; gRPC ignores both if no_grpc_proxy is set.
    """
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY")
    hosts, for_grpc = (
        ",".join(filter(None, (given, _LOOPBACK)))
        for given in (exempt, environment.get("no_grpc_proxy") or exempt)
    )
    return {"no_proxy": hosts, "NO_PROXY": hosts, "no_grpc_proxy": for_grpc}


def _pump(stream: Any, on_line: Callable[[str], None]) -> None:
    for line in stream:
        on_line(line.decode(errors="replace").rstrip("\r\n"))
