"""The command line: the CLI's names, options and exit codes for what this engine does; the rest is refused by name.

Exit codes, as the CLI's: 0; 1 where anything failed; 2 for a command line that cannot be done as it stands; 6 where
there is no such stack; 7 for changes with `--expect-no-changes`; 8 where the question was answered with no.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from pulumi_embedded import VERSION, memory
from pulumi_embedded.cli.session import Session
from pulumi_embedded.errors import EngineError, NeedsCliError

_PARALLEL: Final = 16


class _Parser(argparse.ArgumentParser):
    """Says of what it does not know that it needs the CLI."""

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
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    gc.set_threshold(100_000, 50, 100)  # a run makes many objects, keeps them, and ends
    memory.keep_little()
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


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    nothing: Any = argparse.SUPPRESS  # an option given before the command is not overwritten after it
    shared.add_argument("-s", "--stack", default=nothing, help="the stack; else the selected one")
    shared.add_argument("-C", "--cwd", default=nothing, help="run as if started in this folder")
    shared.add_argument("--non-interactive", action="store_true", default=nothing, help="never ask")
    shared.add_argument("--color", choices=("auto", "always", "never", "raw"), default=nothing)
    parser = _Parser(
        prog="pulumi",
        parents=[shared],
        description="Pulumi without the Pulumi CLI (python -m pulumi_embedded)",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"engine {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        where: Any, name: str, help_: str, run: Callable[[argparse.Namespace], int], *alias: str
    ) -> _Parser:
        made: _Parser = where.add_parser(
            name, parents=[shared], help=help_, aliases=list(alias), allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made

    _add_runs(commands, command)
    _add_stack(commands, command)
    _add_config(commands, command)
    cancel = command(commands, "cancel", "remove the stack's locks", _of("stacks", "cancel"))
    cancel.add_argument("name", nargs="?")
    cancel.add_argument("-y", "--yes", action="store_true", help="accepted; it does not ask")
    command(commands, "about", "versions and places", _of("stacks", "about"))
    return parser


def _add_runs(commands: Any, command: Callable[..., _Parser]) -> None:
    preview = command(
        commands, "preview", "show what an update would do", _of("operations", "preview"), "pre"
    )
    up = command(
        commands, "up", "make the resources what the program says", _of("operations", "up"), "update"
    )
    refresh = command(commands, "refresh", "take over what the resources are", _of("operations", "refresh"))
    destroy = command(commands, "destroy", "delete all resources", _of("operations", "destroy"), "down", "dn")
    for made in (preview, up, destroy):
        made.add_argument("-r", "--refresh", action="store_true", help="refresh first")
    for made in (up, refresh, destroy):
        made.add_argument("-y", "--yes", action="store_true", help="do not ask")
        made.add_argument("-f", "--skip-preview", action="store_true", help="do not show a preview first")
    for made in (up, destroy):
        made.add_argument("--continue-on-error", action="store_true", help="do what can still be done")
    for made in (preview, up, refresh, destroy):
        made.add_argument("-p", "--parallel", type=int, default=_PARALLEL, help="steps at a time")
        made.add_argument(
            "-t", "--target", action="append", default=[], help="only this URN (** for any part)"
        )
        made.add_argument("--diff", action="store_true", help="show changes property by property")
        made.add_argument("-m", "--message", default="", help="kept in the stack's history")
        made.add_argument("--suppress-outputs", action="store_true", help=argparse.SUPPRESS)
    for made in (preview, up, refresh):
        made.add_argument("--expect-no-changes", action="store_true", help="fail where anything changes")
    destroy.add_argument("--target-dependents", action="store_true", help="and what depends on the targets")
    preview.add_argument("-j", "--json", action="store_true", help="show it as JSON")
    refresh.add_argument(
        "--clear-pending-creates", action="store_true", help="forget creates without an outcome"
    )
    refresh.add_argument(
        "--run-program", action="store_true", help="run the program too: stack outputs are as it says"
    )
    destroy.add_argument("--remove", action="store_true", help="remove the stack too")


def _add_stack(commands: Any, command: Callable[..., _Parser]) -> None:
    stack = command(
        commands, "stack", "stacks: init, ls, select, output, export, import, rm", _of("stacks", "show")
    )
    parts = stack.add_subparsers(metavar="COMMAND")
    init = command(parts, "init", "make a stack", _of("stacks", "init"))
    init.add_argument("name", nargs="?")
    init.add_argument("--no-select", action="store_true", help="leave the selection as it is")
    command(parts, "ls", "list the stacks", _of("stacks", "list_")).add_argument(
        "-j", "--json", action="store_true"
    )
    select = command(parts, "select", "choose the stack that commands are about", _of("stacks", "select"))
    select.add_argument("name", nargs="?")
    select.add_argument("-c", "--create", action="store_true", help="make it where there is none")
    output = command(parts, "output", "show outputs", _of("stacks", "output"))
    output.add_argument("name", nargs="?")
    output.add_argument("-j", "--json", action="store_true")
    output.add_argument("--show-secrets", action="store_true")
    export = command(parts, "export", "write the state to stdout or a file", _of("stacks", "export"))
    export.add_argument("--file")
    export.add_argument("--show-secrets", action="store_true")
    import_ = command(parts, "import", "take a state from stdin or a file", _of("stacks", "import_"))
    import_.add_argument("--file")
    import_.add_argument("-f", "--force", action="store_true")
    remove = command(parts, "rm", "remove a stack", _of("stacks", "remove"))
    remove.add_argument("name", nargs="?")
    remove.add_argument("-y", "--yes", action="store_true")
    remove.add_argument("-f", "--force", action="store_true", help="also where it still has resources")
    remove.add_argument("--preserve-config", action="store_true", help="keep its configuration file")


def _add_config(commands: Any, command: Callable[..., _Parser]) -> None:
    config = command(
        commands, "config", "configuration: set, get, rm; alone: all of it", _of("config_commands", "show")
    )
    config.add_argument("-j", "--json", action="store_true")
    config.add_argument("--show-secrets", action="store_true")
    parts = config.add_subparsers(metavar="COMMAND")
    set_ = command(parts, "set", "set a value", _of("config_commands", "set_"))
    set_.add_argument("key")
    set_.add_argument("value", nargs="?", help="left out: read from stdin")
    set_.add_argument("--secret", action="store_true", help="store it encrypted")
    set_.add_argument("--plaintext", action="store_true", help="store it as it is")
    get = command(parts, "get", "show a value", _of("config_commands", "get"))
    get.add_argument("key")
    get.add_argument("-j", "--json", action="store_true", default=argparse.SUPPRESS)
    remove = command(parts, "rm", "remove a value", _of("config_commands", "remove"))
    remove.add_argument("key")
    for made in (set_, get, remove):
        made.add_argument("--path", action="store_true", help="the key is a path into an object")


def _of(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command of one of the modules, which is imported when it is run."""

    def run(options: argparse.Namespace) -> int:
        from importlib import import_module

        folder = getattr(options, "cwd", None)
        if folder and not Path(folder).is_dir():
            raise EngineError(f"the folder {folder} of --cwd does not exist")
        os.chdir(folder or ".")
        session = Session.open(
            Path.cwd(), getattr(options, "stack", None)
        )  # `folder` counts from elsewhere now
        return int(getattr(import_module(f"pulumi_embedded.cli.{module}"), name)(session, options))

    return run
