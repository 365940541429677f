"""What estimates print for a step beside public figures, and the constants fitted again without each GPU in turn.

T4's rate is a quarter of its FP16 peak, because it has no BF16. Resolutions of SimpleTuner's tables are those of the dataset that each
example names; `stated_resolution` is what the source's page states, where that differs. `text`: the tokens of a caption, where the
source does not use the model's usual number.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from flux_training.training.estimates.model_work import ModelWork, block_starts_per_step
from flux_training.training.estimates.parts import step_time, trainer_times
from flux_training.training.estimates.ranges import Range
from flux_training.training.estimates.speed import SPEED, SpeedFit
from flux_training.training.estimates.workload import Mode, Sampling, Workload
from flux_training.training.gpu import TFLOPS
from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TokenShape

FIGURES = Path(__file__).with_name("public_figures.csv")
# A model that estimates do not know: Krea 2 as in ai-toolkit's source (krea2.py).
SHAPES = {"krea2": TokenShape(side=16, text=512, width=6144, blocks=28)}
NONE, ONE = Range.exactly(0.0), Range.exactly(1.0)
# The high end of a step is twice the low end.
STEP_SPREAD = sqrt(2)
# Offloading depends on the bus and on how much is offloaded.
OFFLOADED_SPREAD = 2.0
# From the small steps of this GPU come the seconds in which the CPU starts a block.
GPU_OF_SMALL_STEPS = "H100"


@dataclass(frozen=True, eq=False)
class PublicFigure:
    gpu: str
    tflops: float
    workload: Workload
    model: ModelWork
    seconds: float
    trainer: str
    source: str

    def range_with(self, speed: SpeedFit) -> Range:
        """Our seconds for the step."""
        return step_time(self.workload, self.model, self.tflops, speed)

    @property
    def waits_for_cpu(self) -> bool:
        return self.seconds < 1.2 * SPEED.block_seconds.likely * block_starts_per_step(
            self.workload, self.model
        )


def figure_of(row: dict[str, str]) -> PublicFigure:
    sizes = [tuple(map(int, size.split("x"))) for size in row["resolutions"].split()]
    tokens = SHAPES.get(row["model"]) or MODELS[row["model"]].tokens
    if row["text"]:
        tokens = tokens.model_copy(update={"text": int(row["text"])})
    quantized, offloaded, checkpointing = (
        row[key] == "yes" for key in ("quantized", "offloaded", "checkpointing")
    )
    workload = Workload(
        Mode(row["model"], "lora", quantized, offloaded, checkpointing),
        rank=int(row["rank"]),
        batch=int(row["batch"]),
        resolutions=tuple(round(sqrt(size[0] * size[-1])) for size in sizes),
        frames=int(row["frames"]),
    )
    return PublicFigure(
        row["gpu"],
        float(row["tflops"]),
        workload,
        ModelWork(tokens, 1),
        float(row["seconds"]),
        row["trainer"],
        row["source"],
    )


@cache
def public_figures() -> list[PublicFigure]:
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return [figure_of(row) for row in csv.DictReader(file)]


@cache
def factor(figure: PublicFigure, speed: SpeedFit) -> float:
    """How much longer than at the GPU's rate the step took, with what is known of its settings."""
    plain = replace(speed, step=ONE, offloaded=ONE, block_seconds=NONE)
    return figure.seconds / figure.range_with(plain).likely


def spread(figures: Sequence[PublicFigure], speed: SpeedFit) -> float:
    """How far the factors are from their median, on average, as logarithms."""
    factors = [factor(figure, speed) for figure in figures]
    middle = median(factors)
    return fmean(abs(log(one / middle)) for one in factors)


def fit(figures: Sequence[PublicFigure]) -> SpeedFit:
    plain = [figure for figure in figures if not figure.workload.mode.offloaded and not figure.waits_for_cpu]
    candidates = [
        replace(SPEED, equal_width=width, quantized=quantized, batch_exponent=exponent)
        for width, quantized, exponent in product(
            range(2000, 6001, 400), (1.0, 1.1, 1.2, 1.3, 1.4), (0.85, 0.9, 0.95, 1.0)
        )
    ]
    best = min(candidates, key=lambda speed: spread(plain, speed))
    step = median(factor(figure, best) for figure in plain)
    offloaded = [log(factor(figure, best) / step) for figure in figures if figure.workload.mode.offloaded]
    has_small_steps = any(figure.gpu == GPU_OF_SMALL_STEPS for figure in figures)
    return replace(
        best,
        step=around(step, STEP_SPREAD),
        offloaded=around(exp(fmean(offloaded)), OFFLOADED_SPREAD),
        block_seconds=SPEED.block_seconds if has_small_steps else NONE,
    )


