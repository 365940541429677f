"""Which samples are shown."""

import pytest

from flux_training.training.runs.samples import spread_evenly


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
