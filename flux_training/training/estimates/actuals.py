"""What runs took beside what was estimated: errors, and the paid time in which nothing was trained. Pure.

Nodes report these times. SaladCloud has no bill per job.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from flux_training.training.bill import show_hours
from flux_training.training.cost import cost_range, usd_of
from flux_training.training.estimates.ranges import Range
from flux_training.training.gpu import gpu_model_of
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import EstimateRecord, RunRecord

# The uncertainty of a running job's remaining time, which is computed from the mean time per step so far.
# Samples and checkpoints make steps uneven. The factors are assumptions.
LEFT_SPREAD = Range(0.85, 1.0, 1.25)
# How each field of Waste is shown to users.
WASTE_WORDS = {
    "downloads": "downloads",
    "loading": "loading, caching, first samples",
    "starts": "starting again",
    "repeated": "steps trained again",
    "idle": "idle after the last job",
}
# If a larger share of the paid time than this is wasted, a line of advice is shown.
MAX_REPEATED_SHARE = 0.05
MAX_IDLE_SHARE = 0.1


@dataclass(frozen=True)
class Waste:
    """Paid seconds in which nothing was trained.

    `downloads`: of the last start. `loading`: from the first start of the trainer to its first step, samples included. `starts`: the
    same of all later starts. `repeated`: steps that were trained again after an interruption. `idle`: the run's share of the replicas'
    idle time, as estimated when it was queued: nobody reports that time by run.
    """

    downloads: float = 0.0
    loading: float = 0.0
    starts: float = 0.0
    repeated: float = 0.0
    idle: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, cause) for cause in WASTE_WORDS))

    @property
    def causes_in_words(self) -> str:
        """`downloads 40 s, idle after the last job 5 min`; empty if there is none."""
        return self._words(*WASTE_WORDS)

    @property
    def interruption_waste_in_words(self) -> str:
        """`starting again 3 min, steps trained again 8 min`; empty if nothing was interrupted."""
        return self._words("starts", "repeated")

    def _words(self, *causes: str) -> str:
        found = {cause: getattr(self, cause) for cause in causes}
        return ", ".join(
            f"{WASTE_WORDS[cause]} {show_hours(seconds)}" for cause, seconds in found.items() if seconds
        )


def total_waste(wastes: Iterable[Waste]) -> Waste:
    found = list(wastes)
    return Waste(*(sum(getattr(waste, field.name) for waste in found) for field in fields(Waste)))


@dataclass(frozen=True)
class RunCost:
    """A run's estimate when it was queued, and what it took so far. `usd` and `estimate` in dollars; None if not known.

    `month` is `2026-11`, empty if not known. `paid_seconds`: its downloads and its trainer.
    """

    job: str
    run_id: str
    month: str
    gpu: str
    state: str
    estimate: Range | None
    usd: float | None
    paid_seconds: float
    waste: Waste

    @property
    def error(self) -> float | None:
        """How far a finished run's likely estimate was off: 0.1 if it cost a tenth more."""
        if self.state != "finished" or self.usd is None or self.estimate is None or not self.estimate.likely:
            return None
        return self.usd / self.estimate.likely - 1

    @property
    def is_within_estimate(self) -> bool | None:
        """Whether a finished run's cost is inside the estimated range."""
        if self.error is None or self.estimate is None or self.usd is None:
            return None
        return self.estimate.low <= self.usd <= self.estimate.high


@dataclass(frozen=True)
class CostGroup:
    """The finished runs of a month or of a GPU class."""

    name: str
    runs: int
    estimate: float
    usd: float
    inside: int


def waste_of(progress: RunProgress, idle_seconds: float | None = None) -> Waste:
    """`idle_seconds`: the run's share of the replicas' idle time, which counts once the run has finished."""
    start, restarts = progress.start_seconds or 0.0, progress.restarts or 0
    trained, step = progress.gpu_seconds or 0.0, progress.seconds_per_step
    starts = start * restarts if progress.restart_seconds is None else progress.restart_seconds
    repeated = progress.repeated_seconds or 0.0
    if progress.repeated_seconds is None and restarts and step is not None and progress.step is not None:
        repeated = max(0.0, trained - start * (1 + restarts) - step * progress.step)
    idle = idle_seconds if progress.state == "finished" and idle_seconds else 0.0
    return Waste(progress.download_seconds or 0.0, min(start, trained), starts, repeated, idle)


def paid_seconds_of(progress: RunProgress) -> float:
    """The time of a run's downloads and of its trainer, without idle time."""
    return (progress.gpu_seconds or 0.0) + (progress.download_seconds or 0.0)


def run_cost(job: str, run_id: str, record: RunRecord, progress: RunProgress) -> RunCost:
    estimate = record.estimate or EstimateRecord()
    paid = paid_seconds_of(progress)
    month = f"{record.created_at:%Y-%m}" if record.created_at else ""
    return RunCost(
        job,
        run_id,
        month,
        estimate.gpu or gpu_model_of(progress.gpu),
        progress.state,
        _cost_range_of_record(estimate),
        usd_of(paid, estimate.usd_an_hour),
        paid,
        waste_of(progress, estimate.idle_seconds),
    )


def _cost_range_of_record(estimate: EstimateRecord) -> Range | None:
    """Earlier versions stored the likely value alone."""
    usd = estimate.usd
    if usd is None:
        return None
    low, high = estimate.usd_low, estimate.usd_high
    return Range(usd if low is None else low, usd, usd if high is None else high)


def group_run_costs(runs: Sequence[RunCost], name_of: Callable[[RunCost], str]) -> list[CostGroup]:
    """Finished runs with an estimate, by month or GPU class."""
    compared = [run for run in runs if run.error is not None]
    names = sorted({name_of(run) for run in compared})
    return [_group(name, [run for run in compared if name_of(run) == name]) for name in names]


def _group(name: str, runs: Sequence[RunCost]) -> CostGroup:
    likely = sum(run.estimate.likely for run in runs if run.estimate)
    usd = sum(run.usd for run in runs if run.usd is not None)
    return CostGroup(name, len(runs), likely, usd, sum(bool(run.is_within_estimate) for run in runs))


def expected_cost(progress: RunProgress, usd_an_hour: float | None) -> Range | None:
    """What a training run will have cost in the end, in dollars; the range narrows with the time that is left. None if not known."""
    if progress.eta_seconds is None or progress.gpu_seconds is None:
        return None
    left = LEFT_SPREAD.times(progress.eta_seconds)
    return cost_range(left + Range.exactly(progress.gpu_seconds), usd_an_hour)


def advice(waste: Waste, paid_seconds: float) -> list[str]:
    """How to waste less. `paid_seconds`: all paid time without idle time."""
    paid = paid_seconds + waste.idle
    if not paid:
        return []
    repeated, idle = waste.repeated / paid, waste.idle / paid
    found = []
    if repeated > MAX_REPEATED_SHARE:
        found.append(
            f"{repeated:.0%} of the paid time repeats steps after interruptions: lower save.save_every in train.yml"
        )
    if idle > MAX_IDLE_SHARE:
        found.append(
            f"{idle:.0%} of the paid time is idle after the last job: queue several jobs at once, or lower cluster.idleThresholdSeconds"
        )
    return found
