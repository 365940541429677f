"""What a stack's training costs, by SaladCloud's prices and the speeds of finished runs in the bucket."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice

from flux_training.clients.errors import ServiceError
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.records import read_bounded, read_record
from flux_training.clients.results import MAX_CONFIG_BYTES, newest_sound_checkpoint
from flux_training.clients.salad import ContainerGroup
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.cost import (
    CLOUDS,
    OR,
    Bill,
    Rate,
    StackBill,
    Work,
    bill_for,
    combine_gpu_classes,
)
from flux_training.training.estimates.calibration import FinishedRun, finished_run_of
from flux_training.training.estimates.workload import workload_of
from flux_training.training.gpu import (
    TFLOPS,
    Offer,
    choose_gpu,
    gpu_names_in_setting,
    is_gpu_name,
    memory_gb,
    memory_needed,
)
from flux_training.training.jobs.declare import DeclaredJob, weights_in_image
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.words import flux_command

# The maximum number of jobs, and of runs of each job, that are read to learn the speed of training.
MAX_JOBS = 16
MAX_RUNS_PER_JOB = 3


def price_stack(
    stack: StackServices, jobs: Sequence[DeclaredJob], states: Mapping[str, RunState]
) -> StackBill:
    """The estimate for the declared runs that are not finished, on the GPU class that each cluster's `gpu` selects.

    Raises BadInput if it selects none, ServiceError if a budget or a condition needs prices that are not available.
    """
    paid = [job.name for job in jobs if states[job.name].needs_gpu]
    finished = _finished_runs(stack, paid) if paid else []
    bills = {}
    for name in stack.settings.all_clusters:
        own = [job for job in jobs if job.cluster == name]
        bills[name] = ClusterPricing(stack, name, own, states).bill(finished)
    return StackBill(bills)


@dataclass(frozen=True)
class ClassOffer:
    """A GPU class for a cluster. `available`: replicas that could start now, None if not known. `fits`: whether its memory is enough.

    `bill`: the estimate for all jobs of the cluster, whether or not they have been trained.
    """

    gpu: Offer
    available: int | None
    fits: bool
    bill: Bill


def gpu_class_offers(stack: StackServices, jobs: Sequence[DeclaredJob]) -> dict[str, list[ClassOffer]]:
    """By cluster, all community GPU classes, those first that fit and on which the jobs cost least. Raises ServiceError."""
    finished = _finished_runs(stack, [job.name for job in jobs])
    states = {job.name: RunState.NEW for job in jobs}
    found = {}
    for name in stack.settings.all_clusters:
        own = [job for job in jobs if job.cluster == name]
        found[name] = ClusterPricing(stack, name, own, states).offers(finished)
    return found


def unavailable_gpu_warnings(stack: StackServices, bill: StackBill, stack_name: str) -> list[str]:
    """A warning for each cluster that has runs to train and whose GPU classes have no free node now. None if SaladCloud does not say."""
    found: list[str] = []
    for name, own in bill.clusters.items():
        rate = own.rate
        if own.lines and not is_gpu_class_free(stack, [replace(rate, gpu=gpu) for gpu in rate.gpu.split(OR)]):
            of = f" of cluster {name}" if name else ""
            found.append(
                f"no {rate.gpu}{of} is free at priority {rate.priority} now; jobs wait until one is; {flux_command('offers', stack_name)} lists the others"
            )
    return found


def is_gpu_class_free(stack: StackServices, rates: Sequence[Rate]) -> bool:
    """Whether a node of one of these classes could start now. True if SaladCloud does not say."""
    salad = stack.connection.salad()
    with suppress(ServiceError):
        classes = {one.name: one.id for one in salad.gpu_classes()}
        known = [(classes[rate.gpu], rate.priority) for rate in rates if rate.gpu in classes]
        return not known or any(salad.gpu_availability(gpu).at(priority) for gpu, priority in known)
    return True


@dataclass(frozen=True)
class ClusterPricing:
    """The estimate for one cluster. `jobs` are those that it trains."""

    stack: StackServices
    name: str
    jobs: Sequence[DeclaredJob]
    states: Mapping[str, RunState]

    @property
    def cluster(self) -> ClusterSettings:
        return self.stack.settings.all_clusters[self.name]

    def bill(self, finished: Sequence[FinishedRun]) -> Bill:
        """Raises BadInput, ServiceError."""
        bill_at = self._bill_at(finished)
        bills = [bill_at(rate) for rate in self._rates_at_first_free_priority(bill_at)]
        bill = combine_gpu_classes(bills) if len(bills) > 1 else bills[0]
        is_dev = self.name == self.stack.settings.dev_cluster
        return replace(bill, dev=self._dev_rate(bill.rate)) if is_dev else bill

    def offers(self, finished: Sequence[FinishedRun]) -> list[ClassOffer]:
        """Raises ServiceError."""
        salad, priority = self.stack.connection.salad(), self.cluster.priority
        bill_at = self._bill_at(finished)

        def offered(one: GpuClass) -> ClassOffer:
            gpu = gpu_offer_of_class(one, priority)
            available = salad.gpu_availability(one.id).at(priority)
            fits = gpu.memory is None or gpu.memory >= self._memory_needed
            return ClassOffer(gpu, available, fits, bill_at(_rate(gpu, priority)))

        def order(offer: ClassOffer) -> tuple[bool, float, str]:
            usd = offer.bill.usd
            return not offer.fits, math.inf if usd is None else usd, offer.gpu.name

        classes = [one for one in salad.gpu_classes() if one.gpu_class_type == "community"]
        return sorted(in_parallel(offered, classes), key=order)

    @property
    def _memory_needed(self) -> int:
        weights = weights_in_image(self.stack.settings, self.name)
        documents = [job.folder.document for job in self.jobs]
        return max((memory_needed(document, weights) for document in documents), default=0)

    def _bill_at(self, finished: Sequence[FinishedRun]) -> Callable[[Rate], Bill]:
        """The estimate for the jobs' runs that are still to be paid, on a GPU class."""
        paid = [job for job in self.jobs if self.states[job.name].needs_gpu]
        works = [_work(self.stack, job, self.states[job.name]) for job in paid]
        cluster = self.cluster

        def bill_at(rate: Rate) -> Bill:
            return bill_for(
                works,
                rate,
                finished,
                TFLOPS,
                CLOUDS[self.stack.settings.cloud],
                max_replicas=cluster.max_replicas,
                idle_threshold=cluster.idle_threshold_seconds if cluster.autoscale else None,
                always=min(cluster.min_replicas, len(self.jobs)),
            )

        return bill_at

    def _rates_at_first_free_priority(self, bill_at: Callable[[Rate], Bill]) -> list[Rate]:
        """The rates at the group's priority if that is to stay, or else at the first one at which a node is free, or at the last."""
        priorities = self.cluster.priorities
        if len(priorities) == 1:
            return self._rates(bill_at, priorities[0])
        group = self._kept_group()
        kept = group.priority if group else None
        if kept in priorities:
            return self._rates(bill_at, kept)
        for priority in priorities[:-1]:
            rates = self._rates(bill_at, priority)
            if is_gpu_class_free(self.stack, rates):
                return rates
        return self._rates(bill_at, priorities[-1])

    def _rates(self, bill_at: Callable[[Rate], Bill], priority: str) -> list[Rate]:
        """The classes that the cluster's `gpu` selects, with their current prices at a priority."""
        cluster, budget = self.cluster, self.stack.settings.budget
        if is_gpu_name(cluster.gpu):
            names = gpu_names_in_setting(cluster.gpu)
            return [
                self._rate_of_class(name, priority, may_be_unknown=not budget.has_any_limit) for name in names
            ]
        classes = self.stack.connection.salad().gpu_classes()
        offers = [gpu_offer_of_class(one, priority) for one in classes if one.gpu_class_type == "community"]

        def hours_on(offer: Offer) -> float | None:
            bill = bill_at(_rate(offer, priority))
            seconds = [line.seconds for line in bill.lines]
            return None if None in seconds else (sum(filter(None, seconds)) + bill.idle_seconds or 1.0) / 3600

        return [
            _rate(
                choose_gpu(cluster.gpu, self._memory_needed, offers, hours_on, self._class_of_kept_group()),
                priority,
            )
        ]

    def _dev_rate(self, own: Rate) -> Rate | None:
        """The price of the dev group; None if there is none. Raises BadInput for an unknown class."""
        dev = self.stack.settings.dev
        if not dev.enabled or dev.gpu is None:
            return own if dev.enabled else None
        return self._rate_of_class(dev.gpu, own.priority, may_be_unknown=True)

    def _rate_of_class(self, gpu: str, priority: str, may_be_unknown: bool) -> Rate:
        """The current price of the class with this name or id. Raises BadInput for an unknown class."""
        try:
            classes = self.stack.connection.salad().gpu_classes()
        except ServiceError as error:
            if not may_be_unknown:
                raise
            return Rate(gpu, priority, None, str(error))
        return _rate(gpu_offer_of_class(find_gpu_class(classes, gpu), priority), priority)

    def _kept_group(self) -> ContainerGroup | None:
        """The existing group, if changing it would disturb runs or be useless."""
        found = [self.states[job.name] for job in self.jobs]
        if not any(state.is_queued for state in found) and any(state.needs_gpu for state in found):
            return None
        return self.stack.connection.salad().get_group(self.cluster.name)

    def _class_of_kept_group(self) -> str | None:
        group = self._kept_group()
        classes = group.container.resources.gpu_classes if group else []
        return classes[0] if len(classes) == 1 else None


