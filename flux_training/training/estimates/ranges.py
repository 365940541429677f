"""A quantity that is known only as a range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Range:
    """`low` <= `likely` <= `high`, in seconds or dollars."""

    low: float
    likely: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        return cls(value, value, value)

    @property
    def is_finite(self) -> bool:
        return isfinite(self.high) and isfinite(self.likely) and isfinite(self.low)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, other: Range) -> Range:
        return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)

    def at_least(self, other: Range) -> Range:
        return Range(max(self.low, other.low), max(self.likely, other.likely), max(self.high, other.high))

    def within(self, other: Range, factor: float) -> Range:
        """Each of the three values, at most `factor` times as large or as small as that of the other range."""
        return Range(
            *(
                min(theirs * factor, max(theirs / factor, own))
                for own, theirs in (
                    (self.low, other.low),
                    (self.likely, other.likely),
                    (self.high, other.high),
                )
            )
        )

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.likely * factor, self.high * factor)


def total(ranges: Iterable[Range]) -> Range:
    """Lows and highs are added as well: what makes one job slow makes the others slow too."""
    return sum(ranges, start=Range.exactly(0.0))
