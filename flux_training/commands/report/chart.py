"""The points of a loss curve for a page, where design/loss_chart.js draws them."""

import math
from collections.abc import Sequence
from statistics import fmean

from flux_training.training.runs.loss_curve import Point

# More than a chart has pixels; a page stays small however long the training was.
MAX_POINTS = 3000


def chart_curve(label: str, points: Sequence[Point]) -> dict[str, object]:
    """`label` and `points`, pairs of step and loss; of a long run, each is the mean of several steps."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return {
        "label": label,
        "points": [
            (stretch[-1].step, float(f"{fmean(point.loss for point in stretch):.6g}"))
            for stretch in stretches
        ],
    }
