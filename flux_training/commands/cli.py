"""What all commands share: options, the console, and one way to print a sentence."""

import os
import re
import shlex
from collections.abc import Container
from pathlib import Path
from typing import Any

import rich_click as click
from click.core import ParameterSource
from rich.console import Console

from flux_training.commands.completion import complete_stack
from flux_training.training.dataset.image_cache import NO_CACHE_VARIABLE
from flux_training.training.words import DEFAULT_STACK, wrapped

# The default folder for results. It has a folder for each stack: outputs/<stack>/<job>/<run id>/.
OUTPUTS = "outputs"

# A console for prose, which it does not wrap: terminals wrap long lines themselves, and in a pipe each message stays on one
# line.
console = Console(soft_wrap=True, emoji=False)
# A console for tables, which have to fit the width of the terminal.
screen = Console(emoji=False)
stack_option = click.option(
    "--stack",
    default=DEFAULT_STACK,
    show_default=True,
    shell_complete=complete_stack,
    help="The stack: Pulumi.<stack>.yaml.",
)


def _disable_cache(_ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    if given:
        os.environ[NO_CACHE_VARIABLE] = "1"


no_cache_option = click.option(
    "--no-cache",
    is_flag=True,
    expose_value=False,
    callback=_disable_cache,
    help="Decode every image again, even if it looks unchanged.",
)


def outputs_folder(stack: str) -> Path:
    """The folder with the fetched runs of a stack, relative to the project."""
    return Path(OUTPUTS) / stack


class UserPath(click.Path):
    """A path relative to the folder in which the user called `flux`; the command itself runs in the checkout."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        called_from = ctx.find_root().obj if ctx else None
        return super().convert(Path(called_from or ".") / str(value), param, ctx)


def typed_options(leave_out: Container[str] = ()) -> str:
    """The options with which the current command was called, each with a space before it, to print the command again.

    Without --stack, which flux_command adds, and without those to `leave_out`, such as `dry_run`. Passwords in addresses
    are not shown.
    """
    context: Any = click.get_current_context()
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not is_typed or name == "stack" or name in leave_out:
            continue
        flag, value = max(option.opts, key=len), context.params[name]
        if option.is_flag:
            words += [flag]
        else:
            for one in value if option.multiple else [value]:
                words += [flag, re.sub(r"(?<=://)[^/@]*@", "USER:PASSWORD@", str(one))]
    return "".join(f" {shlex.quote(word)}" for word in words)


def say(text: str) -> None:
    """Prints lines as they are: columns, and paths and commands to copy. Sentences go to `say_wrapped`."""
    console.print(text, highlight=False, markup=False)


def say_wrapped(text: str) -> None:
    """Prints sentences: on a terminal broken at words, in a pipe each on one line."""
    say(wrapped(text, console.width) if console.is_terminal else text)
