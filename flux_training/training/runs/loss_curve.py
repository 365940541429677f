"""loss.csv (`step,loss`, one line per step) as a curve."""

from dataclasses import dataclass

from flux_training.training.values import MAX_NUMBER

# No training has more steps than this; further lines of the loss file are ignored.
MAX_LINES = 1_000_000


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
        # The loss file comes from an untrusted node and may contain any number. NaN is refused too, because
        # every comparison with it is false.
        if 0 < point.step <= MAX_NUMBER and abs(point.loss) <= MAX_NUMBER:
            found[point.step] = point.loss
    return [Point(step, found[step]) for step in sorted(found)]
