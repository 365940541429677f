"""What training costs: seconds a step, hours, dollars; estimated before, from finished runs where there are some. Pure.

The first calibration is the recipe's figure: just under an hour for 2,000 steps on an RTX 5090, with ai-toolkit's example for FLUX on
24 GB (rank 16, one image a step, 512/768/1024 pixels) [SaladCloud's FLUX LoRA guide]. From there to other work and other cards it is
scaled by four assumptions, none of them measured:

1. a step takes as long as it has tokens: (pixels / 16)² for the image, 512 for the text [FLUX.1's architecture];
2. and as many times that as it has images. Somebody's A40 took 6.5 s a step with one image and 22 s with four [ai-toolkit issue 145];
3. a LoRA of rank r adds r / 1536 of the base's work (2 r / 3072: two thin matrices beside one of FLUX's width);
4. another card takes longer by the ratio of the peak TFLOPS (flux_training/training/gpu.py).

Finished runs on the same card take the place of all that: as they are where rank, images and pixels are the same, else scaled by 1 to 3.

Billing [UPSTREAM.md]: by the second of running. Allocating a node and downloading the image are free, what the worker downloads is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

from flux_training.training.gpu import model_of
from flux_training.training.train_yml.document import first_process, rank_of, resolutions_of
from flux_training.training.train_yml.trainer_config import document_of
from flux_training.training.values import count, mapping, number, whole

TEXT_TOKENS = 512
PIXELS_A_TOKEN = 16
FLUX_WIDTH = 3072
HOUR = 3600.0


@dataclass(frozen=True)
class Shape:
    """What a step works on. `images` of each step: batch size times ai-toolkit's `gradient_accumulation`. `resolutions` in pixels a side."""

    rank: int = 16
    images: int = 1
    resolutions: tuple[int, ...] = (512, 768, 1024)

    @property
    def work(self) -> float:
        """Relative work of one step; only ratios mean something. Each resolution is trained equally often (a bucket set each)."""
        tokens = sum((side / PIXELS_A_TOKEN) ** 2 for side in self.resolutions) / len(self.resolutions)
        return (tokens + TEXT_TOKENS) * self.images * (1 + 2 * self.rank / FLUX_WIDTH)


def shape_of(document: Mapping[str, Any]) -> Shape:
    """The shape of a train.yml as ai-toolkit reads it; its defaults where something is missing or wrong."""
    process = first_process(document)
    train = mapping(process.get("train"))
    images = whole(train.get("batch_size"), 1) * whole(train.get("gradient_accumulation"), 1)
    return Shape(rank_of(process), images, tuple(sorted(resolutions_of(process))))


@dataclass(frozen=True)
class Seen:
    """What a finished run took. `gpu` is the card (training.gpu.model_of), empty when its node named none (the stand-in trains on a CPU)."""

    gpu: str
    shape: Shape
    start_seconds: float
    seconds_a_step: float


@dataclass(frozen=True)
class Cloud:
    """What else a stack pays for, or waits for, in its cloud.

    `autoscaler_seconds`: how often Kelpie looks at its rules [UPSTREAM.md: 5 minutes; the local cloud: 2 s]. `download`: bytes a second
    that a worker gets its images with. `around_seconds`: what a job takes on its node besides download and trainer: the launcher's checks
    and its last 3 s (flux_training/node/launch.py), the upload of the weights. `stand_in`: every card trains like every other.
    """

    autoscaler_seconds: float
    download: float
    around_seconds: float
    stand_in: bool = False


# For SaladCloud's home lines both rates are assumptions: 40 Mbit/s down; a minute for weights of 170 MB up. The local cloud's are seen.
CLOUDS = {"salad": Cloud(300.0, 5e6, 60.0), "local": Cloud(2.0, 100e6, 5.0, stand_in=True)}

# Loading and quantizing FLUX, first samples: an assumption. The recipe's hour is taken as the whole of the job.
START_SECONDS = 180.0
RECIPE_SECONDS = HOUR - START_SECONDS - CLOUDS["salad"].around_seconds
RECIPE = Seen("RTX 5090", Shape(), START_SECONDS, RECIPE_SECONDS / 2000)


@dataclass(frozen=True)
class Pace:
    """How fast a shape trains on a card. `basis` says where that is from, for people."""

    start_seconds: float
    seconds_a_step: float
    basis: str

    def seconds(self, steps: int) -> float:
        return self.start_seconds + steps * self.seconds_a_step


