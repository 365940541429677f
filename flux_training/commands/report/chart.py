"""Coordinates of the loss curves, which the template draws as SVG: one chart for wide screens and one for phones."""

from collections.abc import Sequence
from dataclasses import dataclass

from flux_training.training.runs.loss_curve import Point, round_ticks, smooth_losses, thin_out_points

# Close to the width in CSS pixels, so that text in the chart has the size of the page's text.
SIZES = {"wide": (960, 320), "narrow": (380, 260)}
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40
MAX_POINTS = {"wide": 800, "narrow": 320}


@dataclass(frozen=True)
class Curve:
    """One run's line. `number` selects its colour."""

    label: str
    number: int
    raw: str
    smooth: str


@dataclass(frozen=True)
class Chart:
    """Ticks are pairs of position and label."""

    shape: str
    width: int
    height: int
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def charts(named: Sequence[tuple[str, Sequence[Point]]]) -> list[Chart]:
    """The curves of one or more runs in both layouts; none if there is no point."""
    points = [point for _, curve in named for point in curve]
    if not points:
        return []
    return [_chart(shape, named, points) for shape in SIZES]


def _chart(shape: str, named: Sequence[tuple[str, Sequence[Point]]], points: Sequence[Point]) -> Chart:
    width, height = SIZES[shape]
    x_ticks = round_ticks(0, max(point.step for point in points), 8 if shape == "wide" else 4)
    low, high = _range(named)
    y_ticks = round_ticks(low, high, 5)

    def x(step: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * step / x_ticks[-1]

    def y(loss: float) -> float:
        inside = min(max(loss, y_ticks[0]), y_ticks[-1])
        return TOP + (height - TOP - BOTTOM) * (1 - (inside - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    def path(curve: Sequence[Point]) -> str:
        thinned = thin_out_points(curve, MAX_POINTS[shape])
        return " ".join(f"{x(point.step):.1f},{y(point.loss):.1f}" for point in thinned)

    curves = [
        Curve(label, number, path(curve), path(smooth_losses(curve)))
        for number, (label, curve) in enumerate(named)
        if curve
    ]
    return Chart(
        shape,
        width,
        height,
        curves,
        [(x(tick), f"{tick:g}") for tick in x_ticks],
        [(y(tick), f"{tick:g}") for tick in y_ticks],
    )


def _range(named: Sequence[tuple[str, Sequence[Point]]]) -> tuple[float, float]:
    """The range of the y axis: all smoothed curves and 98 % of the points, so that outliers do not flatten the curves."""
    smoothed = [point.loss for _, curve in named for point in smooth_losses(curve)]
    losses = sorted(point.loss for _, curve in named for point in curve)
    edge = len(losses) // 100
    return min([*smoothed, losses[edge]]), max([*smoothed, losses[-1 - edge]])
