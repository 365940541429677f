"""Estimates what training costs: the parts of each job's time, hours, dollars. Pure.

The parts and their assumptions stand in flux_training/training/estimates; finished runs of the same model and mode correct them.
SaladCloud bills by the second of running. Allocating a node and downloading the image are free; the worker's downloads are not
(docs/services.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, sqrt

from flux_training.training.estimates.calibration import (
    MAX_CORRECTION,
    Correction,
    FinishedRun,
    apply_correction,
    correction_from,
)
from flux_training.training.estimates.model_work import model_work
from flux_training.training.estimates.parts import (
    Part,
    PartName,
    TrainerTimes,
    count_checkpoints,
    stand_in_times,
    trainer_times,
)
from flux_training.training.estimates.ranges import Range, total
from flux_training.training.estimates.workload import Workload
from flux_training.training.gpu import gpu_model_of
from flux_training.training.words import counted

HOUR_SECONDS = 3600.0
# Multiply the estimate by this range for work that depends on the speed of a home internet connection.
CONNECTION_SPREAD = Range(0.4, 1.0, 2.5)
# Joins the names of several GPU classes.
OR = " or "
NONE = Range.exactly(0.0)


@dataclass(frozen=True)
class CloudTimes:
    """What else takes time in a cloud.

    `autoscaler_seconds`: how often Kelpie evaluates its rules. `download`: the node's bytes per second. `around_seconds`: what a job
    takes on its node besides download and training: the launcher's checks, its last 3 s, and the upload of the weights. `stand_in`: the
    stand-in trainer is equally fast on every GPU class. `interruptions`: how often a node leaves in an hour of training, by priority.
    `least_interruptions`: so many of them does each job's high end have.
    """

    autoscaler_seconds: float
    download: float
    around_seconds: float
    stand_in: bool = False
    interruptions: Mapping[str, float] | None = None
    least_interruptions: int = 0


# Interruptions of a node per hour, by priority. SaladCloud publishes no such rates,
# so these are assumptions.
SALAD_INTERRUPTIONS = {"high": 0.02, "medium": 0.05, "low": 0.1, "batch": 0.2}
MAX_INTERRUPTIONS_FACTOR = 3.0
MAX_INTERRUPTIONS = 1e6
# For SaladCloud, Kelpie's autoscaler period of 5 minutes is measured (docs/services.md). A download speed
# of 40 Mbit/s and one minute to upload 170 MB are assumptions about home connections. For the local
# cloud, all values are measured. `localcloud chaos` can stop its nodes, so each job's high estimate
# allows for one interruption.
CLOUDS = {
    "salad": CloudTimes(300.0, 5e6, 60.0, interruptions=SALAD_INTERRUPTIONS),
    "local": CloudTimes(2.0, 100e6, 5.0, stand_in=True, least_interruptions=1),
}


@dataclass(frozen=True)
class Work:
    """A run that will be billed: `state` is `new` or `queued`. It trains from step `begun` to the end of `steps`.

    `bytes`: the size of its dataset, of `images` images.
    """

    job: str
    steps: int
    workload: Workload
    bytes: int
    state: str = "new"
    begun: int = 0
    images: int = 0

    @property
    def steps_left(self) -> int:
        return max(0, self.steps - self.begun)


@dataclass(frozen=True)
class Line:
    """One job's estimate. `time`, in seconds of a running replica, is None if the speed is unknown. It is the sum of `parts`, but no more
    than MAX_CORRECTION away from the sum without finished runs.

    `cost` in dollars is None if speed or price is unknown. `steps` are those left to train.
    """

    job: str
    state: str
    steps: int
    time: Range | None
    cost: Range | None
    basis: str
    parts: tuple[Part, ...] = ()

    @property
    def seconds(self) -> float | None:
        return self.time.likely if self.time else None

    @property
    def usd(self) -> float | None:
        return self.cost.likely if self.cost else None


@dataclass(frozen=True)
class Rate:
    """A GPU class with its priority and its price per hour and replica (None: unknown; `trouble` says why)."""

    gpu: str
    priority: str
    usd_an_hour: float | None
    trouble: str = ""


def usd_of(seconds: float | None, usd_an_hour: float | None) -> float | None:
    """The cost of a running replica; None if its time or price is unknown."""
    return None if seconds is None or usd_an_hour is None else seconds / HOUR_SECONDS * usd_an_hour


def cost_range(time: Range | None, usd_an_hour: float | None) -> Range | None:
    return None if time is None or usd_an_hour is None else time.times(usd_an_hour / HOUR_SECONDS)


@dataclass(frozen=True)
class Bill:
    """The estimate for all new and unfinished runs, which the budget limits.

    `idle_seconds` of all replicas: after its last job, each waits for the idle threshold and for Kelpie's next evaluation. `always`:
    replicas that are never scaled down. `dev`: the dev group's replica, if there is one. The cost of these without work has no end,
    so no total includes it.
    """

    rate: Rate
    lines: tuple[Line, ...]
    idle: Range = NONE
    replicas: int = 0
    always: int = 0
    dev: Rate | None = None

    @property
    def idle_seconds(self) -> float:
        return self.idle.likely

    @property
    def idle_usd(self) -> float | None:
        return usd_of(self.idle_seconds, self.rate.usd_an_hour)

    @property
    def charges(self) -> dict[str, float | None]:
        """What queueing each job counts against the limits of a day and a month: its high end, with its share of the idle time.

        None if it is unknown.
        """
        idle = self._idle_cost
        return {
            line.job: line.cost.high + idle.high / len(self.lines) if line.cost and idle else None
            for line in self.lines
        }

    def charge_of(self, job: str) -> float | None:
        """None if the charge is unknown, or if the bill does not have the job."""
        return self.charges.get(job)

    def without(self, jobs: Collection[str]) -> Bill:
        """The bill without these jobs, and without the idle time of the replicas that are not needed then."""
        lines = tuple(line for line in self.lines if line.job not in jobs)
        replicas = min(self.replicas, len(lines))
        idle = self.idle.times(replicas / self.replicas) if self.replicas else self.idle
        return replace(self, lines=lines, replicas=replicas, idle=idle)

    @property
    def cost(self) -> Range | None:
        """The total in dollars; None if a part of it is unknown."""
        return _sum_or_none([*(line.cost for line in self.lines), self._idle_cost if self.lines else NONE])

    @property
    def _idle_cost(self) -> Range | None:
        return cost_range(self.idle, self.rate.usd_an_hour)

    @property
    def usd(self) -> float | None:
        return self.cost.likely if self.cost else None


def combine_gpu_classes(bills: Sequence[Bill]) -> Bill:
    """The bill of a cluster whose replicas may have any of several GPU classes. The likely values are those of the first."""
    first = bills[0]
    lines = tuple(_combine_lines(lines) for lines in zip(*(bill.lines for bill in bills), strict=True))
    prices = [bill.rate.usd_an_hour for bill in bills]
    known = [price for price in prices if price is not None]
    rate = Rate(
        OR.join(bill.rate.gpu for bill in bills),
        first.rate.priority,
        max(known) if len(known) == len(prices) else None,
        next((bill.rate.trouble for bill in bills if bill.rate.trouble), ""),
    )
    return replace(first, rate=rate, lines=lines)


def _combine_lines(lines: Sequence[Line]) -> Line:
    unknown = next((line for line in lines if line.time is None), None)
    if unknown:
        return unknown
    parts = tuple(
        replace(same[0], seconds=_combine_ranges([part.seconds for part in same]))
        for same in zip(*(line.parts for line in lines), strict=True)
    )
    costs = [line.cost for line in lines if line.cost is not None]
    cost = _combine_ranges(costs) if len(costs) == len(lines) else None
    return replace(
        lines[0], parts=parts, time=_combine_ranges([line.time for line in lines if line.time]), cost=cost
    )


def _combine_ranges(ranges: Sequence[Range]) -> Range:
    """From the lowest low to the highest high, with the first's likely value."""
    return Range(min(one.low for one in ranges), ranges[0].likely, max(one.high for one in ranges))


