"""Our seconds per step beside public figures. T4's rate is a quarter of its FP16 peak, because it has no BF16.

Leaving one GPU out: the likely value is the median of the same trainer's figures on other GPUs, or of all trainers if there are fewer
than three; STEP_FACTOR's width is as it is. Resolutions of SimpleTuner's tables are those of the dataset that each example names;
`stated_resolution` is what the source's page states, where that differs.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from flux_training.training.estimates.model_work import BATCH_EXPONENT, ModelWork
from flux_training.training.estimates.parts import BLOCK_SECONDS, STEP_FACTOR
from flux_training.training.models.table import MODELS, TokenShape

FIGURES = Path(__file__).with_name("public_figures.csv")
# A model that estimates do not know: Krea 2 as in ai-toolkit's source (krea2.py).
SHAPES = {"krea2": TokenShape(side=16, text=512, width=6144, blocks=28)}
MIN_OWN_FIGURES = 3


@dataclass(frozen=True)
class PublicFigure:
    """`peak_seconds`: what the step would take at the GPU's full rate. `launches`: how often it starts a block."""

    gpu: str
    trainer: str
    model: str
    seconds: float
    peak_seconds: float
    launches: int
    source: str

    @property
    def factor(self) -> float:
        return self.seconds / self.peak_seconds

    @property
    def waits_for_cpu(self) -> bool:
        return self.seconds < 1.2 * BLOCK_SECONDS.likely * self.launches

    def range_with(self, low: float, high: float) -> tuple[float, float]:
        """Our range in seconds with these factors."""
        least = max(low * self.peak_seconds, BLOCK_SECONDS.low * self.launches)
        return least, max(high * self.peak_seconds, BLOCK_SECONDS.high * self.launches)


def figure_of(row: dict[str, str]) -> PublicFigure:
    sizes = [tuple(map(int, size.split("x"))) for size in row["resolutions"].split()]
    tokens = SHAPES.get(row["model"]) or MODELS[row["model"]].tokens
    model = ModelWork(tokens, 1)
    forward = sum(model.forward(size[0], size[-1], int(row["frames"])) for size in sizes) / len(sizes)
    passes = 3 if row["checkpointing"] == "yes" else 2
    adapter = 1 + 2 * int(row["rank"]) / tokens.width
    images = int(row["batch"]) ** BATCH_EXPONENT
    peak = forward * passes * adapter * images / float(row["tflops"])
    blocks = (tokens.blocks or 0) * passes
    return PublicFigure(
        row["gpu"], row["trainer"], row["model"], float(row["seconds"]), peak, blocks, row["source"]
    )


def public_figures() -> list[PublicFigure]:
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return [figure_of(row) for row in csv.DictReader(file)]


def likely_without(gpu: str, trainer: str, figures: list[PublicFigure]) -> float:
    """The factor that the figures of the other GPUs give for a trainer."""
    others = [figure for figure in figures if figure.gpu != gpu and not figure.waits_for_cpu]
    own = [figure.factor for figure in others if figure.trainer == trainer]
    return median(own if len(own) >= MIN_OWN_FIGURES else [figure.factor for figure in others])


def test_most_public_figures_of_a_gpu_are_inside_the_range_that_the_other_gpus_give() -> None:
    figures = public_figures()
    inside, widths = 0, []
    for figure in figures:
        likely = likely_without(figure.gpu, figure.trainer, figures)
        low, high = (factor * likely / STEP_FACTOR.likely for factor in (STEP_FACTOR.low, STEP_FACTOR.high))
        least, most = figure.range_with(low, high)
        middle = max(likely * figure.peak_seconds, BLOCK_SECONDS.likely * figure.launches)
        is_inside = least <= figure.seconds <= most
        inside += is_inside
        widths.append(most / least)
        times = [f"{seconds:6.2f}" for seconds in (least, middle, most)]
        mark = "" if is_inside else "  outside"
        print(
            f"{figure.gpu:9} {figure.model:13} {figure.seconds:6.2f} s, ours {' '.join(times)}{mark}  {figure.source}"
        )
    print(f"{inside} of {len(figures)} inside, median width {median(widths):.2f}")
    assert len(figures) >= 33
    assert inside >= 0.85 * len(figures)
    assert median(widths) <= 2


def test_so_many_public_figures_are_inside_the_range_that_estimates_use() -> None:
    """With STEP_FACTOR as it is, rather than moved to the figures of the same trainer."""
    figures = public_figures()
    ranges = [figure.range_with(STEP_FACTOR.low, STEP_FACTOR.high) for figure in figures]
    inside = sum(low <= figure.seconds <= high for figure, (low, high) in zip(figures, ranges, strict=True))
    print(f"{inside} of {len(figures)} inside the product's own range")
    assert inside == 27


def test_the_likely_factor_is_between_the_medians_of_all_figures_and_of_ai_toolkits() -> None:
    figures = public_figures()
    ours = [figure.factor for figure in figures if figure.trainer == "ai-toolkit"]
    assert median(figure.factor for figure in figures) < STEP_FACTOR.likely < median(ours)
