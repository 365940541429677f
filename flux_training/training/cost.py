"""Estimates what training costs: seconds per step, hours, dollars, from finished runs where there are some. Pure.

The first calibration is SaladCloud's FLUX LoRA guide: just under an hour for 2,000 steps on an RTX 5090, with ai-toolkit's example for
24 GB (rank 16, one image per step, 512/768/1024 pixels). Four assumptions, none of them measured, scale it to other jobs and GPUs:

1. The time of a step is proportional to its tokens: (pixels / 16)² for the image and 512 for the text (FLUX.1's architecture),
2. and to its images. In ai-toolkit's issue 145, an A40 took 6.5 s per step with one image and 22 s with four.
3. A LoRA of rank r adds r / 1536 of the base model's work (2 r / 3072: two thin matrices beside one of FLUX's width).
4. GPUs differ by the ratio of their peak TFLOPS (flux_training/training/gpu.py).

Finished runs on the same GPU replace all that: unscaled if rank, images and pixels are the same, otherwise scaled by 1 to 3.

SaladCloud bills by the second of running. Allocating a node and downloading the image are free; the worker's downloads are not
(docs/services.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

from flux_training.training.gpu import model_of
from flux_training.training.runs.progress import RunProgress
from flux_training.training.train_yml.document import first_process, rank_of, resolutions_of
from flux_training.training.train_yml.trainer_config import document_of
from flux_training.training.values import mapping, whole_number

TEXT_TOKENS = 512
PIXELS_PER_TOKEN = 16
FLUX_WIDTH = 3072
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Shape:
    """What one step works on. `images` is the batch size times `gradient_accumulation`; `resolutions` are sides in pixels."""

    rank: int = 16
    images: int = 1
    resolutions: tuple[int, ...] = (512, 768, 1024)

    @property
    def work(self) -> float:
        """The work of a step, in arbitrary units. Each resolution is trained equally often."""
        tokens = sum((side / PIXELS_PER_TOKEN) ** 2 for side in self.resolutions) / len(self.resolutions)
        return (tokens + TEXT_TOKENS) * self.images * (1 + 2 * self.rank / FLUX_WIDTH)


def shape_of(document: Mapping[str, Any]) -> Shape:
    """The shape of a train.yml, with ai-toolkit's defaults for missing or invalid values."""
    process = first_process(document)
    train = mapping(process.get("train"))
    images = whole_number(train.get("batch_size"), 1) * whole_number(train.get("gradient_accumulation"), 1)
    return Shape(rank_of(process), images, tuple(sorted(resolutions_of(process))))


@dataclass(frozen=True)
class FinishedRun:
    """The speed of a finished run. `gpu` is the model (`gpu.model_of`), empty for the stand-in trainer, which uses the CPU."""

    gpu: str
    shape: Shape
    start_seconds: float
    seconds_per_step: float


@dataclass(frozen=True)
class CloudTimes:
    """What else takes time in a cloud.

    `autoscaler_seconds`: how often Kelpie evaluates its rules. `download`: the node's bytes per second. `around_seconds`: what a job
    takes on its node besides download and training: the launcher's checks, its last 3 s, and the upload of the weights. `stand_in`: the
    stand-in trainer is equally fast on every GPU class.
    """

    autoscaler_seconds: float
    download: float
    around_seconds: float
    stand_in: bool = False


# Kelpie's 5 minutes are measured (docs/services.md). 40 Mbit/s down and a minute for 170 MB up are assumptions about home connections.
# The local cloud's values are measured.
CLOUDS = {"salad": CloudTimes(300.0, 5e6, 60.0), "local": CloudTimes(2.0, 100e6, 5.0, stand_in=True)}

# Loading and quantizing FLUX and drawing the first samples: an assumption. The guide's hour is taken as the whole job.
START_SECONDS = 180.0
GUIDE_SECONDS = HOUR_SECONDS - START_SECONDS - CLOUDS["salad"].around_seconds
GUIDE_RUN = FinishedRun("RTX 5090", Shape(), START_SECONDS, GUIDE_SECONDS / 2000)


@dataclass(frozen=True)
class Speed:
    """How fast a shape trains on a GPU. `basis` names the source of the figures."""

    start_seconds: float
    seconds_per_step: float
    basis: str

    def seconds(self, steps: int) -> float:
        return self.start_seconds + steps * self.seconds_per_step


def finished_run_of(progress: RunProgress, raw_config: bytes) -> FinishedRun | None:
    """The speed of a run from its progress.json and train.yml; None if it has not finished or lacks a value.

    Samples, checkpoints and steps lost in an interruption count as part of the steps, because they are billed as well.
    """
    gpu_seconds, start, restarts = progress.gpu_seconds, progress.start_seconds, progress.restarts
    before = progress.begun[0] if progress.begun and not restarts else 0
    if progress.state != "finished" or gpu_seconds is None or start is None:
        return None
    if progress.steps is None or restarts is None:
        return None
    trained = progress.steps - before
    training_seconds = gpu_seconds - start * (1 + restarts)
    if trained <= 0 or training_seconds <= 0:
        return None
    return FinishedRun(
        model_of(progress.gpu), shape_of(document_of(raw_config)), start, training_seconds / trained
    )


