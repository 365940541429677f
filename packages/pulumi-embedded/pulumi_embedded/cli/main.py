"""The command line: the CLI's names, options and exit codes. What this engine does not support is refused by name.

Exit codes, as in the CLI: 0; 1 for failures; 2 for an invalid command line; 6 if there is no such stack; 7 for changes
with `--expect-no-changes`; 8 if the user declines or presses Ctrl-C twice.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pulumi_embedded import VERSION
from pulumi_embedded.cli.parser import CommandParser, unknown_arguments
from pulumi_embedded.errors import EngineError
from pulumi_embedded.session import Session

DEFAULT_PARALLEL: Final = 16
_FLAG_WITH_VALUE: Final = re.compile(
    "(--(?:clear-pending-creates|continue-on-error|diff|exclude-dependents|expect-no-changes|non-interactive|preview-only|refresh|"
    "remove|run-program|show-secrets|skip-preview|suppress-outputs|target-dependents|yes))=(true|false)"
)
# The arguments of one `add_argument` call: the names of an option and its settings.
_Option = tuple[tuple[str, ...], dict[str, Any]]


def run_command(arguments: Sequence[str]) -> int:
    """Run one command, and return its exit status."""
    parser = make_parser()
    options, unknown = parser.parse_known_args(_normalize_flag_values(arguments))
    unknown = _without_value_after_options(options, unknown)
    if unknown:
        command = getattr(options, "command_line", parser.prog)
        known = getattr(options, "known_options", _option_names_for_help(_SHARED))
        parser.exit(2, f"error: {unknown_arguments(command, unknown, known)}\n")
    if not hasattr(options, "function"):
        parser.print_help()
        return 0
    here = Path.cwd()
    try:
        return _run(options)
    except EngineError as error:
        print(f"error: {_with_typed_program(str(error), here)}", file=sys.stderr)
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


def _with_typed_program(message: str, here: Path) -> str:
    """The message, whose commands name the script beside this Python if the shell finds no `pulumi`."""
    script = Path(sys.executable).with_name("pulumi")
    if shutil.which("pulumi") or not script.is_file():
        return message
    return message.replace(
        "`pulumi ", f"`{script.relative_to(here) if script.is_relative_to(here) else script} "
    )


def _normalize_flag_values(arguments: Sequence[str]) -> list[str]:
    """With `--yes` for `--yes=true`, and without `--yes=false`: no flag is on by default."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = []
    for text in arguments[:end]:
        flag = _FLAG_WITH_VALUE.fullmatch(text)
        if flag is None:
            kept.append(text)
        elif flag[2] == "true":
            kept.append(flag[1])
    return [*kept, *arguments[end:]]


def _without_value_after_options(options: argparse.Namespace, unknown: list[str]) -> list[str]:
    """What is left of the arguments without the value in `config set KEY --secret -- VALUE`.

    argparse ends the positional arguments at the first option.
    """
    late = unknown[1:] if unknown[:1] == ["--"] else [text for text in unknown if not text.startswith("-")]
    if getattr(options, "value", "") is not None or len(late) != 1 or unknown[-1:] != late:
        return unknown
    options.value = late[0]
    return unknown[:-1] if unknown[0] != "--" else []


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="pulumi",
        parents=[_shared_options()],
        description="Pulumi without the Pulumi CLI (python -m pulumi_embedded)",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pulumi-embedded {VERSION}")
    commands = parser.add_subparsers(title="commands")
    _add_operations(commands)
    _add_stack(commands)
    _add_config(commands)
    yes = _flag("-y", "--yes", help="has no effect: `cancel` does not ask")
    _add(commands, "cancel", "stacks.cancel_update", "remove the stack's locks", [_NAME, yes])
    _add(commands, "about", "stacks.show_versions", "show versions and paths")
    _add_state(commands)
    _add_machine(commands)
    return parser


def _shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    for names, settings in _SHARED:
        # Suppress the default, so that a subcommand does not reset an option given
        # before the subcommand's name.
        shared.add_argument(*names, **settings, default=argparse.SUPPRESS)
    return shared


def _option_names_for_help(options: Sequence[_Option]) -> list[str]:
    """What `--help` lists of them."""
    return [
        name for names, settings in options if settings.get("help") != argparse.SUPPRESS for name in names
    ]


def _option(*names: str, **settings: Any) -> _Option:
    return names, settings


def _flag(*names: str, **settings: Any) -> _Option:
    return names, {"action": "store_true", **settings}