def seen_of(progress: Mapping[str, Any], raw_config: bytes) -> Seen | None:
    """What a run's progress.json and train.yml tell of its speed; None when it has not finished or does not tell enough.

    Samples, checkpoints and steps that an interruption lost are part of a step's time: they are paid like any other.
    """
    gpu_seconds, start = number(progress.get("gpu_seconds")), number(progress.get("start_seconds"))
    steps, restarts = count(progress.get("steps")), count(progress.get("restarts"))
    begun = progress.get("begun")
    before = count(begun[0]) if not restarts and isinstance(begun, list) and begun else 0
    if progress.get("state") != "finished" or gpu_seconds is None or start is None:
        return None
    if steps is None or restarts is None or before is None:
        return None
    trained = steps - before
    rest = gpu_seconds - start * (1 + restarts)
    if trained <= 0 or rest <= 0:
        return None
    gpu = progress.get("gpu")
    return Seen(
        model_of(gpu) if isinstance(gpu, str) else "",
        shape_of(document_of(raw_config)),
        start,
        rest / trained,
    )


def pace(
    shape: Shape, gpu: str, seen: Sequence[Seen], tflops: Mapping[str, float], cloud: Cloud
) -> Pace | None:
    """How fast `shape` trains on the class `gpu` (any spelling); None when nothing is known of that card."""
    card = model_of(gpu)
    there = [run for run in seen if run.gpu == card or (cloud.stand_in and not run.gpu)]
    same = [run for run in there if run.shape == shape]
    if same:
        return Pace(_start(same), median(run.seconds_a_step for run in same), f"{_runs(len(same))} like it")
    if there:
        scaled = median(run.seconds_a_step * shape.work / run.shape.work for run in there)
        return Pace(_start(there), scaled, f"{_runs(len(there))} with other settings, scaled")
    if card not in tflops:
        return None
    card_factor = tflops[RECIPE.gpu] / tflops[card]
    step = RECIPE.seconds_a_step * card_factor * shape.work / RECIPE.shape.work
    basis = (
        "the recipe's figure" if card == RECIPE.gpu else f"the recipe's figure, scaled to {card} by TFLOPS"
    )
    return Pace(START_SECONDS, step, basis)


def _start(runs: Sequence[Seen]) -> float:
    return median(run.start_seconds for run in runs)


def _runs(number: int) -> str:
    return "1 finished run" if number == 1 else f"{number} finished runs"


@dataclass(frozen=True)
class Work:
    """A run that is to be paid for: `state` is `new` or `queued`. `steps` are those still to train, `bytes` its dataset's."""

    job: str
    steps: int
    shape: Shape
    bytes: int
    state: str = "new"


@dataclass(frozen=True)
class Line:
    """One job's estimate. `seconds` of a running replica; `usd` None when speed or price is not known."""

    job: str
    state: str
    steps: int
    seconds: float | None
    usd: float | None
    basis: str


@dataclass(frozen=True)
class Rate:
    """What is rented: the class by name, priority, dollars an hour for a replica (None: not known, `trouble` says why)."""

    gpu: str
    priority: str
    usd_an_hour: float | None
    trouble: str = ""


def usd_of(seconds: float | None, usd_an_hour: float | None) -> float | None:
    """What a running replica costs; None when its time or its price is not known."""
    return None if seconds is None or usd_an_hour is None else seconds / HOUR * usd_an_hour


@dataclass(frozen=True)
class Bill:
    """The estimate of all that a change would train and of what is still unfinished: what the budget is held against.

    `idle_seconds` of all replicas together: after its last job each waits for the idle threshold and Kelpie's next look.
    `always`: replicas that are never scaled down; `dev`: what the dev group's one replica is, where there is one. What they cost
    without work has no end and is in no sum.
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
        """In sum; None when a part of it is not known."""
        parts = [*(line.usd for line in self.lines), self.idle_usd if self.lines else 0.0]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def line_for(work: Work, rate: Rate, how_fast: Pace | None, cloud: Cloud) -> Line:
    """One job's estimate: download of its images, start, steps, what is around them."""
    if how_fast is None:
        unknown = f"nothing is known of the speed of {rate.gpu}"
        return Line(work.job, work.state, work.steps, None, None, unknown)
    seconds = work.bytes / cloud.download + how_fast.seconds(work.steps) + cloud.around_seconds
    if not isfinite(seconds):
        return Line(
            work.job, work.state, work.steps, None, None, f"no finite time comes from {how_fast.basis}"
        )
    usd = usd_of(seconds, rate.usd_an_hour)
    return Line(work.job, work.state, work.steps, seconds, usd, how_fast.basis)


def bill_for(
    works: Sequence[Work],
    rate: Rate,
    seen: Sequence[Seen],
    tflops: Mapping[str, float],
    cloud: Cloud,
    *,
    most_replicas: int,
    idle_threshold: float | None,
    always: int = 0,
) -> Bill:
    """The estimate for `works`. `idle_threshold` in seconds, None when nothing scales the cluster (then `up` itself ends it)."""
    lines = tuple(
        line_for(work, rate, pace(work.shape, rate.gpu, seen, tflops, cloud), cloud) for work in works
    )
    replicas = min(most_replicas, len(works))
    # Kelpie looks at any time in its period: half of it on average.
    tail = 0.0 if idle_threshold is None else idle_threshold + cloud.autoscaler_seconds / 2
    return Bill(rate, lines, replicas * tail, replicas, always)
