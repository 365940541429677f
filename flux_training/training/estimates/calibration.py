"""Corrects an estimate by finished runs of the same model and mode on the same GPU.

A node reports these times, and it may lie. So no correction moves an estimate by more than MAX_CORRECTION in either direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flux_training.training.estimates.parts import TrainerTimes, trainer_times
from flux_training.training.estimates.ranges import Range
from flux_training.training.estimates.workload import Workload, workload_of
from flux_training.training.gpu import gpu_model_of
from flux_training.training.runs.progress import RunProgress
from flux_training.training.train_yml.trainer_config import parse_train_yml

MAX_CORRECTION = 2.0
# The next run is assumed to take as long as the finished ones, or up to this factor more or less time: with one or two
# finished runs, with three or more, and on the user's own machine, which has other work, too.
FEW_RUNS_SPREAD = 1.25
MIN_SPREAD = 1.1
STAND_IN_SPREAD = 2.0


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run took. `gpu` is the model (`gpu.gpu_model_of`), empty for the stand-in trainer, which uses the CPU.

    `start_seconds`: from the trainer's start to its first step. `training_seconds`: from there to its end, in all starts together.
    """

    gpu: str
    workload: Workload
    start_seconds: float
    training_seconds: float
    steps: int
    begun: int = 0
    images: int = 0


@dataclass(frozen=True)
class Correction:
    """Factors for what comes before the first step, for steps, and for samples and saves between the steps."""

    start: Range
    steps: Range
    between: Range
    basis: str


def finished_run_of(progress: RunProgress, raw_config: bytes, images: int = 0) -> FinishedRun | None:
    """A run from its progress.json and train.yml; None if it has not finished or lacks a value.

    Steps lost in an interruption count as part of the steps, because they are billed as well.
    """
    gpu_seconds, start, restarts = progress.gpu_seconds, progress.start_seconds, progress.restarts
    begun = progress.begun[0] if progress.begun and not restarts else 0
    if progress.state != "finished" or gpu_seconds is None or start is None:
        return None
    if progress.steps is None or restarts is None:
        return None
    training_seconds = gpu_seconds - start * (1 + restarts)
    if progress.steps <= begun or training_seconds <= 0:
        return None
    workload = workload_of(parse_train_yml(raw_config))
    return FinishedRun(
        gpu_model_of(progress.gpu), workload, start, training_seconds, progress.steps, begun, images
    )


def correction_from(
    workload: Workload, model: str, finished: Sequence[FinishedRun], tflops: float, stand_in: bool
) -> Correction | None:
    """None if no finished run is comparable. `stand_in`: the trainer is the stand-in, which is equally fast for every GPU class."""
    if stand_in and (runs := [run for run in finished if not run.gpu and run.workload.mode == workload.mode]):
        return _stand_in_correction(runs, tflops)
    runs = [run for run in finished if run.gpu == model and run.workload.mode == workload.mode]
    if not runs:
        return None
    ratios = [
        (run.start_seconds / usual.start.likely, run.training_seconds / usual.training.likely)
        for run in runs
        for usual in [_times_without_correction(run, tflops)]
    ]
    starts, training = (_bounded_range([pair[place] for pair in ratios]) for place in (0, 1))
    like = "" if any(run.workload == workload for run in runs) else " with other settings, scaled"
    words = "1 finished run" if len(runs) == 1 else f"{len(runs)} finished runs"
    return Correction(starts, training, training, f"{words} of this model{like}")


def _stand_in_correction(runs: Sequence[FinishedRun], tflops: float) -> Correction:
    """The stand-in takes the same time for each step, and none for samples and saves. It runs on the user's machine: no bounds."""
    usual = [_times_without_correction(run, tflops) for run in runs]
    starts = [run.start_seconds / times.start.likely for run, times in zip(runs, usual, strict=True)]
    steps = [run.training_seconds / times.steps.likely for run, times in zip(runs, usual, strict=True)]
    words = "1 finished run" if len(runs) == 1 else f"{len(runs)} finished runs"
    spreads = (_spread(starts, STAND_IN_SPREAD), _spread(steps, STAND_IN_SPREAD))
    return Correction(*spreads, Range.exactly(0.0), f"{words} of the stand-in trainer")


def _times_without_correction(run: FinishedRun, tflops: float) -> TrainerTimes:
    return trainer_times(run.workload, run.begun, run.steps, run.images, tflops)


def _bounded_range(ratios: Sequence[float]) -> Range:
    found = _spread(ratios)
    low, high = 1 / MAX_CORRECTION, MAX_CORRECTION
    return Range(*(min(high, max(low, value)) for value in (found.low, found.likely, found.high)))


def _spread(ratios: Sequence[float], least: float = 0.0) -> Range:
    """The range of the ratios, at least from the median divided by `least` to the median times it."""
    middle, least = median(ratios), least or (FEW_RUNS_SPREAD if len(ratios) < 3 else MIN_SPREAD)
    return Range(min(*ratios, middle / least), middle, max(*ratios, middle * least))


def apply_correction(times: TrainerTimes, correction: Correction | None) -> TrainerTimes:
    """The times with the spread of finished runs in place of the assumed one."""
    if correction is None:
        return times

    def by(factor: Range, seconds: Range) -> Range:
        return factor.times(seconds.likely)

    return TrainerTimes(
        by(correction.start, times.loading),
        by(correction.start, times.caching),
        by(correction.start, times.first_samples),
        by(correction.steps, times.steps),
        by(correction.between, times.samples),
        by(correction.between, times.saves),
    )