def speed_of(
    shape: Shape, gpu: str, finished: Sequence[FinishedRun], tflops: Mapping[str, float], cloud: CloudTimes
) -> Speed | None:
    """How fast `shape` trains on the GPU class `gpu`; None if nothing is known about that GPU."""
    model = model_of(gpu)
    there = [run for run in finished if run.gpu == model or (cloud.stand_in and not run.gpu)]
    same = [run for run in there if run.shape == shape]
    if same:
        return Speed(_start(same), median(run.seconds_per_step for run in same), f"{_runs(same)} like it")
    if there:
        scaled = median(run.seconds_per_step * shape.work / run.shape.work for run in there)
        return Speed(_start(there), scaled, f"{_runs(there)} with other settings, scaled")
    if model not in tflops:
        return None
    factor = tflops[GUIDE_RUN.gpu] / tflops[model] * shape.work / GUIDE_RUN.shape.work
    scaling = "" if model == GUIDE_RUN.gpu else f", scaled to {model} by TFLOPS"
    return Speed(START_SECONDS, GUIDE_RUN.seconds_per_step * factor, f"the recipe's figure{scaling}")


def _start(runs: Sequence[FinishedRun]) -> float:
    return median(run.start_seconds for run in runs)


def _runs(runs: Sequence[FinishedRun]) -> str:
    return "1 finished run" if len(runs) == 1 else f"{len(runs)} finished runs"


@dataclass(frozen=True)
class Work:
    """A run that will be billed: `state` is `new` or `queued`, `steps` are those left to train, `bytes` is the dataset's size."""

    job: str
    steps: int
    shape: Shape
    bytes: int
    state: str = "new"


@dataclass(frozen=True)
class Line:
    """One job's estimate. `seconds` of a running replica; `usd` is None if speed or price is unknown."""

    job: str
    state: str
    steps: int
    seconds: float | None
    usd: float | None
    basis: str


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


@dataclass(frozen=True)
class Bill:
    """The estimate for all new and unfinished runs, which the budget limits.

    `idle_seconds` of all replicas: after its last job, each waits for the idle threshold and for Kelpie's next evaluation. `always`:
    replicas that are never scaled down. `dev`: the dev group's replica, if there is one. The cost of these without work has no end,
    so no total includes it.
    """

    rate: Rate
    lines: tuple[Line, ...]
    idle_seconds: float = 0.0
    replicas: int = 0
    always: int = 0
    dev: Rate | None = None

    @property
    def idle_usd(self) -> float | None:
        return usd_of(self.idle_seconds, self.rate.usd_an_hour)

    @property
    def usd(self) -> float | None:
        """The total; None if a part of it is unknown."""
        return _sum_if_known([*(line.usd for line in self.lines), self.idle_usd if self.lines else 0.0])


@dataclass(frozen=True)
class StackBill:
    """The estimate for a stack: one bill for each cluster, by its name."""

    clusters: Mapping[str, Bill]

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for bill in self.clusters.values() for line in bill.lines)

    @property
    def usd(self) -> float | None:
        """The total; None if a part of it is unknown."""
        return _sum_if_known(bill.usd for bill in self.clusters.values())

    @property
    def idle_usd(self) -> float | None:
        return _sum_if_known(bill.idle_usd for bill in self.clusters.values())

    @property
    def only(self) -> Bill | None:
        """The bill of a stack with one cluster; None if there are several."""
        return next(iter(self.clusters.values())) if len(self.clusters) == 1 else None


def _sum_if_known(parts: Iterable[float | None]) -> float | None:
    found = list(parts)
    known = [part for part in found if part is not None]
    return sum(known) if len(known) == len(found) else None


def line_for(work: Work, rate: Rate, speed: Speed | None, cloud: CloudTimes) -> Line:
    """One job's estimate: downloading its images, starting, training, and what comes around that."""
    if speed is None:
        basis = f"the speed of {rate.gpu} is unknown"
        return Line(work.job, work.state, work.steps, None, None, basis)
    seconds = work.bytes / cloud.download + speed.seconds(work.steps) + cloud.around_seconds
    if not isfinite(seconds):
        basis = f"{speed.basis} gives no finite time"
        return Line(work.job, work.state, work.steps, None, None, basis)
    return Line(work.job, work.state, work.steps, seconds, usd_of(seconds, rate.usd_an_hour), speed.basis)


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
    lines = tuple(
        line_for(work, rate, speed_of(work.shape, rate.gpu, finished, tflops, cloud), cloud) for work in works
    )
    replicas = min(max_replicas, len(works))
    # On average, Kelpie's next evaluation is half a period away.
    tail = 0.0 if idle_threshold is None else idle_threshold + cloud.autoscaler_seconds / 2
    return Bill(rate, lines, replicas * tail, replicas, always)