_SHARED: Final = (
    _option("-s", "--stack", help="the stack (default: the selected one)"),
    _option("-C", "--cwd", help="run as if started in this folder"),
    _flag("--non-interactive", help="never ask questions"),
    _option("--color", choices=("auto", "always", "never", "raw")),
)
_NAME: Final = _option("name", nargs="?")
_JSON: Final = _flag("-j", "--json", help="print JSON")
_SHOW_SECRETS: Final = _flag("--show-secrets", help="show secrets in plain text")
_YES: Final = _flag("-y", "--yes", help="do not ask for confirmation")
_REFRESH: Final = _flag("-r", "--refresh", help="refresh the state first")
_SKIP_PREVIEW: Final = _flag("-f", "--skip-preview", help="do not show a preview first")
_CONTINUE: Final = _flag("--continue-on-error", help="continue after a failure")
_NO_CHANGES: Final = _flag("--expect-no-changes", help="fail if anything would change or has changed")
_PREVIEW_ONLY: Final = _flag("--preview-only", help="only show a preview")
_REPLACE: Final = (
    _option(
        "--replace", action="append", default=[], metavar="URN", help="replace it even if it is unchanged"
    ),
    _flag("--exclude-dependents", help="exclude also what depends on excluded resources"),
)
_COMMON: Final = (
    _option("-p", "--parallel", type=int, default=DEFAULT_PARALLEL, help="how many steps run at a time"),
    _option("-t", "--target", action="append", default=[], help="only this URN (** matches anything)"),
    _option("-x", "--exclude", action="append", default=[], metavar="URN", help="all but this URN"),
    _flag("--target-dependents", help="also what depends on the targets"),
    _flag("--diff", help="show changes property by property"),
    _option("-m", "--message", default="", help="a message for the stack's history"),
    _JSON,
    _flag("--suppress-outputs", help=argparse.SUPPRESS),
    # The hidden options below are passed by Pulumi's Automation API.
    _flag("--suppress-progress", help=argparse.SUPPRESS),
    _option("--event-log", default="", help=argparse.SUPPRESS),
    _option("--exec-kind", default="cli", help=argparse.SUPPRESS),
    _option("--client", default="", help=argparse.SUPPRESS),
)


def _add_operations(commands: Any) -> None:
    options = [*_COMMON, *_REPLACE, _REFRESH, _NO_CHANGES]
    _add(commands, "preview", "operations.run_preview", "show what an update would do", options, "pre")
    help_ = "create, update and delete resources to match the program"
    options = [*_COMMON, *_REPLACE, _REFRESH, _YES, _SKIP_PREVIEW, _CONTINUE, _NO_CHANGES]
    _add(commands, "up", "operations.run_up", help_, options, "update")
    options = [
        *(*_COMMON, _YES, _SKIP_PREVIEW, _PREVIEW_ONLY, _NO_CHANGES),
        _flag("--exclude-dependents", help="exclude also what depends on excluded resources"),
        _flag("--clear-pending-creates", help="forget creates with an unknown outcome"),
        _flag("--run-program", help="also run the program, to update the stack's outputs"),
    ]
    _add(commands, "refresh", "operations.run_refresh", "update the state to match what exists", options)
    options = [
        *(*_COMMON, _REFRESH, _YES, _SKIP_PREVIEW, _PREVIEW_ONLY, _CONTINUE),
        _flag("--remove", help="remove the stack afterwards"),
    ]
    _add(commands, "destroy", "operations.run_destroy", "delete all resources", options, "down", "dn")


def _add_stack(commands: Any) -> None:
    help_ = "manage stacks: init, ls, select, output, history, export, import, rename, rm"
    options = [_flag("-u", "--show-urns", help="show the URN of each resource")]
    parts = _add(commands, "stack", "stacks.show_stack", help_, options).add_subparsers()
    file, force = _option("--file"), ("-f", "--force")
    no_select = _flag("--no-select", help="do not select the new stack")
    _add(parts, "init", "stacks.init_stack", "create a stack", [_NAME, no_select])
    _add(parts, "ls", "stacks.list_stacks", "list the stacks", [_JSON])
    create = _flag("-c", "--create", help="create the stack if it does not exist")
    _add(parts, "select", "stacks.select_stack", "select the stack for later commands", [_NAME, create])
    _add(parts, "output", "stacks.show_outputs", "show the stack's outputs", [_NAME, _JSON, _SHOW_SECRETS])
    options = [
        *(_JSON, _SHOW_SECRETS, _flag("--full-dates", help="show exact times")),
        _option("--page-size", type=int, default=0, help="how many updates a page has (default: all)"),
        _option("--page", type=int, default=1, help="which page to show"),
    ]
    _add(
        parts, "history", "stack_history.show_history", "show the stack's updates, the newest first", options
    )
    _add(parts, "rename", "state_edits.rename_stack", "give the stack another name", [_option("name")])
    _add(parts, "export", "stacks.export_stack", "write the state to stdout or a file", [file, _SHOW_SECRETS])
    help_ = "replace the state from stdin or a file"
    _add(parts, "import", "stacks.import_stack", help_, [file, _flag(*force, help="even if it has errors")])
    options = [
        *(_NAME, _flag("-y", "--yes"), _flag(*force, help="even if it still has resources")),
        _flag("--preserve-config", help="keep the configuration file"),
    ]
    _add(parts, "rm", "stacks.remove_stack", "remove a stack", options)


