"""What the commands share: the stack's engine with its cloud running, its outputs, its services, and one way to say things."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO

import rich_click as click
from rich.console import Console

from flux_training.clients.connection import VARIABLES, Connection, connect, storage_kind
from flux_training.commands import local_cloud
from flux_training.commands.engine import NO_STACK, Engine, find_engine, project_root
from flux_training.commands.stack_file import uses_local_cloud
from flux_training.training.errors import FluxError
from flux_training.training.file_cache import NO_CACHE_VARIABLE

OUTPUTS = "outputs"

# Sentences, which a terminal wraps by itself and a pipe not at all; and tables, which know how wide the terminal is.
console = Console(soft_wrap=True)
screen = Console()
stack_option = click.option(
    "--stack", default="dev", show_default=True, help="The stack: Pulumi.<stack>.yaml."
)


def _read_all_again(_ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    if given:
        os.environ[NO_CACHE_VARIABLE] = "1"


no_cache_option = click.option(
    "--no-cache",
    is_flag=True,
    expose_value=False,
    callback=_read_all_again,
    help="Read every image and caption again, also those that look unchanged.",
)


class UserPath(click.Path):
    """A path as the user means it: relative to where `flux` was called, though the command itself runs in the checkout."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        called_from = ctx.find_root().obj if ctx else None
        return super().convert(Path(called_from or ".") / str(value), param, ctx)


def ready(stack: str, words: TextIO | None = None) -> Engine:
    """The stack's engine, with its cloud running (it speaks to `words`) and the stack made. Raises FluxError."""
    local = uses_local_cloud(project_root(), stack)
    engine = find_engine(stack, local)
    if local:
        local_cloud.start(words=words)
    engine.select()
    engine.release()
    return engine


def reading_engine(stack: str) -> Engine:
    """The stack's engine for commands that only look: nothing is started and no stack is made. Raises FluxError."""
    return find_engine(stack, uses_local_cloud(project_root(), stack))


def deployed_outputs(engine: Engine) -> dict[str, Any]:
    """The stack's outputs; empty when it was never deployed, or was taken down. Raises FluxError."""
    try:
        return engine.outputs()
    except FluxError as error:
        if NO_STACK in str(error):
            return {}
        raise


def run(engine: Engine, *arguments: str) -> None:
    """Run one of Pulumi's commands; one that fails has said why and ends this process with its exit code."""
    code = engine.run(*arguments)
    if code != 0:
        sys.exit(code)


def connection_of(engine: Engine, stack: str) -> Connection:
    """The services of a stack, with the keys of its configuration or of the environment. Raises FluxError."""
    if uses_local_cloud(project_root(), stack):
        return connect("local", {}, os.environ)
    # An unset variable of a workflow arrives as an empty one.
    settings: dict[str, Any] = {
        key: engine.setting(key)
        for variable, key in VARIABLES.items()
        if not os.environ.get(variable, "").strip()
    }
    return connect("salad", settings, os.environ, storage_kind(engine.setting("storage")))


def say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