def around(value: float, spread: float) -> Range:
    return Range(value / spread, value, value * spread)


def test_the_constants_are_those_that_all_figures_give() -> None:
    fitted = fit(public_figures())
    assert (SPEED.quantized, SPEED.batch_exponent) == (fitted.quantized, fitted.batch_exponent)
    assert SPEED.equal_width == fitted.equal_width
    for ours, theirs in ((SPEED.step, fitted.step), (SPEED.offloaded, fitted.offloaded)):
        assert (ours.low, ours.likely, ours.high) == pytest.approx(
            (theirs.low, theirs.likely, theirs.high), rel=0.02
        )


def test_most_figures_of_a_gpu_are_inside_the_range_that_the_other_gpus_give() -> None:
    figures = public_figures()
    gpus = {figure.gpu for figure in figures}
    fits = {gpu: fit([figure for figure in figures if figure.gpu != gpu]) for gpu in gpus}
    ranges = [figure.range_with(fits[figure.gpu]) for figure in figures]
    inside = compare("constants fitted without the figure's GPU", figures, ranges)
    assert len(figures) >= 13 + 20
    assert inside >= 0.85 * len(figures)
    assert median(one.high / one.low for one in ranges) <= 2.001


def test_so_many_figures_are_inside_the_range_that_estimates_print() -> None:
    figures = public_figures()
    ranges = [figure.range_with(SPEED) for figure in figures]
    assert compare("the constants of estimates", figures, ranges) == 44
    assert median(one.high / one.low for one in ranges) <= 2.001


def compare(title: str, figures: Sequence[PublicFigure], ranges: Sequence[Range]) -> int:
    """Print each figure beside its range; how many are inside."""
    print(f"\n{title}")
    found = [one.low <= figure.seconds <= one.high for figure, one in zip(figures, ranges, strict=True)]
    for figure, one, is_inside in zip(figures, ranges, found, strict=True):
        times = " ".join(f"{seconds:6.2f}" for seconds in (one.low, one.likely, one.high))
        name = f"{figure.gpu:14} {figure.workload.mode.model:13}"
        mark = "" if is_inside else "  outside"
        print(f"{name} {figure.seconds:6.2f} s, ours {times}{mark}  {figure.source}")
    width = median(one.high / one.low for one in ranges)
    print(f"{sum(found)} of {len(found)} inside, median width {width:.2f}")
    return sum(found)


# What the sources say of two settings: SimpleTuner's pages on FLUX.1 (RTX 4090) and on Krea 2 (H100, INT8).
RATIOS = [
    ("512 to 1024 pixels", "RTX 4090", {"resolutions": (512,)}, {"resolutions": (1024,)}, 3.5 / 1.4),
    ("batch of 1 to 8", "H100", {"batch": 1}, {"batch": 8}, 3.22 / 0.535),
]


@pytest.mark.parametrize(("name", "gpu", "first", "second", "public"), RATIOS)
def test_a_setting_costs_about_as_much_as_in_public(
    name: str, gpu: str, first: dict[str, Any], second: dict[str, Any], public: float
) -> None:
    model = "krea2" if gpu == "H100" else DEFAULT_MODEL
    tokens = SHAPES.get(model) or MODELS[model].tokens
    workload = Workload(Mode(model), resolutions=(512,))
    before, after = (
        step_time(replace(workload, **change), ModelWork(tokens, 1), TFLOPS[gpu])
        for change in (first, second)
    )
    ours = after.likely / before.likely
    print(f"\n{name}: public x {public:.2f}, ours x {ours:.2f}")
    assert public / 1.5 < ours < public * 1.5


# Whole runs of ai-toolkit with 10 prompts every 250 steps: SaladCloud's recipe, and https://github.com/ladukaraniket/596-final-project
RECIPE = Workload(sampling=Sampling(images=10, every=250))
SCHNELL = Workload(Mode("flux1-schnell"), sampling=Sampling(images=10, every=250, steps=4))
RUNS = [("RTX 5090", RECIPE, 36, 3600), ("A100", SCHNELL, 5, 5236), ("A40", SCHNELL, 5, 9017)]


@pytest.mark.parametrize(("gpu", "workload", "images", "public"), RUNS)
def test_whole_runs_in_public_are_inside_their_range(
    gpu: str, workload: Workload, images: int, public: float
) -> None:
    times = trainer_times(workload, 0, 2000, images, TFLOPS[gpu])
    ours = times.start + times.training
    print(f"\n{gpu} 2,000 steps: {public} s, ours {ours.low:.0f} {ours.likely:.0f} {ours.high:.0f}")
    assert ours.low < public < ours.high