def _add_config(commands: Any) -> None:
    help_ = "show the configuration, or manage it: set, set-all, get, rm"
    config = _add(commands, "config", "config_commands.show_config", help_, [_JSON, _SHOW_SECRETS])
    parts = config.add_subparsers()
    key, path = _option("key"), _flag("--path", help="the key is a path into an object")
    options = [
        key,
        _option("value", nargs="?", help="read from stdin if omitted"),
        _flag("--secret", help="store the value encrypted"),
        _flag("--plaintext", help="store the value in plain text"),
        path,
    ]
    _add(parts, "set", "config_commands.set_value", "set a value", options)
    options = [
        _option("--secret", action="append", default=[], metavar="KEY=VALUE", help="store it encrypted"),
        _option(
            "--plaintext", action="append", default=[], metavar="KEY=VALUE", help="store it in plain text"
        ),
        _option("--json", default=None, metavar="JSON", help="values as `config --json` prints them"),
        path,
    ]
    _add(parts, "set-all", "config_commands.set_all", "set several values", options)
    json = _flag(
        "-j", "--json", default=argparse.SUPPRESS
    )  # no default, so that `config --json get` keeps its --json
    _add(parts, "get", "config_commands.show_value", "show a value", [key, json, path])
    _add(parts, "rm", "config_commands.remove_value", "remove a value", [key, path])


def _add_state(commands: Any) -> None:
    help_ = "edit the state: delete, rename, protect, unprotect"
    parts = commands.add_parser("state", help=help_).add_subparsers(required=True)
    urns, every = _option("urns", nargs="*", metavar="URN"), _flag("--all", help="all resources")
    yes = _flag("-y", "--yes", help="has no effect: these commands do not ask")
    options = [
        *(urns, every, yes),
        _flag("--force", help="also delete protected resources"),
        _flag("--target-dependents", help="also delete what depends on them"),
    ]
    help_ = "forget resources without deleting what they stand for"
    _add(parts, "delete", "state_edits.delete_from_state", help_, options, "remove", "rm")
    options = [_option("urn", metavar="URN"), _option("name", metavar="NAME"), yes]
    _add(parts, "rename", "state_edits.rename_resource", "give a resource another name", options)
    _add(
        parts,
        "protect",
        "state_edits.protect_resources",
        "protect resources from deletion",
        [urns, every, yes],
    )
    help_ = "allow the deletion of protected resources"
    _add(parts, "unprotect", "state_edits.unprotect_resources", help_, [urns, every, yes])


def _add_machine(commands: Any) -> None:
    def add(where: Any, name: str, function: str, help_: str, *options: _Option) -> None:
        _add(where, name, f"machine.{function}", help_, options).set_defaults(needs_stack=False)

    add(commands, "version", "show_version", "show the release of the CLI that this engine follows")
    verbose = _flag("-v", "--verbose", help="also show the backend")
    add(commands, "whoami", "show_user", "show the user and the backend", _JSON, verbose)
    url, local = _option("url", nargs="?"), _flag("-l", "--local", help="store states in your home folder")
    add(commands, "login", "log_in", "choose the backend of projects that name none", url, local)
    add(commands, "logout", "log_out", "forget the chosen backend", url, _flag("--all"))
    add(commands, "install", "install_requirements", "make the project's virtual environment")
    plugins = commands.add_parser("plugin", help="show installed plugins: ls")
    parts = plugins.add_subparsers(required=True)
    add(parts, "ls", "list_plugins", "list installed plugins", _JSON)


def _add(
    where: Any, name: str, function: str, help_: str, options: Sequence[_Option] = (), *aliases: str
) -> argparse.ArgumentParser:
    """Add a command. `function`: its module in this package, and its name in that module."""
    added: argparse.ArgumentParser = where.add_parser(
        name, parents=[_shared_options()], help=help_, aliases=list(aliases), allow_abbrev=False
    )
    known = _option_names_for_help([*options, *_SHARED])
    added.set_defaults(function=function, command_line=added.prog, known_options=known)
    for names, settings in options:
        added.add_argument(*names, **settings)
    return added


def _run(options: argparse.Namespace) -> int:
    """Run the command, whose module is imported only now."""
    folder = getattr(options, "cwd", None)
    if folder and not Path(folder).is_dir():
        raise EngineError(f"the folder {folder} of --cwd does not exist")
    os.chdir(folder or ".")
    module, name = options.function.split(".")
    command = getattr(import_module(f"pulumi_embedded.cli.{module}"), name)
    if not getattr(options, "needs_stack", True):
        return int(command(options))
    return int(command(Session.open(Path.cwd(), getattr(options, "stack", None)), options))