@dataclass(frozen=True)
class StackBill:
    """The estimate for a stack: one bill for each cluster, by its name."""

    clusters: Mapping[str, Bill]

    def without(self, jobs: Collection[str]) -> StackBill:
        return StackBill({name: bill.without(jobs) for name, bill in self.clusters.items()})

    @property
    def charges(self) -> dict[str, float | None]:
        return {job: usd for bill in self.clusters.values() for job, usd in bill.charges.items()}

    @property
    def known_charges(self) -> dict[str, float]:
        return {job: usd for job, usd in self.charges.items() if usd is not None}

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for bill in self.clusters.values() for line in bill.lines)

    @property
    def cost(self) -> Range | None:
        """The total in dollars; None if a part of it is unknown."""
        return _sum_or_none(bill.cost for bill in self.clusters.values())

    @property
    def usd(self) -> float | None:
        return self.cost.likely if self.cost else None

    @property
    def idle_usd(self) -> float | None:
        idle = [bill.idle_usd for bill in self.clusters.values()]
        known = [usd for usd in idle if usd is not None]
        return sum(known) if len(known) == len(idle) else None

    @property
    def only(self) -> Bill | None:
        """The bill of a stack with one cluster; None if there are several."""
        return next(iter(self.clusters.values())) if len(self.clusters) == 1 else None


def _sum_or_none(parts: Iterable[Range | None]) -> Range | None:
    found = list(parts)
    known = [part for part in found if part is not None]
    return total(known) if len(known) == len(found) else None


def bill_for(
    works: Sequence[Work],
    rate: Rate,
    finished: Sequence[FinishedRun],
    tflops: Mapping[str, float],
    cloud: CloudTimes,
    *,
    max_replicas: int,
    idle_threshold: float | None,
    always: int = 0,
) -> Bill:
    """The estimate for `works`. `idle_threshold` in seconds; None if nothing scales the cluster and `up` itself stops it."""
    lines = tuple(line_for(work, rate, finished, tflops, cloud) for work in works)
    replicas = min(max_replicas, len(works))
    # A replica becomes idle at a random moment, so on average it waits half a period
    # for Kelpie's next evaluation.
    period = cloud.autoscaler_seconds
    tail = (
        NONE
        if idle_threshold is None
        else Range(idle_threshold, idle_threshold + period / 2, idle_threshold + period)
    )
    return Bill(rate, lines, tail.times(replicas), replicas, always)


