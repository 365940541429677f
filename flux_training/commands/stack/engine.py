"""Which Pulumi runs the stack, with what environment: the CLI where it is on the PATH, else the embedded engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.commands.stack.locks import has_journal, is_left_behind
from flux_training.training.errors import FluxError

EMBEDDED = (sys.executable, "-m", "pulumi_embedded")
ENGINE_VARIABLE = "ENGINE"
PASSPHRASE_VARIABLES = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
# Pulumi Cloud keeps a stack's secrets itself.
ACCESS_TOKEN = "PULUMI_ACCESS_TOKEN"  # noqa: S105 - a variable's name
# The local cloud's stack holds no secret worth one; Pulumi wants a passphrase all the same.
LOCAL_PASSPHRASE = "local-cloud"  # noqa: S105 - it protects nothing, and says so
# What both engines say of a stack that was never made, and of a setting that is not there.
NO_STACK = "no stack named"
NO_SETTING = "not found for stack"
# A state is written several times an `up`, with its history: 4 KB a job as our engine writes it, 7 as the CLI does, packed 0.3. The
# first is what we set where the user says none of them.
PACKING = ("PULUMI_DIY_BACKEND_GZIP", "PULUMI_SELF_MANAGED_STATE_GZIP", "PULUMI_DIY_BACKEND_ZSTD")
# Pulumi's word for a value that is not known.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True)
class Engine:
    """`command` is how it is started, in the checkout `root`; `environment` is its whole environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    stack: str
    root: Path

    def run(self, *arguments: str) -> int:
        """Run one of Pulumi's commands with its output going to the user; the exit code."""
        line = self._line(arguments)
        return _wait(subprocess.Popen(line, env=dict(self.environment), cwd=self.root))  # noqa: S603 - our own words

    def release(self) -> None:
        """Take away the lock of a CLI that was killed on this machine; the embedded engine sees to its own. Raises FluxError."""
        if self.command == EMBEDDED or not is_left_behind(self.root, self.stack):
            return
        if has_journal(self.root, self.stack):
            raise FluxError(
                f"the embedded engine was killed while it changed stack {self.stack}",
                "only it can add its last steps to the state",
                "run `make refresh ENGINE=embedded` once",
            )
        self._quietly("cancel", "--yes")

    def select(self) -> None:
        """Make the stack if there is none yet. Raises FluxError with what the engine said."""
        self._quietly("stack", "select", "--create")

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs as they are in the state, as far as they are known. Raises FluxError."""
        outputs = json.loads(self._quietly("stack", "output", "--json"))
        return without_unknown(outputs) if isinstance(outputs, dict) else {}

    def preview(self) -> tuple[dict[str, Any], str]:
        """(what `preview --json` says, what it said besides); the first also when the program refused. Raises FluxError."""
        line = self._line(("preview", "--json"))
        done = subprocess.run(  # noqa: S603 - our own words
            line, env=dict(self.environment), cwd=self.root, capture_output=True, text=True, check=False
        )
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            words = (done.stderr or done.stdout).strip()
            raise FluxError(f"the preview of stack {self.stack} failed: {words}")
        return found, done.stderr.strip() if done.returncode != 0 else ""

    def setting(self, key: str) -> str | None:
        """One value of the stack's configuration, decrypted; None when it is not set there. Raises FluxError."""
        try:
            return self._quietly("config", "get", key).rstrip("\n")
        except FluxError as error:
            if any(words in str(error) for words in (NO_STACK, NO_SETTING)):
                return None
            raise

    def _quietly(self, *arguments: str) -> str:
        line = self._line(arguments)
        done = subprocess.run(  # noqa: S603 - our own words
            line, env=dict(self.environment), cwd=self.root, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip()
            raise FluxError(f"`{' '.join(arguments)}` failed for stack {self.stack}: {words}")
        return done.stdout

    def _line(self, arguments: tuple[str, ...]) -> list[str]:
        line = [*self.command, *arguments]
        if arguments[:2] == ("stack", "select"):
            return [*line, self.stack, "--non-interactive"]
        return [*line, "--stack", self.stack, "--non-interactive"]


def choose_command(wanted: str, cli: str | None) -> tuple[str, ...]:
    """The command for ENGINE=`wanted` (empty: the CLI if there is one). Raises FluxError."""
    if wanted == "embedded" or (wanted == "" and cli is None):
        return EMBEDDED
    if wanted not in ("", "cli"):
        raise FluxError(
            f"{ENGINE_VARIABLE}={wanted}", "it is `embedded` or `cli`", "set one of these or nothing"
        )
    if cli is None:
        raise FluxError(
            f"{ENGINE_VARIABLE}=cli, but no `pulumi` is on the PATH", "", "install it or use ENGINE=embedded"
        )
    return (cli,)


def project_root() -> Path:
    """The checkout: where Pulumi.yaml lies."""
    return Path(__file__).resolve().parents[3]


def find_engine(
    stack: str, local: bool, environ: Mapping[str, str] = os.environ, root: Path | None = None
) -> Engine:
    """The engine for a stack; `local` when it runs in the cloud on this machine. Raises FluxError."""
    environment = dict(environ)
    command = choose_command(
        environ.get(ENGINE_VARIABLE, ""), shutil.which("pulumi", path=environ.get("PATH"))
    )
    if not any(name in environ for name in PASSPHRASE_VARIABLES):
        if not local and ACCESS_TOKEN not in environ:
            raise FluxError(
                f"stack {stack} needs the passphrase its secrets are encrypted with",
                "",
                f"set {' or '.join(PASSPHRASE_VARIABLES)}",
            )
        if local:
            environment[PASSPHRASE_VARIABLES[0]] = LOCAL_PASSPHRASE
    environment.setdefault("PULUMI_SKIP_UPDATE_CHECK", "true")
    if not any(name in environ for name in PACKING):
        environment[PACKING[0]] = "true"
    return Engine(command, environment, stack, root or project_root())


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The engine ends what it began before it stops, and we wait for that."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # A terminal sends Ctrl-C to the engine as well; a second one would make it stop at once.
            if not sys.stdin.isatty():
                process.send_signal(signal.SIGINT)


def without_unknown(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """After `up --target` the CLI writes a mark for what it did not come to know, such as a new job that was no target."""
    return {
        name: without_unknown(value) if isinstance(value, dict) else value
        for name, value in outputs.items()
        if value != UNKNOWN
    }
