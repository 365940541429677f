"""How many transfers may be under way: the pace by refusals, by bytes and by what more at a time bring."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from flux_training.clients.pace import FIRST_WIDTH, MOST_WIDTH, PAYS, REST, Pace, Worth

Line = Callable[[float], float]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def carry(pace: Pace, clock: Clock, line: Line, transfers: int) -> list[float]:
    """So many transfers over a line that gives a rate for a width; the width at each."""
    widths = []
    for _ in range(transfers):
        clock.now += 1 / line(pace.width)
        pace.went_well()
        widths.append(pace.width)
    return widths


def long_way(width: float) -> float:
    """100 ms for each answer, whatever else is under way."""
    return width / 0.1


def full(width: float) -> float:
    """1,000 a second from 10 at a time on."""
    return min(1000.0, width / 0.01)


def choked(width: float) -> float:
    """A machine that gets slower with each thread more."""
    return 1000.0 - 5 * width


def test_where_answers_take_long_more_at_a_time_are_tried_and_kept() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    widths = carry(pace, clock, long_way, 600)
    assert max(widths[: 4 * FIRST_WIDTH]) == FIRST_WIDTH * 1.5
    assert widths[-1] == MOST_WIDTH


@pytest.mark.parametrize("line", [full, choked])
def test_where_more_at_a_time_only_wait_for_each_other_the_step_is_taken_back(line: Line) -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    widths = carry(pace, clock, line, 10_000)
    assert max(widths) == FIRST_WIDTH * 1.5
    wide = sum(width > FIRST_WIDTH for width in widths)
    assert 0 < wide < len(widths) / 10


def test_what_did_not_pay_is_tried_again_later_and_then_may() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    assert carry(pace, clock, full, 1000)[-1] == FIRST_WIDTH
    assert carry(pace, clock, long_way, FIRST_WIDTH * 3 * (REST + 8))[-1] == MOST_WIDTH


def test_the_time_between_two_transfers_belongs_to_neither() -> None:
    """Else the rate before a step would be that of a night, and every step after it would seem to pay."""
    clock = Clock()
    pace = Pace(clock=clock)
    carry(pace, clock, full, FIRST_WIDTH)
    clock.now += 36_000
    with pace.turn():
        assert max(carry(pace, clock, full, 1000)) == FIRST_WIDTH * 1.5


@pytest.mark.parametrize(
    ("gained", "kept"), [(0.0, False), (0.5 * PAYS - 0.01, False), (0.5 * PAYS, True), (0.5, True)]
)
def test_half_as_many_more_are_kept_when_they_bring_a_quarter_more(gained: float, kept: bool) -> None:
    worth = Worth(8, 100)
    worth.measured(100.0)
    assert worth.width == 12
    worth.measured(100.0 * (1 + gained))
    assert worth.width == (18 if kept else 8)


def test_no_more_than_the_most_are_tried() -> None:
    worth = Worth(8, 10)
    for rate in (100.0, 200.0, 400.0, 800.0):
        worth.measured(rate)
        assert worth.width <= 10
    assert worth.width == 10


def test_the_pace_is_halved_once_for_refusals_of_one_time_and_grows_again() -> None:
    pace = Pace(first=8, most=10)
    with pace.turn() as first, pace.turn() as second:
        pace.slow_down(first)
        pace.slow_down(second)
    assert pace.width == 4
    with pace.turn() as later:
        pace.slow_down(later)
    assert pace.width == 2
    for _ in range(1000):
        pace.went_well()
    assert 8 <= pace.width <= 10


def test_whoever_waits_for_a_turn_gets_one_though_only_one_is_woken() -> None:
    pace = Pace(first=3, most=3, most_bytes=100)
    done: list[int] = []

    def take(size: int) -> None:
        with pace.turn(size):
            time.sleep(0.001)
            done.append(size)

    sizes = [90, 5, 5, 90, 1, 120, 60, 60, 3] * 10
    threads = [threading.Thread(target=take, args=(size,), daemon=True) for size in sizes]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    for thread in threads:
        thread.join(timeout=max(0.0, until - time.monotonic()))
    assert sorted(done) == sorted(sizes)


def test_no_more_bytes_are_under_way_than_agreed_but_one_file_always_may() -> None:
    pace = Pace(first=8, most=8, most_bytes=100)
    with pace.turn(1000):
        assert not pace._has_room(1)
    with pace.turn(60):
        assert pace._has_room(40)
        assert not pace._has_room(41)


def test_each_round_that_went_well_gives_back_one() -> None:
    pace = Pace(first=8, most=8)
    with pace.turn() as told:
        pace.slow_down(told)
    for _ in range(4):
        pace.went_well()
    assert 4.9 < pace.width < 5


def test_refusals_of_a_later_time_halve_it_once_more_and_never_below_one() -> None:
    pace = Pace(first=8, most=8)
    for width in (4.0, 2.0, 1.0):
        with pace.turn() as one, pace.turn() as other:
            pace.slow_down(one)
            pace.slow_down(other)
        assert pace.width == width
    with pace.turn() as alone:
        pace.slow_down(alone)
    assert pace.width == 1.0


def test_there_is_room_for_as_many_as_the_width() -> None:
    pace = Pace(first=2, most=2)
    with pace.turn():
        assert pace._has_room(0)
        with pace.turn():
            assert not pace._has_room(0)
