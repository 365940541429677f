"""What a stack has to know of what is there before it registers a resource. Reads only, so that a preview tells all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from components.bucket import foreign_bucket, owner_of
from components.container_group import is_foreign, not_ours
from components.node_environment import KEYS_END_VARIABLE
from flux_training.clients.connection import Connection
from flux_training.clients.results import read_json
from flux_training.clients.salad import ContainerGroup
from flux_training.clients.storage import Storage
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.node_rights import (
    Remaining,
    choose_end,
    end_warning,
    parse_time,
    seconds_needed,
    show_time,
)
from flux_training.training.runs.progress import read_progress
from flux_training.training.runs.retention import expiring
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings


@dataclass(frozen=True)
class Surveyed:
    """`keys_end` is empty for keys without an end. `warnings` and `notes` are for the person who previews."""

    keys_end: str
    retention: dict[str, int]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def survey(
    connection: Connection,
    settings: StackSettings,
    jobs: Sequence[DeclaredJob],
    states: Mapping[str, RunState],
    owner: str,
) -> Surveyed:
    """Look at bucket, container group and runs, whose `states` are by job. Raises BadInput for what exists and is not ours, ServiceError."""
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    there = storage.exists()
    group = connection.salad().get_group(settings.cluster.name)
    notes = check_foreign(storage if there else None, layout, group, settings, owner)
    issued = settings.storage.kind == "r2" and settings.storage.credentials == "temporary"
    to_train = [job for job in jobs if states[job.name].needs_gpu]
    runs = remaining(storage, layout, to_train, there) if issued else []
    end, warnings = keys_end(settings, group, runs) if issued else ("", ())
    if (
        settings.storage.kind == "s3"
        and connection.cloud == "salad"
        and connection.node_access_key_id is None
    ):
        warnings = (
            "the nodes get the stack's own keys of the bucket, which may be able to do more than they need: give FLUX_NODE_ACCESS_KEY_ID and "
            "FLUX_NODE_SECRET_ACCESS_KEY, or use storage.kind r2 or aws",
        )
    past = past_run_ids(storage, layout) if settings.keep.checkpoints_days and there else []
    declared = [(job.name, job.run_id) for job in jobs]
    return Surveyed(end, expiring(settings.keep, layout, [*declared, *past]), warnings, notes)


def check_foreign(
    storage: Storage | None, layout: Layout, group: ContainerGroup | None, settings: StackSettings, owner: str
) -> tuple[str, ...]:
    """What exists and is not this stack's: refused, or with `adopt: true` told what becomes of it. Raises BadInput."""
    found: list[FluxError] = []
    notes: list[str] = []
    if group is not None and is_foreign(group, owner):
        found.append(not_ours(group, owner))
        notes += adoption_notes(group, settings)
    if storage is not None and owner_of(storage, layout) != owner:
        error = foreign_bucket(storage, layout, owner)
        if error is not None:
            found.append(error)
            notes.append(f"{error.what}: adopted; what lies there stays, also after `destroy`")
    if found and not settings.adopt:
        raise BadInput([str(error) for error in found])
    return tuple(notes)


def adoption_notes(group: ContainerGroup, settings: StackSettings) -> list[str]:
    """What adopting a container group changes, in the words of its settings; values of its environment are never shown."""
    cluster, resources = settings.cluster, group.container.resources
    image = "one built from docker/" if settings.image.build else cluster.image
    changes = {
        "image": (group.container.image, image),
        "cpu": (resources.cpu, cluster.cpu),
        "memory": (f"{resources.memory} MB", f"{cluster.memory * 1024} MB"),
        "priority": (group.priority or "", cluster.priority),
    }
    told = [f"{name}: {old} -> {new}" for name, (old, new) in changes.items() if old != new]
    gone = sorted(set(group.container.environment_variables) - set(cluster.environment))
    told += [f"environment: {', '.join(gone)} taken out or replaced"] if gone else []
    told.append(f"GPU: {cluster.gpu}")
    return [f"container group {group.name} is adopted ({'; '.join(told)}); `destroy` leaves it standing"]


def keys_end(
    settings: StackSettings, group: ContainerGroup | None, runs: Sequence[Remaining]
) -> tuple[str, tuple[str, ...]]:
    """When the nodes' temporary keys are to end, and a warning where that is too soon. The group knows when those in use do."""
    now = datetime.now(UTC)
    present = parse_time(group.environment_value(KEYS_END_VARIABLE)) if group else None
    needed = seconds_needed(runs, settings.cluster.max_replicas)
    end = choose_end(now, present, settings.storage.credential_hours, needed)
    warning = end_warning(now, end, needed)
    return show_time(end), (warning,) if warning else ()


def remaining(
    storage: Storage, layout: Layout, to_train: Sequence[DeclaredJob], there: bool
) -> list[Remaining]:
    """What the runs still need, as their launchers say. `there`: whether the bucket is."""
    found = []
    for job in to_train:
        progress = (read_json(storage, layout.run(job.name, job.run_id).progress) or {}) if there else {}
        found.append(Remaining(job.name, read_progress(progress).eta_seconds, job.settings.max_hours))
    return found


def past_run_ids(storage: Storage, layout: Layout) -> list[tuple[str, str]]:
    """(job, run id) of every run that the bucket knows of, also of jobs no longer declared."""
    return [
        (job, run)
        for job in storage.list_folders(layout.runs)
        for run in storage.list_folders(f"{layout.runs}{job}/")
    ]


def parent_mark(connection: Connection) -> str:
    """Names the keys that the nodes' are made from: others made from gone ones are gone too."""
    return hashlib.sha256(connection.s3_access_key_id.encode()).hexdigest()[:12]