def line_for(
    work: Work,
    rate: Rate,
    finished: Sequence[FinishedRun],
    tflops: Mapping[str, float],
    cloud: CloudTimes,
) -> Line:
    """One job's estimate."""
    if cloud.stand_in:
        # The stand-in trainer downloads no model weights.
        work = replace(work, workload=replace(work.workload, downloaded_gb=0.0))
    gpu = gpu_model_of(rate.gpu)
    peak = tflops.get(gpu)
    if peak is None and cloud.stand_in:
        # The choice of GPU does not matter here: finished runs of the stand-in
        # trainer correct the estimate.
        peak = max(tflops.values())
    if peak is None:
        return _line_without_estimate(work, f"the speed of {rate.gpu} is unknown")
    correction = correction_from(work.workload, gpu, finished, peak, cloud.stand_in)
    if cloud.stand_in and correction is None:
        times, basis = stand_in_times(work.steps_left), "the usual speed of the stand-in trainer"
    else:
        times = apply_correction(
            trainer_times(work.workload, work.begun, work.steps, work.images, peak), correction
        )
        basis = _basis(work.workload, correction)
    parts = _parts(work, times, rate, cloud)
    time = total(part.seconds for part in parts)
    if correction and not cloud.stand_in:
        plain = trainer_times(work.workload, work.begun, work.steps, work.images, peak)
        time = time.within(total(part.seconds for part in _parts(work, plain, rate, cloud)), MAX_CORRECTION)
    if not time.is_finite:
        return _line_without_estimate(work, f"{basis} gives no finite time")
    return Line(work.job, work.state, work.steps_left, time, cost_range(time, rate.usd_an_hour), basis, parts)


def _line_without_estimate(work: Work, basis: str) -> Line:
    return Line(work.job, work.state, work.steps_left, None, None, basis)


def _basis(workload: Workload, correction: Correction | None) -> str:
    if correction:
        return correction.basis
    name = workload.mode.model
    if not model_work(name).known:
        return f"FLUX.1's size, because the size of {name or 'its model'} is unknown"
    return "the model's size and public figures"


def _parts(work: Work, times: TrainerTimes, rate: Rate, cloud: CloudTimes) -> tuple[Part, ...]:
    workload = work.workload
    drawn = workload.sampling.count_samples_after(work.begun, work.steps) + (
        workload.sampling.images if workload.sampling.before_training else 0
    )
    spread = Range.exactly(1.0) if cloud.stand_in else CONNECTION_SPREAD
    found = [
        Part(PartName.DOWNLOAD, f"{work.bytes / 1e6:,.1f} MB", spread.times(work.bytes / cloud.download)),
        Part(PartName.LOADING, _describe_loading(workload), times.loading),
        Part(PartName.CACHING, counted(work.images, "image"), times.caching),
        Part(PartName.STEPS, f"{work.steps_left:,} steps", times.steps),
        Part(PartName.SAMPLES, counted(drawn, "image"), times.first_samples + times.samples),
        Part(
            PartName.SAVES,
            counted(count_checkpoints(workload, work.begun, work.steps), "checkpoint"),
            times.saves,
        ),
        Part(PartName.UPLOAD, "checks and final weights", spread.times(cloud.around_seconds)),
    ]
    rate_an_hour = (cloud.interruptions or {}).get(rate.priority, 0.0)
    lost = _interruptions(work, times, rate_an_hour, cloud.least_interruptions)
    return (*found, Part(PartName.INTERRUPTIONS, f"assumed {rate_an_hour:g} an hour", lost))


def _describe_loading(workload: Workload) -> str:
    model = workload.mode.model or "model"
    words = f"{model}, quantized" if workload.mode.quantized else model
    return f"{words}, {workload.downloaded_gb:.0f} GB downloaded" if workload.downloaded_gb else words


def _interruptions(work: Work, times: TrainerTimes, an_hour: float, least: int) -> Range:
    """Each one repeats the start and the steps since the last checkpoint: half of those between two checkpoints on average, at most all.

    The high end has two standard deviations more of them than expected, and not fewer than `least`.
    """
    if not work.steps_left:
        return NONE
    share = min(1.0, work.workload.save_every / work.steps_left)
    training, start = times.training, times.start
    likely = an_hour * training.likely / HOUR_SECONDS * (share / 2 * training.likely + start.likely)
    expected = min(MAX_INTERRUPTIONS, an_hour * MAX_INTERRUPTIONS_FACTOR * training.high / HOUR_SECONDS)
    # Interruptions are independent (a Poisson process), so their standard deviation is the square root
    # of the expected number.
    most = max(least, expected, floor(expected + 2 * sqrt(expected)))
    return Range(0.0, likely, most * (share * training.high + start.high))
