"""Measures several functions in turns, so that other load on the machine affects all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Act = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> str:
        return f"{min(self.rounds):.3f} to {max(self.rounds):.3f}"


def in_turns(acts: Mapping[str, Act], rounds: int) -> dict[str, Times]:
    """Each act once a round, in another order each time; the first round only warms up and is not counted.

    Shuffled (the same way in every run), so that no act always comes after the same other one, and bears what that leaves behind.
    """
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    names = list(acts)
    for number in range(rounds + 1):
        random.Random(number).shuffle(names)
        for name in names:
            begun = time.perf_counter()
            acts[name]()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: Times(tuple(found)) for name, found in seconds.items()}


def ratio(slow: Times, fast: Times) -> str:
    """How many times as long `slow` takes: the ratio of the medians, and its range over the rounds."""
    each = [s / f for s, f in zip(slow.rounds, fast.rounds, strict=True)]
    return f"{slow.median / fast.median:.2f} ({min(each):.2f} to {max(each):.2f})"


def table(title: str, times: Mapping[str, Times], ours: str, notes: Mapping[str, str]) -> str:
    """A markdown table. The last column says how much faster ours is (1.00: the same, 2.00: twice as fast)."""
    lines = [
        f"### {title}",
        "",
        "| | median s | least to most s | ours is as fast, times | |",
        "|---|---|---|---|---|",
    ]
    for name, found in times.items():
        versus = "" if name == ours else ratio(found, times[ours])
        lines.append(f"| {name} | {found.median:.3f} | {found.spread} | {versus} | {notes.get(name, '')} |")
    return "\n".join([*lines, ""])
