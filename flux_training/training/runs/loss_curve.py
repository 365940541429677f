"""loss.csv (`step,loss`, one line per step) as a curve: parsed, smoothed, thinned out, with round axis ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flux_training.training.values import MAX_NUMBER

# More than any training has steps; further lines are ignored.
MAX_LINES = 1_000_000
# Smaller differences of a loss have no meaning.
MIN_SPAN = 1e-9


@dataclass(frozen=True)
class Point:
    """The loss after `step` steps."""

    step: int
    loss: float


def parse_losses(text: str) -> list[Point]:
    """The points by step. Of several lines for one step the last counts; invalid lines are ignored."""
    found: dict[int, float] = {}
    for line in text.splitlines()[:MAX_LINES]:
        step, _, loss = line.partition(",")
        try:
            point = Point(int(step), float(loss))
        except ValueError:
            continue
        # The node's file may hold any number. NaN is refused too: it fails every comparison.
        if 0 < point.step <= MAX_NUMBER and abs(point.loss) <= MAX_NUMBER:
            found[point.step] = point.loss
    return [Point(step, found[step]) for step in sorted(found)]


def smooth_losses(points: Sequence[Point]) -> list[Point]:
    """Replaces each point by the mean of its neighbourhood: a tenth of the curve, half as much at its ends."""
    half = max(1, len(points) // 20)
    sums = [0.0]
    for point in points:
        sums.append(sums[-1] + point.loss)
    smoothed = []
    for index, point in enumerate(points):
        first, last = max(0, index - half), min(len(points), index + half + 1)
        smoothed.append(Point(point.step, (sums[last] - sums[first]) / (last - first)))
    return smoothed


def thin_out_points(points: Sequence[Point], limit: int) -> list[Point]:
    """At most about `limit` points with the same outline: the minimum and maximum of each stretch, and both ends."""
    if len(points) <= limit or limit < 4:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2 - 1))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        span = range(start, min(start + stretch, len(points)))
        kept.add(min(span, key=lambda index: points[index].loss))
        kept.add(max(span, key=lambda index: points[index].loss))
    return [points[index] for index in sorted(kept)]


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that span `low` to `high`."""
    if high - low <= max(MIN_SPAN, 1e-6 * max(abs(low), abs(high))):  # a flat line, apart from rounding
        high = low + (abs(low) if abs(low) > MIN_SPAN else 1.0)
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    apart = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9)
    return [round(number * apart, 12) for number in range(first, last + 1)]
