"""Access to a deployed stack: its engine, its outputs, and the services it uses."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from flux_training.clients import local_cloud
from flux_training.clients.connection import (
    VARIABLES,
    Connection,
    connect,
    parse_storage_kind,
    with_node_access_to_records,
)
from flux_training.commands.stack.engine import NO_STACK, Engine, find_engine
from flux_training.commands.stack.file import stack_path, uses_local_cloud
from flux_training.commands.stack.project import project_root
from flux_training.training.errors import FluxError


def prepare_engine(stack: str, output: TextIO | None = None) -> Engine:
    """The stack's engine. Starts the local cloud if the stack uses it (which prints to `output`) and creates the
    stack if there is none. Raises FluxError."""
    local = uses_local_cloud(project_root(), stack)
    engine = find_engine(stack, local)
    if local:
        local_cloud.ensure_local_cloud(output=output)
    engine.select()
    engine.release()
    return engine.update_passphrase()


@contextmanager
def preview_engine(stack: str, output: TextIO | None = None) -> Iterator[Engine]:
    """Like `prepare_engine`, for commands that change nothing. A stack that does not exist is made in a temporary folder:
    Pulumi previews existing stacks only. Raises FluxError."""
    local = uses_local_cloud(project_root(), stack)
    engine = find_engine(stack, local)
    if local:
        local_cloud.ensure_local_cloud(output=output)
    if engine.exists():
        engine.release()
        yield engine.update_passphrase()
        return
    with tempfile.TemporaryDirectory(prefix="flux-stack-") as folder:
        yield from _temporary_stack(engine.in_backend(folder))


def _temporary_stack(engine: Engine) -> Iterator[Engine]:
    """Create the engine's stack, and afterwards remove the salt that Pulumi has written into the stack file."""
    path = stack_path(project_root(), engine.stack)
    before = path.read_bytes()
    engine.create()
    created = path.read_bytes()
    try:
        yield engine
    finally:
        # Keep the file if the user has saved it in the meantime.
        if path.read_bytes() == created != before:
            path.write_bytes(before)


def read_only_engine(stack: str) -> Engine:
    """The stack's engine, for commands that only read: starts and creates nothing. Raises FluxError."""
    return find_engine(stack, uses_local_cloud(project_root(), stack))


def deployed_outputs(engine: Engine) -> dict[str, Any]:
    """The stack's outputs; empty if it was never deployed or has been destroyed. Raises FluxError."""
    try:
        return engine.outputs()
    except FluxError as error:
        if NO_STACK in str(error):
            return {}
        raise


def run_or_exit(engine: Engine, *arguments: str) -> None:
    """Run a Pulumi command. If it fails, exit with its code: it has printed the reason."""
    code = engine.run(*arguments)
    if code != 0:
        sys.exit(code)


def connect_to_services(engine: Engine, stack: str) -> Connection:
    """The services of a stack, with keys from its configuration or the environment. Raises FluxError."""
    given = engine.settings()
    storage = given.get("storage")
    if uses_local_cloud(project_root(), stack):
        return with_node_access_to_records(connect("local", {}, os.environ), storage)
    # GitHub passes an unset secret as an empty variable, so ignore empty ones.
    settings: dict[str, Any] = {
        key: given.get(key) for variable, key in VARIABLES.items() if not os.environ.get(variable, "").strip()
    }
    return with_node_access_to_records(
        connect("salad", settings, os.environ, parse_storage_kind(storage), stack), storage
    )
