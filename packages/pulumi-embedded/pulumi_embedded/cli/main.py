"""The command line: the CLI's names, options and exit codes. What this engine does not support is refused by name.

Exit codes, as in the CLI: 0; 1 for failures; 2 for an invalid command line; 6 if there is no such stack; 7 for changes
with `--expect-no-changes`; 8 if the user declines.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from pulumi_embedded import VERSION
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.session import Session

DEFAULT_PARALLEL: Final = 16
Command = Callable[[argparse.Namespace], int]
# Adds a command: its parent, name, help, function, and aliases.
AddCommand = Callable[..., argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """Reports unknown commands and options as features of the CLI."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2]
        if unknown:
            message = str(NeedsCliError(f"`{self.prog} {unknown}`"))
        elif "invalid choice: " in message:
            name = message.partition("invalid choice: ")[2].split("'")[1]
            message = str(NeedsCliError(f"`{self.prog} {name}`"))
        self.exit(2, f"error: {message}\n")


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        return int(options.run(options))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: canceled", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    unset: Any = argparse.SUPPRESS  # an option before the command must not be reset after it
    shared.add_argument("-s", "--stack", default=unset, help="the stack (default: the selected one)")
    shared.add_argument("-C", "--cwd", default=unset, help="run as if started in this folder")
    shared.add_argument("--non-interactive", action="store_true", default=unset, help="never ask questions")
    shared.add_argument("--color", choices=("auto", "always", "never", "raw"), default=unset)
    parser = _Parser(
        prog="pulumi",
        parents=[shared],
        description="Pulumi without the Pulumi CLI (python -m pulumi_embedded)",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pulumi-embedded {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(where: Any, name: str, help_: str, run: Command, *aliases: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = where.add_parser(
            name, parents=[shared], help=help_, aliases=list(aliases), allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    _add_operations(commands, add)
    _add_stack(commands, add)
    _add_config(commands, add)
    cancel = add(commands, "cancel", "remove the stack's locks", _function("stacks", "cancel"))
    cancel.add_argument("name", nargs="?")
    cancel.add_argument("-y", "--yes", action="store_true", help="has no effect: `cancel` does not ask")
    add(commands, "about", "show versions and paths", _function("stacks", "about"))
    return parser


def _add_operations(commands: Any, add: AddCommand) -> None:
    preview = add(
        commands, "preview", "show what an update would do", _function("operations", "preview"), "pre"
    )
    up = add(
        commands,
        "up",
        "create, update and delete resources to match the program",
        _function("operations", "up"),
        "update",
    )
    refresh = add(
        commands, "refresh", "update the state to match what exists", _function("operations", "refresh")
    )
    destroy = add(
        commands, "destroy", "delete all resources", _function("operations", "destroy"), "down", "dn"
    )
    for command in (preview, up, refresh, destroy):
        _add_common_options(command)
    for command in (preview, up, destroy):
        command.add_argument("-r", "--refresh", action="store_true", help="refresh the state first")
    for command in (up, refresh, destroy):
        command.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
        command.add_argument("-f", "--skip-preview", action="store_true", help="do not show a preview first")
    for command in (up, destroy):
        command.add_argument("--continue-on-error", action="store_true", help="continue after a failure")
    for command in (preview, up, refresh):
        command.add_argument(
            "--expect-no-changes", action="store_true", help="fail if anything would change or has changed"
        )
    preview.add_argument("-j", "--json", action="store_true", help="print JSON")
    refresh.add_argument(
        "--clear-pending-creates", action="store_true", help="forget creates with an unknown outcome"
    )
    refresh.add_argument(
        "--run-program", action="store_true", help="also run the program, to update the stack's outputs"
    )
    destroy.add_argument(
        "--target-dependents", action="store_true", help="also delete what depends on the targets"
    )
    destroy.add_argument("--remove", action="store_true", help="remove the stack afterwards")


def _add_common_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-p", "--parallel", type=int, default=DEFAULT_PARALLEL, help="how many steps run at a time"
    )
    command.add_argument(
        "-t", "--target", action="append", default=[], help="only this URN (** matches anything)"
    )
    command.add_argument("--diff", action="store_true", help="show changes property by property")
    command.add_argument("-m", "--message", default="", help="a message for the stack's history")
    command.add_argument("--suppress-outputs", action="store_true", help=argparse.SUPPRESS)


def _add_stack(commands: Any, add: AddCommand) -> None:
    stack = add(
        commands,
        "stack",
        "manage stacks: init, ls, select, output, export, import, rm",
        _function("stacks", "show"),
    )
    parts = stack.add_subparsers(metavar="COMMAND")
    init = add(parts, "init", "create a stack", _function("stacks", "init"))
    init.add_argument("name", nargs="?")
    init.add_argument("--no-select", action="store_true", help="do not select the new stack")
    list_ = add(parts, "ls", "list the stacks", _function("stacks", "list_"))
    list_.add_argument("-j", "--json", action="store_true")
    select = add(parts, "select", "select the stack for later commands", _function("stacks", "select"))
    select.add_argument("name", nargs="?")
    select.add_argument("-c", "--create", action="store_true", help="create the stack if it does not exist")
    output = add(parts, "output", "show the stack's outputs", _function("stacks", "output"))
    output.add_argument("name", nargs="?")
    output.add_argument("-j", "--json", action="store_true")
    output.add_argument("--show-secrets", action="store_true")
    export = add(parts, "export", "write the state to stdout or a file", _function("stacks", "export"))
    export.add_argument("--file")
    export.add_argument("--show-secrets", action="store_true")
    import_ = add(parts, "import", "replace the state from stdin or a file", _function("stacks", "import_"))
    import_.add_argument("--file")
    import_.add_argument("-f", "--force", action="store_true")
    remove = add(parts, "rm", "remove a stack", _function("stacks", "remove"))
    remove.add_argument("name", nargs="?")
    remove.add_argument("-y", "--yes", action="store_true")
    remove.add_argument("-f", "--force", action="store_true", help="even if it still has resources")
    remove.add_argument("--preserve-config", action="store_true", help="keep the configuration file")


def _add_config(commands: Any, add: AddCommand) -> None:
    config = add(
        commands,
        "config",
        "show the configuration, or manage it: set, get, rm",
        _function("config_commands", "show"),
    )
    config.add_argument("-j", "--json", action="store_true")
    config.add_argument("--show-secrets", action="store_true")
    parts = config.add_subparsers(metavar="COMMAND")
    set_ = add(parts, "set", "set a value", _function("config_commands", "set_"))
    set_.add_argument("key")
    set_.add_argument("value", nargs="?", help="read from stdin if omitted")
    set_.add_argument("--secret", action="store_true", help="store the value encrypted")
    set_.add_argument("--plaintext", action="store_true", help="store the value in plain text")
    get = add(parts, "get", "show a value", _function("config_commands", "get"))
    get.add_argument("key")
    get.add_argument("-j", "--json", action="store_true", default=argparse.SUPPRESS)
    remove = add(parts, "rm", "remove a value", _function("config_commands", "remove"))
    remove.add_argument("key")
    for command in (set_, get, remove):
        command.add_argument("--path", action="store_true", help="the key is a path into an object")


def _function(module: str, name: str) -> Command:
    """A function of a command module, which is imported when the command runs."""

    def run(options: argparse.Namespace) -> int:
        folder = getattr(options, "cwd", None)
        if folder and not Path(folder).is_dir():
            raise EngineError(f"the folder {folder} of --cwd does not exist")
        os.chdir(folder or ".")
        session = Session.open(Path.cwd(), getattr(options, "stack", None))
        return int(getattr(import_module(f"pulumi_embedded.cli.{module}"), name)(session, options))

    return run
