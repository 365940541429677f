"""Loss curves: smoothing, thinning, axis ticks; which samples are shown."""

from collections.abc import Sequence

import pytest

from flux_training.training.runs.loss_curve import Point, round_ticks, smooth_losses, thin_out_points
from flux_training.training.runs.samples import spread_evenly


def curve(*losses: float) -> list[Point]:
    return [Point(step, loss) for step, loss in enumerate(losses, 1)]


def losses(points: Sequence[Point]) -> list[float]:
    return [point.loss for point in points]


def test_each_point_is_averaged_with_its_neighbours() -> None:
    assert smooth_losses(curve(3.0, 6.0, 0.0, 3.0)) == curve(4.5, 3.0, 3.0, 1.5)
    assert smooth_losses([]) == []
    assert smooth_losses(curve(2.5)) == curve(2.5)


def test_smoothing_window_is_a_tenth_of_the_points() -> None:
    points = curve(*(float(n) for n in range(60)))
    smoothed = losses(smooth_losses(points))
    assert smoothed[0] == pytest.approx(1.5)  # of the points 0 to 3
    assert smoothed[30] == pytest.approx(30.0)
    assert smoothed[-1] == pytest.approx(57.5)
    spike = losses(smooth_losses(curve(*(7.0 if n == 30 else 0.0 for n in range(60)))))
    assert [n for n, loss in enumerate(spike) if loss > 0.5] == list(range(27, 34))
    assert spike[30] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("points", "most", "kept"),
    [
        (curve(1, 2, 3, 4), 4, [1, 2, 3, 4]),
        (curve(1, 2, 3, 4, 5), 3, [1, 2, 3, 4, 5]),
        (curve(5, 1, 9, 5, 5), 4, [5, 1, 9, 5]),
        (curve(4, 1, 4, 8, 4, 4, 0, 4, 9, 4), 6, [4, 1, 8, 0, 9, 4]),
        (curve(*[5] * 6), 4, [5, 5]),
        (curve(0, 9, 5, 6, 3, 8, 4, 7), 6, [0, 9, 3, 8, 7]),
        (curve(0, 9, 5, 6, 3, 8, 4, 7, 1), 7, [0, 9, 8, 1]),
    ],
)
def test_thinning_keeps_the_ends_and_the_extremes_of_each_stretch(
    points: list[Point], most: int, kept: list[float]
) -> None:
    thinned = thin_out_points(points, most)
    assert losses(thinned) == kept
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]


@pytest.mark.parametrize(
    ("low", "high", "about", "ticks"),
    [
        (0.0, 10.0, 5, [0, 2, 4, 6, 8, 10]),
        (0.0, 10.0, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.0, 1.0, 2, [0, 0.5, 1]),
        (0.0, 1.0, 1, [0, 1]),
        (0.0, 1.0, 0, [0, 1]),
        (0.13, 0.38, 5, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]),
        (-3.0, 4.0, 4, [-4, -2, 0, 2, 4]),
        (0.0, 7.0, 1, [0, 10]),
        (100.0, 300.0, 4, [100, 150, 200, 250, 300]),
        # A flat line has as much room above it as it is high.
        (4.0, 4.0, 4, [4, 5, 6, 7, 8]),
        (0.0, 0.0, 2, [0, 0.5, 1]),
        (-2.0, -2.0, 2, [-2, -1, 0]),
    ],
)
def test_axis_ticks_are_round(low: float, high: float, about: int, ticks: list[float]) -> None:
    assert round_ticks(low, high, about) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("steps", "most", "shown"),
    [
        ([0, 100, 200], 3, [0, 100, 200]),
        ([0, 100, 200, 300, 400], 3, [0, 200, 400]),
        ([0, 100, 200, 300, 400], 2, [0, 400]),
        ([0, 100, 200, 300, 400], 1, [400]),
        ([0, 100, 200, 300, 400], 0, []),
        ([], 0, []),
        (list(range(0, 1000, 100)), 4, [0, 300, 600, 900]),
    ],
)
def test_steps_are_spread_evenly(steps: list[int], most: int, shown: list[int]) -> None:
    assert spread_evenly(steps, most) == shown
