"""The engine that runs a stack: the Pulumi CLI if it is on the PATH, otherwise the embedded engine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flux_training.clients.waiting import pause
from flux_training.commands.interrupts import interrupts_blocked
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.locks import has_journal, is_locked_by_dead_process, processes_that_update
from flux_training.commands.stack.passphrase import (
    FORMER_PASSPHRASE,
    FORMER_SALT,
    has_former_salt,
    has_known_salt,
    local_passphrase,
    salt_of_file,
)
from flux_training.commands.stack.project import project_name, project_root
from flux_training.training.environment import (
    REFRESH_VARIABLE,
    bypass_proxy_for_loopback,
    pulumi_home_or_fallback,
)
from flux_training.training.errors import FluxError

EMBEDDED = (sys.executable, "-m", "pulumi_embedded")
ENGINE_VARIABLE = "ENGINE"
# These bytes identify the embedded engine: they are at the start of its script `pulumi`, and in its version output.
EMBEDDED_MARK, SCRIPT_BYTES = b"pulumi_embedded", 4096
EMBEDDED_VERSION = b"pulumi-embedded"
PASSPHRASE_VARIABLES = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
# With this token the stack's state is in Pulumi Cloud, which encrypts secrets itself.
ACCESS_TOKEN = "PULUMI_ACCESS_TOKEN"  # noqa: S105 - the name of a variable
BACKEND_VARIABLE = "PULUMI_BACKEND_URL"
# Part of a message that both engines print if there is no such stack.
NO_STACK = "no stack named"
WRONG_PASSPHRASE = "incorrect passphrase"  # noqa: S105 - part of a message
# Each of these variables makes an engine compress the state, which takes 4 to 7 KB per job (0.3 compressed) and is written
# several times in an `up`. If the user has set none, the first one is set.
COMPRESSION_VARIABLES = (
    "PULUMI_DIY_BACKEND_GZIP",
    "PULUMI_SELF_MANAGED_STATE_GZIP",
    "PULUMI_DIY_BACKEND_ZSTD",
)
# The Pulumi CLI has the option --event-log only if this variable is set.
EVENT_LOG_ENABLED = {"PULUMI_DEBUG_COMMANDS": "true"}
LOCK_POLL_SECONDS = 0.5
# Pulumi's placeholder for an unknown value.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True)
class Engine:
    """`command` starts it in the checkout `root`; `environment` is its whole environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    stack: str
    root: Path

    def run(self, *arguments: str) -> int:
        """Run a Pulumi command that prints to the user; its exit code. Raises KeyboardInterrupt after Ctrl-C, once it has ended."""
        line, refresh = self._line(arguments), {REFRESH_VARIABLE: "1"} if arguments[0] == "refresh" else {}
        return _run_to_the_end(line, {**self.environment, **refresh}, self.root, self.command == EMBEDDED)

    def release(self) -> None:
        """Remove the lock of a CLI that was killed on this machine. Raises FluxError.

        The embedded engine does this by itself.
        """
        if self.command == EMBEDDED or not is_locked_by_dead_process(self.root, self.stack):
            return
        if has_journal(self.root, self.stack):
            raise FluxError(
                f"the embedded engine was killed while it changed stack {self.stack}",
                "only the embedded engine can add its last steps to the state",
                f"run `make refresh STACK={self.stack} ENGINE=embedded` once",
            )
        self._capture("cancel", "--yes")

    @property
    def is_updated_by_others(self) -> bool:
        """Whether a process of this machine updates the stack."""
        return bool(processes_that_update(self.root, self.stack))

    def wait_for_other_updates(self, on_wait: Callable[[int], None]) -> None:
        """Return once no process of this machine updates the stack. `on_wait` is called once, with the id of one that does."""
        said = False
        while running := processes_that_update(self.root, self.stack):
            if not said:
                on_wait(running[0])
            said = True
            pause(LOCK_POLL_SECONDS)

    def select(self) -> None:
        """Create the stack if there is none. Raises FluxError with the engine's message."""
        self._capture("stack", "select", "--create")

    def exists(self) -> bool:
        """Whether the stack has a state. Raises FluxError."""
        try:
            self._capture("stack", "output", "--json")
        except FluxError as error:
            if NO_STACK in str(error):
                return False
            raise
        return True

    def create(self) -> None:
        """Create the stack without selecting it. Raises FluxError."""
        self._capture("stack", "init", "--no-select")

    def in_backend(self, folder: str) -> "Engine":
        """The same engine with its states in another folder of this machine."""
        given = any(name in self.environment for name in PASSPHRASE_VARIABLES)
        passphrase = {} if given else {PASSPHRASE_VARIABLES[0]: ""}
        return replace(
            self, environment={**self.environment, **passphrase, BACKEND_VARIABLE: f"file://{folder}"}
        )

    def outputs(self) -> dict[str, Any]:
        """The outputs in the stack's state, without unknown ones. Raises FluxError."""
        outputs = json.loads(self._capture("stack", "output", "--json"))
        return without_unknown_outputs(outputs) if isinstance(outputs, dict) else {}

    def show_preview(self) -> tuple[int, bool]:
        """Run `preview`, which prints to the user; its exit code, and whether it found changes of resources."""
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "events.jsonl"
            logging = replace(self, environment={**self.environment, **EVENT_LOG_ENABLED})
            code = logging.run("preview", "--suppress-outputs", "--event-log", str(log))
            return code, has_resource_changes(log.read_text(encoding="utf-8")) if log.exists() else True

    def preview(self) -> tuple[dict[str, Any], str]:
        """What `preview --json` prints, and its error messages if the program failed. Raises FluxError."""
        done = self._completed("preview", "--json")
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._error("preview", done)
        return found, done.stderr.strip() if done.returncode != 0 else ""

    def update_passphrase(self) -> "Engine":
        """Encrypt the state with the salt of the stack file, if it still has that of the former passphrase. Raises FluxError."""
        if self.environment.get(PASSPHRASE_VARIABLES[0]) != FORMER_PASSPHRASE:
            return self
        salt = salt_of_file(self.root, self.stack)
        if salt in ("", FORMER_SALT) or not has_former_salt(self.root, self.stack):
            return self
        state = json.loads(self._capture("stack", "export", "--show-secrets"))
        state["deployment"]["secrets_providers"] = {"type": "passphrase", "state": {"salt": salt}}
        updated = replace(self, environment={**self.environment, PASSPHRASE_VARIABLES[0]: ""})
        updated.import_state(state)
        return updated

    def export(self) -> dict[str, Any] | None:
        """The state, as `stack export` prints it; None if there is no such stack. Raises FluxError."""
        try:
            state: dict[str, Any] = json.loads(self._capture("stack", "export"))
        except FluxError as error:
            if NO_STACK in str(error):
                return None
            raise
        return state

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state. Raises FluxError."""
        self._capture("stack", "import", given=json.dumps(state))

    def settings(self) -> dict[str, str]:
        """The stack's configuration by key, decrypted; empty if there is no stack. Raises FluxError."""
        try:
            # Read all settings with one call: each call starts a process, which takes half a second.
            found = json.loads(self._capture("config", "--show-secrets", "--json"))
        except FluxError as error:
            if NO_STACK in str(error):
                return {}
            raise
        prefix = f"{project_name(self.root)}:"
        return {
            key.removeprefix(prefix): entry["value"] for key, entry in found.items() if key.startswith(prefix)
        }

    def _capture(self, *arguments: str, given: str = "") -> str:
        done = self._completed(*arguments, given=given)
        if done.returncode != 0:
            raise self._error(" ".join(arguments), done)
        return done.stdout

    def _error(self, command: str, done: subprocess.CompletedProcess[str]) -> FluxError:
        """What the engine said. The CLI does not say which passphrase was wrong, and what to do."""
        message = (done.stderr or done.stdout).strip()
        if self.command == EMBEDDED and message.startswith("error: ") and "\n" not in message:
            return FluxError(message.removeprefix("error: "))
        variable = next((name for name in PASSPHRASE_VARIABLES if name in self.environment), None)
        if WRONG_PASSPHRASE not in message or self.command == EMBEDDED or variable is None:
            return FluxError(f"`{command}` failed for stack {self.stack}: {message}")
        return FluxError(
            f"incorrect passphrase for stack {self.stack}: the one from {variable} does not decrypt its secrets",
            "",
            f"fix: `read -rs {PASSPHRASE_VARIABLES[0]} && export {PASSPHRASE_VARIABLES[0]}` with the passphrase that the stack was "
            "created with, or unset the variable if it belongs to another stack",
        )

    def _completed(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - fixed commands
            self._line(arguments),
            env=dict(self.environment),
            cwd=self.root,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def _line(self, arguments: tuple[str, ...]) -> list[str]:
        stack = [self.stack] if arguments[:2] == ("stack", "select") else ["--stack", self.stack]
        return [*self.command, *arguments, *stack, "--non-interactive"]


def choose_command(wanted: str, cli: str | None) -> tuple[str, ...]:
    """The command for ENGINE=`wanted`; `cli` is the path of the Pulumi CLI, if there is one. Raises FluxError."""
    if wanted == "embedded" or (wanted == "" and cli is None):
        return EMBEDDED
    if wanted not in ("", "cli"):
        raise FluxError(
            f"{ENGINE_VARIABLE}={wanted}", "it must be `embedded` or `cli`", "use one of these or unset it"
        )
    if cli is None:
        raise FluxError(
            f"{ENGINE_VARIABLE}=cli, but no `pulumi` is on the PATH", "", "install it or use ENGINE=embedded"
        )
    return (cli,)


def find_cli(environ: Mapping[str, str] = os.environ) -> str | None:
    """The Pulumi CLI on the PATH. The `pulumi` of a virtual environment may be the embedded engine's script."""
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which("pulumi", path=folder or ".")
        if found and not _is_embedded_script(Path(found), environ):
            return found
    return None


def _is_embedded_script(path: Path, environ: Mapping[str, str]) -> bool:
    """Whether it is the embedded engine's script, or another that starts it."""
    with path.open("rb") as file:
        start = file.read(SCRIPT_BYTES)
    if EMBEDDED_MARK in start or not start.startswith(b"#!"):
        return EMBEDDED_MARK in start
    done = subprocess.run(  # noqa: S603 - the user's `pulumi`
        [str(path), "--version"],
        env={name: value for name, value in environ.items() if name != ENGINE_VARIABLE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return EMBEDDED_VERSION in done.stdout


def find_engine(
    stack: str, local: bool, environ: Mapping[str, str] = os.environ, root: Path | None = None
) -> Engine:
    """The engine for a stack; `local` if it uses the local cloud. Raises FluxError."""
    environment, root = dict(environ), root or project_root()
    command = choose_command(environ.get(ENGINE_VARIABLE, ""), find_cli(environ))
    if local and has_known_salt(root, stack):
        # These variables may be those of another stack that is used in the same terminal.
        environment.pop(PASSPHRASE_VARIABLES[1], None)
        environment[PASSPHRASE_VARIABLES[0]] = local_passphrase(root, stack)
    elif not any(name in environ for name in PASSPHRASE_VARIABLES):
        if not local and ACCESS_TOKEN not in environ:
            if has_known_salt(root, stack):
                # An invalid stack file cannot say that the stack uses the local cloud. Raise BadInput with what is wrong
                # instead.
                stack_settings(root, stack)
            what = f"stack {stack} needs the passphrase its secrets are encrypted with"
            variable = PASSPHRASE_VARIABLES[0]
            rule = f"neither {' nor '.join(PASSPHRASE_VARIABLES)} is set"
            raise FluxError(what, rule, f"fix: `read -rs {variable} && export {variable}`")
        if local:
            environment[PASSPHRASE_VARIABLES[0]] = local_passphrase(root, stack)
    environment |= bypass_proxy_for_loopback(environ)
    environment |= pulumi_home_or_fallback(environ, root / ".pulumi/home")
    environment.setdefault("PULUMI_SKIP_UPDATE_CHECK", "true")
    if not any(name in environ for name in COMPRESSION_VARIABLES):
        environment[COMPRESSION_VARIABLES[0]] = "true"
    return Engine(command, environment, stack, root)


def _run_to_the_end(line: list[str], environment: Mapping[str, str], root: Path, is_embedded: bool) -> int:
    """At Ctrl-C, wait until the engine has finished the steps that it has begun. Then raises KeyboardInterrupt, whatever its exit code."""
    interrupts = 0

    def on_interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        # A terminal sends Ctrl-C to the engine as well. An engine that is signalled twice would stop at once, so signal it only
        # without a terminal.
        if not sys.stdin.isatty():
            process.send_signal(signal.SIGINT)

    # The embedded engine unblocks SIGINT as soon as it can handle it. The Pulumi CLI handles it from the start.
    with interrupts_blocked() if is_embedded else nullcontext():
        process = subprocess.Popen(line, env=dict(environment), cwd=root)  # noqa: S603 - fixed commands
        before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt
    return process.returncode


def has_resource_changes(event_log: str) -> bool:
    """Whether the summary at the end of an event log counts resources that do not stay as they are. True if there is none."""
    events = [json.loads(line) for line in event_log.splitlines()]
    summaries = [event["summaryEvent"] for event in events if "summaryEvent" in event]
    return not summaries or not (summaries[-1].get("resourceChanges") or {}).keys() <= {"same"}


def without_unknown_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """After `up --target` the CLI stores a placeholder for outputs that it did not compute, such as those of a new job."""
    return {
        name: without_unknown_outputs(value) if isinstance(value, dict) else value
        for name, value in outputs.items()
        if value != UNKNOWN
    }
