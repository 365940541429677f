"""What a stack's training costs, by SaladCloud's prices and the speeds of finished runs in the bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.results import newest_sound, read_json
from flux_training.clients.run_states import in_parallel
from flux_training.clients.salad import Salad
from flux_training.clients.storage import Storage
from flux_training.training.cost import (
    CLOUDS,
    Bill,
    FinishedRun,
    Rate,
    Work,
    bill_for,
    finished_run_of,
    shape_of,
)
from flux_training.training.gpu import TFLOPS, Offer, choose_gpu, memory_gb, memory_needed, names_a_class
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.jobs.folder import ImageSet, JobFolder
from flux_training.training.runs.run import Layout, RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.trainer_config import document_of

# How many jobs, and runs of each, are read for their speed.
MAX_JOBS = 16
MAX_RUNS_PER_JOB = 3


def price_stack(
    connection: Connection,
    settings: StackSettings,
    jobs: Sequence[DeclaredJob],
    states: Mapping[str, RunState],
) -> Bill:
    """The estimate for the declared runs that are not finished, on the GPU class that `cluster.gpu` selects.

    Raises BadInput if it selects none, ServiceError if a budget or a condition needs prices that are not available.
    """
    paid = [job for job in jobs if states[job.name].needs_gpu]
    cluster, cloud = settings.cluster, CLOUDS[settings.cloud]
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    seen = speeds(storage, layout, [job.name for job in paid]) if paid else []
    works = [_work(storage, layout, job, states[job.name]) for job in paid]

    def bill_at(rate: Rate) -> Bill:
        return bill_for(
            works,
            rate,
            seen,
            TFLOPS,
            cloud,
            max_replicas=cluster.max_replicas,
            idle_threshold=cluster.idle_threshold_seconds if cluster.autoscale else None,
            always=min(cluster.min_replicas, len(jobs)),
        )

    bill = bill_at(_rate(connection, settings, jobs, states, bill_at))
    return replace(bill, dev=_dev_rate(connection.salad(), settings, bill.rate))


def _dev_rate(salad: Salad, settings: StackSettings, cluster: Rate) -> Rate | None:
    """The price of the dev group; None if there is none. Raises BadInput for an unknown class."""
    dev = settings.dev
    if not dev.enabled or dev.gpu is None:
        return cluster if dev.enabled else None
    try:
        found = find_gpu_class(salad.gpu_classes(), dev.gpu)
    except ServiceError as error:
        return Rate(dev.gpu, cluster.priority, None, str(error))
    return _rate_of(offer_of(found, cluster.priority), cluster.priority)


def _work(storage: Storage, layout: Layout, job: DeclaredJob, state: RunState) -> Work:
    work_state = "queued" if state.is_queued else "new"
    parent = layout.run(job.name, job.parent) if job.parent else None
    return work_of(storage, job.folder, job.image_set, parent, work_state)


def work_of(
    storage: Storage, folder: JobFolder, image_set: ImageSet, parent: RunKeys | None, state: str = "new"
) -> Work:
    """The work of a run; a resumed one has only the steps after its parent's newest valid checkpoint."""
    found = newest_sound(storage, parent) if parent else None
    steps = max(0, folder.config.steps - (found[1] if found else 0))
    return Work(folder.name, steps, shape_of(document_of(folder.raw_config)), image_set.size, state)


def _rate(
    connection: Connection,
    settings: StackSettings,
    jobs: Sequence[DeclaredJob],
    states: Mapping[str, RunState],
    bill_at: Callable[[Rate], Bill],
) -> Rate:
    """The class that `cluster.gpu` selects, and its current price."""
    cluster, budget = settings.cluster, settings.budget
    try:
        classes = connection.salad().gpu_classes()
    except ServiceError as error:
        limited = budget.max_usd is not None or budget.max_usd_per_job is not None
        if limited or not names_a_class(cluster.gpu):
            raise
        return Rate(cluster.gpu, cluster.priority, None, str(error))
    if names_a_class(cluster.gpu):
        found = find_gpu_class(classes, cluster.gpu)
        return _rate_of(offer_of(found, cluster.priority), cluster.priority)
    offers = [offer_of(one, cluster.priority) for one in classes if one.gpu_class_type == "community"]

    def hours_on(offer: Offer) -> float | None:
        bill = bill_at(_rate_of(offer, cluster.priority))
        seconds = [line.seconds for line in bill.lines]
        return None if None in seconds else (sum(filter(None, seconds)) + bill.idle_seconds or 1.0) / 3600

    need = max((memory_needed(document_of(job.folder.raw_config)) for job in jobs), default=0)
    kept = _kept_class(connection.salad(), cluster.name, states.values())
    return _rate_of(choose_gpu(cluster.gpu, need, offers, hours_on, kept), cluster.priority)


def _kept_class(salad: Salad, group_name: str, states: Iterable[RunState]) -> str | None:
    """The existing group's class, if changing it would disturb runs or be useless."""
    found = list(states)
    may_change = not any(state.is_queued for state in found) and any(state.needs_gpu for state in found)
    group = None if may_change else salad.get_group(group_name)
    classes = group.container.resources.gpu_classes if group else []
    return classes[0] if len(classes) == 1 else None


def offer_of(gpu: GpuClass, priority: str) -> Offer:
    price = gpu.price(priority)
    return Offer(gpu.id, gpu.name, memory_gb(gpu.name), None if price is None else float(price))


def _rate_of(offer: Offer, priority: str) -> Rate:
    trouble = "" if offer.usd_an_hour is not None else f"{offer.name} has no price at priority {priority}"
    return Rate(offer.name, priority, offer.usd_an_hour, trouble)


def speeds(storage: Storage, layout: Layout, first: Sequence[str] = ()) -> list[FinishedRun]:
    """The speeds of finished runs, preferring the jobs named `first`."""
    if not storage.exists():
        return []
    names = storage.list_folders(layout.runs)
    chosen = sorted(names, key=lambda name: (name not in first, name))[:MAX_JOBS]

    def runs_of(job: str) -> list[tuple[str, str]]:
        return [(job, run) for run in sorted(storage.list_folders(f"{layout.runs}{job}/"))[:MAX_RUNS_PER_JOB]]

    runs = [run for found in in_parallel(runs_of, chosen) for run in found]
    return [seen for seen in in_parallel(lambda run: _seen(storage, layout, *run), runs) if seen]


def _seen(storage: Storage, layout: Layout, job: str, run: str) -> FinishedRun | None:
    keys = layout.run(job, run)
    progress = read_json(storage, keys.progress)
    if progress is None or progress.get("state") != "finished":
        return None
    if progress.get("restarts") and (read_json(storage, keys.record) or {}).get("parent"):
        # progress.json does not say how many steps such a run made itself.
        return None
    return finished_run_of(progress, storage.get_bytes(f"{keys.config}train.yml") or b"")
