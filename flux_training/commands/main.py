"""Train LoRAs (by default for FLUX.1-dev) from folders of images, as declared resources.

Exit codes: 0 success; 1 failure, with a message; 2 wrong usage; 130 stopped by Ctrl-C (run the same command to continue).
"""

import importlib
import os
import shutil
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import rich_click as click

from flux_training.commands.interrupts import HANDLER, exit_interrupted
from flux_training.commands.stack.project import PROJECT_VARIABLE, project_around, project_root
from flux_training.training.compiled_files import describe_damaged_bytecode
from flux_training.training.environment import bypass_proxy_for_loopback
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import explain_file_error
from flux_training.training.words import nearest, wrapped

# Each command is imported only when it is used, so that no command waits for another one's libraries.
COMMANDS = {
    "init": "flux_training.commands.init.command:init",
    "new": "flux_training.commands.jobs.new:new",
    "models": "flux_training.commands.jobs.models:models",
    "offers": "flux_training.commands.jobs.offers:offers",
    "caption": "flux_training.commands.jobs.caption:caption",
    "rename": "flux_training.commands.jobs.rename:rename",
    "sweep": "flux_training.commands.jobs.sweep:sweep",
    "up": "flux_training.commands.stack.command:up",
    "preview": "flux_training.commands.stack.command:preview",
    "plan": "flux_training.commands.plan.command:plan",
    "lint": "flux_training.commands.jobs.lint:lint",
    "refresh": "flux_training.commands.stack.command:refresh",
    "destroy": "flux_training.commands.stack.command:destroy",
    "list": "flux_training.commands.jobs.list:list_command",
    "status": "flux_training.commands.watch.status:status",
    "costs": "flux_training.commands.costs.command:costs",
    "logs": "flux_training.commands.watch.logs:logs",
    "ui": "flux_training.commands.ui.command:ui",
    "cancel": "flux_training.commands.jobs.cancel_retry:cancel",
    "retry": "flux_training.commands.jobs.cancel_retry:retry",
    "fetch": "flux_training.commands.results.fetch:fetch_command",
    "report": "flux_training.commands.report.command:report",
    "open": "flux_training.commands.report.open:open_command",
    "export": "flux_training.commands.export.command:export",
    "doctor": "flux_training.commands.doctor.command:doctor",
    "webhook": "flux_training.commands.webhook.command:webhook",
    "cloud": "flux_training.commands.stack.command:start_cloud",
    "down": "flux_training.commands.stack.command:down",
    "completion": "flux_training.commands.completion:completion",
}


class LazyGroup(click.RichGroup):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command = getattr(importlib.import_module(module), attribute)
        if HANDLER.was_called:
            # A compiled module has swallowed the KeyboardInterrupt of Ctrl-C, so raise it again.
            raise KeyboardInterrupt
        assert isinstance(command, click.Command)  # noqa: S101 - every entry of COMMANDS is a command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(f"there is no command {args[0]!r}{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, name="flux", help=__doc__, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="flux-training", prog_name="flux", message="%(prog)s %(version)s")
@click.option(
    "-C",
    "--cwd",
    "folder",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Act as if called in this folder. The project is the one around it, or the one that FLUX_PROJECT names.",
)
@click.pass_context
def main(context: click.Context, folder: Path | None) -> None:
    if folder is not None:
        os.chdir(folder)
        # Without --cwd, a folder outside projects means the tool's own.
        needs_project = context.invoked_subcommand not in ("init", "completion")
        if needs_project and not os.environ.get(PROJECT_VARIABLE) and not project_around(Path.cwd()):
            raise BadInput([f"--cwd {folder}: it is in no project; name a project's folder, or one in it"])
    context.obj = Path.cwd()
    os.chdir(project_root())


def run_command() -> None:
    """Print expected errors as a message. Anything else is a bug and keeps its traceback."""
    os.environ.update(bypass_proxy_for_loopback(os.environ))
    _prepare_output()
    try:
        _require_working_directory()
        main(standalone_mode=False, prog_name="flux")
    except click.ClickException as wrong_usage:
        if sys.stderr.isatty():
            _wrap(wrong_usage)
        wrong_usage.show()
        sys.exit(wrong_usage.exit_code)
    except FluxError as error:
        _fail(error)
    except OSError as error:
        if (known := explain_file_error(error)) is None:
            raise
        _fail(known)
    except (KeyboardInterrupt, click.Abort) as stopped:
        # Click would take the EOFError of a failed import for the end of the input.
        if damage := describe_damaged_bytecode(stopped.__context__):
            sys.exit(f"error: {damage}")
        exit_interrupted()


def _wrap(error: click.ClickException) -> None:
    """Break the message at words. What Click writes before it on the same line counts as well."""
    before, message, _ = f"Error: {error.format_message()}".partition(error.message or "\n")
    if message:
        width = shutil.get_terminal_size().columns
        error.message = wrapped(before + message, width)[len(before) :]  # type: ignore[misc]  # Click has no other way


def _prepare_output() -> None:
    """Print characters that standard output cannot encode as escapes, and print also if COLUMNS is 0."""
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise FluxError(
            "the folder you are in was deleted",
            "",
            "change to the project with `cd`, then run the same command again",
        ) from None


def _fail(error: FluxError) -> NoReturn:
    if HANDLER.was_called:
        # The user's Ctrl-C may have caused this error: what was being read or checked at that moment counts as invalid.
        exit_interrupted()
    message = f"error: {error}"
    width = shutil.get_terminal_size().columns
    click.echo(wrapped(message, width) if sys.stderr.isatty() else message, err=True)
    sys.exit(1)
