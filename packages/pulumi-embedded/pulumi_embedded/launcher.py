"""The console script `pulumi`: runs the Pulumi CLI if one is on the PATH, otherwise this engine."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pulumi_embedded.__main__ import main as run_embedded

_NAME: Final = "pulumi"
# This environment variable is `embedded` or `cli`. If it is unset, the CLI is preferred.
_CHOICE: Final = "ENGINE"
# The console scripts that start this module contain this text near their beginning.
_MARK: Final = b"pulumi_embedded"
_SCRIPT_BYTES: Final = 4096
# This environment variable lists the paths that were already started as the CLI, because one of them may be
# a wrapper that starts this script again.
_STARTED: Final = "PULUMI_EMBEDDED_STARTED"


def main() -> int:
    """Run the command line of this process."""
    choice = os.environ.get(_CHOICE, "")
    if choice not in ("", "cli", "embedded"):
        return _print_error(f"{_CHOICE} must be `embedded` or `cli`, not {choice!r}; correct it or unset it")
    cli = None if choice == "embedded" else find_cli(os.environ)
    if cli:
        os.environ[_STARTED] = os.pathsep.join([*_paths_started_as_cli(os.environ), str(cli)])
        os.execv(cli, [str(cli), *sys.argv[1:]])  # noqa: S606 - the CLI gets this command line as it is
    if choice == "cli":
        return _print_error(
            f"{_CHOICE}=cli, but the Pulumi CLI is not on the PATH; install it or unset {_CHOICE}"
        )
    return run_embedded()


def find_cli(environment: Mapping[str, str]) -> Path | None:
    """The first `pulumi` on the PATH that is not a script of this module, of whatever virtual environment, and was not started yet."""
    started = _paths_started_as_cli(environment)
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder or ".") / _NAME
        is_new = path.is_file() and os.access(path, os.X_OK) and str(path) not in started
        if is_new and not _is_own_script(path):
            return path
    return None


def _paths_started_as_cli(environment: Mapping[str, str]) -> list[str]:
    return [path for path in environment.get(_STARTED, "").split(os.pathsep) if path]


def _is_own_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_SCRIPT_BYTES)
    except OSError:
        return False
    return start.startswith(b"#!") and _MARK in start


def _print_error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
