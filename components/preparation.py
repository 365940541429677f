"""Checks of what exists already, before any resource is registered.

Reads only, so that a preview shows all problems.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from components.bucket import foreign_bucket_error
from components.container_group import KEYS_END_VARIABLE, foreign_group_error, is_foreign, other_cluster
from components.prepared_runs import PreparedRun
from flux_training.clients.connection import Connection
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.records import read_record
from flux_training.clients.salad import ContainerGroup
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.spending import Reservation
from flux_training.clients.stack.survey import Survey
from flux_training.clients.storage import Storage
from flux_training.training.bill import estimate_record
from flux_training.training.cost import StackBill
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import DeclaredJob, weights_in_image
from flux_training.training.runs.node_rights import (
    UnfinishedRun,
    choose_key_expiry,
    key_expiry_warning,
    parse_time,
    seconds_needed,
    shared_keys_warning,
    show_time,
)
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.retention import expiring_prefixes
from flux_training.training.runs.run import Layout
from flux_training.training.settings import StackSettings


@dataclass(frozen=True)
class Existing:
    """`keys_end` is empty for keys without an end; `retention`: days by key prefix. `warnings` and `notes` are for the user."""

    keys_end: str
    retention: dict[str, int]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def check_existing(stack: StackServices, survey: Survey, owner: str) -> Existing:
    """Look at the bucket, the container groups and the runs. Raises BadInput for foreign ones, ServiceError."""
    connection, settings = stack.connection, stack.settings
    storage, layout, bucket_exists = stack.storage, stack.layout, survey.bucket_exists
    salad = connection.salad()
    groups = {name: salad.get_group(cluster.name) for name, cluster in settings.all_clusters.items()}
    present = {name: group for name, group in groups.items() if group is not None}
    refuse_groups_of_renamed_clusters(present, owner)
    notes = check_foreign(stack, present, owner)
    end, warnings = "", tuple[str, ...]()
    if stack.nodes_reach_records:
        warnings = (shared_keys_warning(settings.storage.kind),)
    if settings.storage.kind == "r2" and settings.storage.credentials == "temporary":
        to_train = [job for job in survey.jobs if survey.states[job.name].needs_gpu]
        needed = max(
            seconds_needed(
                remaining_times(
                    storage, layout, [job for job in to_train if job.cluster == name], bucket_exists
                ),
                cluster.max_replicas,
            )
            for name, cluster in settings.all_clusters.items()
        )
        end, warnings = choose_keys_end(settings, present.values(), needed, owner.rpartition("/")[2])
    past = recorded_runs(storage, layout) if settings.keep.checkpoints_days and bucket_exists else []
    declared = [(job.name, job.run_id) for job in survey.jobs]
    return Existing(end, expiring_prefixes(settings.keep, layout, [*declared, *past]), warnings, notes)


def prepared_run(job: DeclaredJob, bill: StackBill, settings: StackSettings) -> PreparedRun:
    folder, own = job.folder, bill.clusters[job.cluster]
    usd = own.charge_of(job.name)
    return PreparedRun(
        job.name,
        job.run_id,
        folder.raw_config,
        job.image_set.manifest,
        folder.save_every,
        estimate_record(own, job.name),
        None if usd is None else Reservation(usd, settings.budget),
        weights_in_image(settings, job.cluster),
    )


def refuse_groups_of_renamed_clusters(groups: Mapping[str, ContainerGroup], owner: str) -> None:
    """Raise BadInput for a container group that belongs to another cluster of this stack.

    If that cluster was renamed, the update would delete its group after the new cluster has adopted it. `groups` are by
    cluster.
    """
    found = []
    for name, group in groups.items():
        other = other_cluster(group, name)
        if other is None or is_foreign(group, owner):
            continue
        has = f"this stack's cluster `{other}`" if other else "this stack's single `cluster`"
        own = f"clusters.{name}.name" if name else "cluster.name"
        found.append(
            f"container group {group.name} belongs to {has}; a renamed cluster is a new cluster and needs its own "
            f"group; set another name in {own}: unfinished jobs then move to the new group"
        )
    if found:
        raise BadInput(found)


def check_foreign(stack: StackServices, groups: Mapping[str, ContainerGroup], owner: str) -> tuple[str, ...]:
    """Raise BadInput for a bucket or group of others; with `adopt: true`, return notes on what adopting them changes."""
    found: list[FluxError] = []
    notes: list[str] = []
    for name, group in groups.items():
        if is_foreign(group, owner):
            found.append(foreign_group_error(group, owner))
            notes += adoption_notes(group, stack.settings, name)
    if stack.bucket_exists and (stack.mark is None or stack.mark.owner != owner):
        error = foreign_bucket_error(stack.storage, stack.layout, owner)
        if error is not None:
            found.append(error)
            notes.append(
                f"{error.what}: because of `adopt: true`, this stack takes it over; `destroy` will keep its objects"
            )
    if found and not stack.settings.adopt:
        raise BadInput([str(error) for error in found])
    return tuple(notes)


def adoption_notes(group: ContainerGroup, settings: StackSettings, name: str) -> list[str]:
    """Messages about what adopting a container group changes, by setting name. Environment values are never shown."""
    cluster, resources = settings.all_clusters[name], group.container.resources
    image = "one built from docker/" if settings.is_built(name) else cluster.image
    changes = {
        "image": (group.container.image, image),
        "cpu": (resources.cpu, cluster.cpu),
        "memory": (f"{resources.memory} MB", f"{cluster.memory * 1024} MB"),
        "priority": (
            group.priority or "",
            group.priority if group.priority in cluster.priorities else cluster.priority,
        ),
    }
    shown = [f"{name}: {old} -> {new}" for name, (old, new) in changes.items() if old != new]
    gone = sorted(set(group.container.environment_variables) - set(cluster.environment))
    shown += [f"environment: {', '.join(gone)} removed or replaced"] if gone else []
    shown.append(f"GPU: {cluster.gpu}")
    return [f"container group {group.name} is adopted ({'; '.join(shown)}); `destroy` does not delete it"]


def choose_keys_end(
    settings: StackSettings, groups: Iterable[ContainerGroup], needed: float, stack: str
) -> tuple[str, tuple[str, ...]]:
    """When the nodes' temporary keys should expire, and a warning if that is too soon.

    `needed`: how many seconds the runs still need. The environment of each group has the expiry time of its present keys; all
    groups have the same keys.
    """
    now = datetime.now(UTC)
    ends = [parse_time(group.environment_value(KEYS_END_VARIABLE)) for group in groups]
    present = min((end for end in ends if end is not None), default=None)
    end = choose_key_expiry(now, present, settings.storage.credential_hours, needed)
    warning = key_expiry_warning(now, end, needed, stack)
    return show_time(end), (warning,) if warning else ()


def remaining_times(
    storage: Storage, layout: Layout, to_train: Sequence[DeclaredJob], bucket_exists: bool
) -> list[UnfinishedRun]:
    """The time that the runs still need, as their launchers report it."""
    found = []
    for job in to_train:
        key = layout.run(job.name, job.run_id).progress
        progress = read_record(storage, key, RunProgress).value if bucket_exists else None
        seconds = progress.eta_seconds if progress else None
        found.append(UnfinishedRun(job.name, seconds, job.settings.max_hours))
    return found


def parent_key_fingerprint(connection: Connection) -> str:
    """A fingerprint of the keys that the nodes' keys are derived from.

    If those keys are revoked, the derived keys stop working too.
    """
    return hashlib.sha256(connection.s3_access_key_id.encode()).hexdigest()[:12]
