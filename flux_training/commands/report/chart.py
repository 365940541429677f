"""The points of a loss curve for a page, and the steps to mark on it, where design/loss_chart.js draws them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from flux_training.training.estimates.workload import save_every_of
from flux_training.training.runs.loss_curve import Point
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.samples import spread_evenly
from flux_training.training.train_yml.document import first_process

# The maximum number of points of a curve: more than a chart has pixels, but few enough to keep the page small after a long
# training.
MAX_POINTS = 3000
MAX_MARKS = 60


def chart_curve(
    label: str,
    points: Sequence[Point],
    progress: RunProgress | None = None,
    marks: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, object]:
    """`label` and `points`, pairs of step and loss; of a long run, each is the mean of several steps. `marks`: steps by what happened.

    `last`: the run's loss under the name and with the digits that all commands show it with; empty if `progress` has none.
    """
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return {
        "label": label,
        "points": [
            (stretch[-1].step, float(f"{fmean(point.loss for point in stretch):.6g}"))
            for stretch in stretches
        ],
        "last": f"{progress.loss_name} {progress.loss:.4f}" if progress and progress.loss is not None else "",
        "marks": dict(marks or {}),
    }


def chart_marks(config: Mapping[str, Any], progress: RunProgress) -> dict[str, list[int]]:
    """The steps after which a checkpoint was saved, by train.yml, and those from which the run was continued after a restart."""
    last, process = progress.step or 0, first_process(config)
    every = save_every_of(process)
    # If there are too many checkpoints for the chart, mark every second, third and so on, at regular distances.
    apart = every * max(1, math.ceil(last / every / MAX_MARKS))
    return {
        "checkpoint": list(range(apart, last + 1, apart)) if process else [],
        "restart": spread_evenly(sorted({step for step in progress.resumed if step <= last}), MAX_MARKS),
    }
