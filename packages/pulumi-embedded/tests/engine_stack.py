"""A stack in a folder of its own, run by real engine processes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pulumi_embedded.cli.main import run_command
from pulumi_embedded.project import selection
from pulumi_embedded.project.config import StackConfig
from pulumi_embedded.state import serialization
from pulumi_embedded.state.backend import Backend, StackId
from pulumi_embedded.state.snapshot import checkpoint_of, new_deployment

HERE = Path(__file__).parent
PACKAGE_FOLDER = HERE.parent
PASSPHRASE = "fixture"


# Commands that start no program run in this process, where everything is imported already: ten times as fast.
WITHOUT_PROGRAM = ("config", "login", "logout", "plugin", "stack", "state", "whoami")


def run_process(
    python: str, folder: Path, environment: dict[str, str], arguments: Sequence[str]
) -> tuple[int, str]:
    """Run the engine as a process: its exit status, and what it printed."""
    done = subprocess.run(
        [python, "-m", "pulumi_embedded", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def run_here(folder: Path, environment: dict[str, str], arguments: Sequence[str]) -> tuple[int, str]:
    """The same in this process."""
    printed, errors = io.StringIO(), io.StringIO()
    with (
        chdir(folder),
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(printed),
        redirect_stderr(errors),
    ):
        try:
            ended = run_command(list(arguments))
        except SystemExit as refused:
            ended = int(refused.code or 0)
    return ended, printed.getvalue() + errors.getvalue()


@dataclass
class EngineStack:
    """One project with the stack `dev`. `python` is the interpreter that `run` uses."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def spec(self, things: dict[str, Any] | None = None, **more: Any) -> None:
        """What the program declares from now on."""
        (self.folder / "spec.json").write_text(json.dumps({"things": things or {}, **more}))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pulumi_embedded", *arguments]

    def run(self, *arguments: str, code: int | None = 0, **environment: str) -> str:
        """Run the engine; what it printed.  `code`: the exit status it must have."""
        environment = {**self.environment, **environment}
        if arguments[0] in WITHOUT_PROGRAM:
            ended, output = run_here(self.folder, environment, arguments)
        else:
            ended, output = run_process(self.python, self.folder, environment, arguments)
        assert code is None or ended == code, output
        assert "Traceback" not in output or "Program failed" in output, output
        return output

    def up(self, *arguments: str, code: int | None = 0, **environment: str) -> str:
        return self.run("up", "--yes", "--skip-preview", *arguments, code=code, **environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the engine and return."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def start_up(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("up", "--yes", "--skip-preview", *arguments)

    def kill_up_at(self, gate: str) -> None:
        """Kill an update while the provider waits at the gate."""
        process = self.start_up()
        self.until_called(f"wait {gate}")
        process.kill()
        process.wait()

    def destroy(self, *arguments: str, code: int | None = 0, **environment: str) -> str:
        return self.run("destroy", "--yes", "--skip-preview", *arguments, code=code, **environment)

    @property
    def cloud(self) -> Path:
        return self.folder / "cloud"

    def calls(self) -> list[str]:
        """What the provider was asked to do since the last call of this."""
        log = self.cloud / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def open(self, gate: str) -> None:
        """Let the provider go on."""
        self.cloud.mkdir(exist_ok=True)
        (self.cloud / gate).touch()

    @property
    def state_file(self) -> Path:
        return self.folder / ".pulumi/stacks/test/dev.json"

    def latest(self) -> dict[str, Any]:
        """The deployment in the state file; the CLI would take it."""
        content: dict[str, Any] = json.loads(self.state_file.read_bytes())
        latest: dict[str, Any] = content["checkpoint"]["latest"]
        assert serialization.find_state_error(latest.get("resources", [])) == ""
        return latest

    def resources(self) -> dict[str, dict[str, Any]]:
        """The state's resources by name."""
        return {item["urn"].rsplit("::", 1)[-1]: item for item in self.latest().get("resources", [])}

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Poll until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.01)

    def clean_up(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        shutil.rmtree(self.cloud, ignore_errors=True)  # ends a provider that still waits at a gate

    def until_called(self, line: str) -> None:
        log = self.cloud / "calls.log"
        self.until(lambda: log.exists() and line in log.read_text().splitlines())


def is_running(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def thing(text: Any = "a", **more: Any) -> dict[str, Any]:
    """A thing as the program's `spec.json` has it."""
    return {"text": text, **more}


def new_stack(tmp_path: Path, virtualenv: Path | None = None, **more: str) -> EngineStack:
    """A new stack `dev` of the project `test`; `more`: its environment.

    Everything but what `start` starts is run by the interpreter of `virtualenv`, otherwise by this one.
    """
    folder = tmp_path / "project"
    shutil.copytree(HERE / "program", folder, ignore=shutil.ignore_patterns("__pycache__"))
    runtime = {"name": "python", "options": {"virtualenv": str(virtualenv)}} if virtualenv else "python"
    (folder / "Pulumi.yaml").write_text(
        f"name: test\nruntime: {json.dumps(runtime)}\nbackend:\n  url: file://.\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
    environment |= {
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "PULUMI_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(PACKAGE_FOLDER),
        "PYTHONDONTWRITEBYTECODE": "",  # compiled once, not by each of hundreds of processes
        **more,
    }
    made = EngineStack(folder, environment, str(virtualenv / "bin/python") if virtualenv else sys.executable)
    made.spec()
    shutil.copy(HERE / "data" / "Pulumi.dev.yaml", folder / "Pulumi.dev.yaml")
    text = (folder / "Pulumi.dev.yaml").read_text().replace("fixture:", "test:")
    (folder / "Pulumi.dev.yaml").write_text(text)
    if "PULUMI_BACKEND_URL" in more:
        made.run("stack", "select", "--create", "dev")
    else:
        put_stack(made)
    return made


def put_stack(stack: EngineStack) -> None:
    """What `stack select --create dev` does, without a process: a hundred tests begin with it."""
    salt = StackConfig(stack.folder / "Pulumi.dev.yaml").salt or ""
    checkpoint = checkpoint_of(StackId("test", "dev"), new_deployment(salt))
    Backend.open("file://.", stack.folder).write(StackId("test", "dev"), checkpoint)
    with patch.dict(os.environ, {"PULUMI_HOME": stack.environment["PULUMI_HOME"]}):
        selection.select_stack("test", (stack.folder / "Pulumi.yaml").resolve(), "file://.", "dev")
