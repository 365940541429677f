"""A watcher of the jobs that a stack has deployed, with what the stack's folder says about them."""

from collections.abc import Mapping
from typing import Any

from flux_training.commands.stack.access import connection_of
from flux_training.commands.stack.engine import Engine
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.sweeps import sweeps_of
from flux_training.commands.watch.trainer import assumed_trainers
from flux_training.commands.watch.watcher import Watcher


def watcher_of(engine: Engine, stack: str, outputs: Mapping[str, Any]) -> Watcher:
    """`outputs` are the stack's. Raises FluxError."""
    root, connection = project_root(), connection_of(engine, stack)
    sweeps = sweeps_of(root, stack, outputs["jobs"])
    return Watcher(connection, outputs, stack, assumed_trainers(root, stack), sweeps)
