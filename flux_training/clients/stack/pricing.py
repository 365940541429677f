"""What a stack's training costs, by SaladCloud's prices and the speeds of finished runs in the bucket."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from flux_training.clients.errors import ServiceError
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.records import read_bounded, read_record
from flux_training.clients.results import MAX_CONFIG_BYTES, newest_sound
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
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
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.train_yml.trainer_config import document_of

# How many jobs, and runs of each, are read for their speed.
MAX_JOBS = 16
MAX_RUNS_PER_JOB = 3


def price_stack(stack: StackServices, jobs: Sequence[DeclaredJob], states: Mapping[str, RunState]) -> Bill:
    """The estimate for the declared runs that are not finished, on the GPU class that `cluster.gpu` selects.

    Raises BadInput if it selects none, ServiceError if a budget or a condition needs prices that are not available.
    """
    paid = [job for job in jobs if states[job.name].needs_gpu]
    cluster, cloud = stack.settings.cluster, CLOUDS[stack.settings.cloud]
    finished = _finished_runs(stack, [job.name for job in paid]) if paid else []
    works = [_work(stack, job, states[job.name]) for job in paid]

    def bill_at(rate: Rate) -> Bill:
        return bill_for(
            works,
            rate,
            finished,
            TFLOPS,
            cloud,
            max_replicas=cluster.max_replicas,
            idle_threshold=cluster.idle_threshold_seconds if cluster.autoscale else None,
            always=min(cluster.min_replicas, len(jobs)),
        )

    bill = bill_at(_cluster_rate(stack, jobs, states, bill_at))
    return replace(bill, dev=_dev_rate(stack, bill.rate))


def _work(stack: StackServices, job: DeclaredJob, state: RunState) -> Work:
    """The work of a run; a resumed one has only the steps after its parent's newest valid checkpoint."""
    checkpoint = newest_sound(stack.storage, stack.layout.run(job.name, job.parent)) if job.parent else None
    steps = max(0, job.folder.steps - (checkpoint[1] if checkpoint else 0))
    shape = shape_of(document_of(job.folder.raw_config))
    return Work(job.name, steps, shape, job.image_set.size, "queued" if state.is_queued else "new")


def _cluster_rate(
    stack: StackServices,
    jobs: Sequence[DeclaredJob],
    states: Mapping[str, RunState],
    bill_at: Callable[[Rate], Bill],
) -> Rate:
    """The class that `cluster.gpu` selects, and its current price."""
    cluster, budget = stack.settings.cluster, stack.settings.budget
    if names_a_class(cluster.gpu):
        may_be_unknown = budget.max_usd is None and budget.max_usd_per_job is None
        return _rate_of_class(stack, cluster.gpu, may_be_unknown)
    classes = stack.connection.salad().gpu_classes()
    offers = [offer_of(one, cluster.priority) for one in classes if one.gpu_class_type == "community"]

    def hours_on(offer: Offer) -> float | None:
        bill = bill_at(_rate(offer, cluster.priority))
        seconds = [line.seconds for line in bill.lines]
        return None if None in seconds else (sum(filter(None, seconds)) + bill.idle_seconds or 1.0) / 3600

    need = max((memory_needed(document_of(job.folder.raw_config)) for job in jobs), default=0)
    kept = _kept_class(stack, states.values())
    return _rate(choose_gpu(cluster.gpu, need, offers, hours_on, kept), cluster.priority)


def _dev_rate(stack: StackServices, cluster: Rate) -> Rate | None:
    """The price of the dev group; None if there is none. Raises BadInput for an unknown class."""
    dev = stack.settings.dev
    if not dev.enabled or dev.gpu is None:
        return cluster if dev.enabled else None
    return _rate_of_class(stack, dev.gpu, may_be_unknown=True)


def _rate_of_class(stack: StackServices, gpu: str, may_be_unknown: bool) -> Rate:
    """The current price of the class with this name or id. Raises BadInput for an unknown class."""
    priority = stack.settings.cluster.priority
    try:
        classes = stack.connection.salad().gpu_classes()
    except ServiceError as error:
        if not may_be_unknown:
            raise
        return Rate(gpu, priority, None, str(error))
    return _rate(offer_of(find_gpu_class(classes, gpu), priority), priority)


def _kept_class(stack: StackServices, states: Iterable[RunState]) -> str | None:
    """The existing group's class, if changing it would disturb runs or be useless."""
    found = list(states)
    if not any(state.is_queued for state in found) and any(state.needs_gpu for state in found):
        return None
    group = stack.connection.salad().get_group(stack.settings.cluster.name)
    classes = group.container.resources.gpu_classes if group else []
    return classes[0] if len(classes) == 1 else None


def offer_of(gpu: GpuClass, priority: str) -> Offer:
    price = gpu.price(priority)
    return Offer(gpu.id, gpu.name, memory_gb(gpu.name), None if price is None else float(price))


def _rate(offer: Offer, priority: str) -> Rate:
    trouble = "" if offer.usd_an_hour is not None else f"{offer.name} has no price at priority {priority}"
    return Rate(offer.name, priority, offer.usd_an_hour, trouble)


def _finished_runs(stack: StackServices, first: Sequence[str]) -> list[FinishedRun]:
    """Finished runs in the bucket, preferring the jobs named `first`."""
    if not stack.bucket_exists:
        return []
    storage, runs_folder = stack.storage, stack.layout.runs
    names = storage.list_folders(runs_folder)
    chosen = sorted(names, key=lambda name: (name not in first, name))[:MAX_JOBS]

    def runs_of(job: str) -> list[tuple[str, str]]:
        return [(job, run) for run in sorted(storage.list_folders(f"{runs_folder}{job}/"))[:MAX_RUNS_PER_JOB]]

    runs = [run for found in in_parallel(runs_of, chosen) for run in found]
    found_runs = in_parallel(lambda run: finished_run(storage, stack.layout.run(*run)), runs)
    return [found for found in found_runs if found]


def finished_run(storage: Storage, keys: RunKeys) -> FinishedRun | None:
    """How fast a run was; None if it has not finished or does not say. Raises ServiceError."""
    progress = read_record(storage, keys.progress, RunProgress).value
    if progress is None or progress.state != "finished":
        return None
    record = read_record(storage, keys.record, RunRecord).value
    if progress.restarts and record and record.parent:
        # progress.json does not say how many steps such a run made itself.
        return None
    return finished_run_of(
        progress, read_bounded(storage, f"{keys.config}train.yml", MAX_CONFIG_BYTES) or b""
    )
