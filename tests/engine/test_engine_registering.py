"""The program's resources are registered a few at a time, in the order they were made, and no order makes them wait for ever."""

from __future__ import annotations

import asyncio

from engine_stack import Stack

from engine.runner import _Gate

# Each outer one waits for an inner one, which comes behind all the outer ones.
NESTED = """
import pulumi
from things import Thing

first = Thing("first", {"text": "a"}, None)
for n in range(9):
    text = first.id.apply(lambda _, n=n: Thing(f"inner-{n}", {"text": f"from {n}"}, None).text)
    Thing(f"outer-{n}", {"text": text}, None)
"""


def test_what_waits_inside_for_one_that_came_later_is_not_waited_for(stack: Stack) -> None:
    (stack.folder / "__main__.py").write_text(NESTED)
    stack.up("--parallel", "1")
    found = stack.resources()
    assert {f"outer-{n}" for n in range(9)} <= found.keys()
    assert [found[f"outer-{n}"]["inputs"]["text"] for n in range(9)] == [f"from {n}" for n in range(9)]
    assert [found[f"outer-{n}"]["dependencies"] for n in range(9)] == [
        [found["first"]["urn"], found[f"inner-{n}"]["urn"]] for n in range(9)
    ]


def test_what_fails_inside_makes_room(stack: Stack) -> None:
    things = {f"bad-{n}": {"text": "refuse"} for n in range(9)} | {"good": {"text": "a"}}
    stack.spec(things)
    output = stack.up("--parallel", "1", "--continue-on-error", code=1)
    assert output.count("the cloud said no") == 9
    assert "good" in stack.resources()


def test_few_at_a_time_and_in_order() -> None:
    entered: list[int] = []
    inside, most = 0, 0

    async def one(gate: _Gate, number: int) -> None:
        nonlocal inside, most
        await gate.enter()
        inside += 1
        most = max(most, inside)
        entered.append(number)
        await asyncio.sleep(0)
        inside -= 1
        gate.leave()

    async def all_of_them() -> None:
        gate = _Gate(3, patience=60)
        await asyncio.gather(*(one(gate, number) for number in range(20)))
        await one(gate, 20)

    asyncio.run(all_of_them())
    assert entered == list(range(21))
    assert most == 3
