"""A watcher of the jobs that a stack has deployed, with what the stack's folder says about them."""

from collections.abc import Mapping
from typing import Any

from flux_training.commands.stack.access import connect_to_services
from flux_training.commands.stack.engine import Engine
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.sweeps import sweeps_among_jobs
from flux_training.commands.watch.trainer import assumed_trainers
from flux_training.commands.watch.watcher import Watcher


def watch_deployed_jobs(engine: Engine, stack: str, outputs: Mapping[str, Any]) -> Watcher:
    """`outputs` are the stack's. Raises FluxError."""
    root, connection = project_root(), connect_to_services(engine, stack)
    sweeps = sweeps_among_jobs(root, stack, outputs["jobs"])
    return Watcher(connection, outputs, stack, assumed_trainers(root, stack), sweeps)