def _work(stack: StackServices, job: DeclaredJob, state: RunState) -> Work:
    """The work of a run; a resumed one has only the steps after its parent's newest valid checkpoint."""
    parent = stack.layout.run(job.name, job.parent) if job.parent else None
    checkpoint = newest_sound_checkpoint(stack.storage, parent, before=job.folder.steps) if parent else None
    return Work(
        job.name,
        job.folder.steps,
        workload_of(job.folder.document),
        job.image_set.size,
        "queued" if state.is_queued else "new",
        begun=checkpoint[1] if checkpoint else 0,
        images=len(job.image_set.images),
    )


def gpu_offer_of_class(gpu: GpuClass, priority: str) -> Offer:
    price = gpu.price(priority)
    return Offer(gpu.id, gpu.name, memory_gb(gpu.name), None if price is None else float(price))


def _rate(offer: Offer, priority: str) -> Rate:
    trouble = "" if offer.usd_an_hour is not None else f"{offer.name} has no price at priority {priority}"
    return Rate(offer.name, priority, offer.usd_an_hour, trouble)


def _finished_runs(stack: StackServices, first: Sequence[str]) -> list[FinishedRun]:
    """Finished runs, preferring the jobs named `first`."""
    if not stack.bucket_exists:
        return []
    storage = stack.storage
    by_job = groupby(recorded_runs(storage, stack.layout), key=lambda run: run[0])
    runs = {job: list(islice(found, MAX_RUNS_PER_JOB)) for job, found in by_job}
    chosen = sorted(runs, key=lambda name: (name not in first, name))[:MAX_JOBS]
    wanted = [run for job in chosen for run in runs[job]]
    found_runs = in_parallel(lambda run: finished_run(storage, stack.layout.run(*run)), wanted)
    return [found for found in found_runs if found]


def finished_run(storage: Storage, keys: RunKeys) -> FinishedRun | None:
    """How fast a run was; None if it has not finished or does not say. Raises ServiceError."""
    progress = read_record(storage, keys.progress, RunProgress).value
    if progress is None or progress.state != "finished":
        return None
    record = read_record(storage, keys.record, RunRecord).value
    if progress.restarts and record and record.parent:
        # If a resumed run was restarted, progress.json does not say how many steps it made itself, so its speed is unknown.
        return None
    return finished_run_of(
        progress, read_bounded(storage, f"{keys.config}train.yml", MAX_CONFIG_BYTES) or b""
    )
