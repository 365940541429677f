"""Seeded sequences of what people do with a stack, played by the real CLI and this engine in turns on one state.

After each hand-over the other sees no change.  At the end the state is that of the same sequence played by the
engine alone, but for times and ids.  How many: HANDOVER_SEQUENCES (20), from the seed HANDOVER_SEED (1) on.
"""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, cli, engine, essence, for_both
from engine_stack import EngineStack, new_stack

FIRST = int(os.environ.get("HANDOVER_SEED", "1"))
COUNT = int(os.environ.get("HANDOVER_SEQUENCES", "20" if CLI else "1"))
LENGTH = 4
Hand = Callable[..., Any]
Things = dict[str, dict[str, Any]]
URN = "urn:pulumi:dev::test::pulumi-python:dynamic/test:Thing::"
UP = ("up", "--yes", "--skip-preview")


def first() -> Things:
    length = {"$ref": ["base", "length"]}
    return {
        "base": {"text": "a", "kind": "k0"},
        "middle": {"text": "m", "of": length},
        "leaf": {"text": "l", "tags": {"a": {"b": 1}}},
        "dbr": {"text": "d", "kind": "k0", "dbr": True},
    }


class Sequence:
    """One sequence, and the names things have now."""

    def __init__(self, stack: EngineStack, seed: int) -> None:
        self.stack = stack
        self.random = random.Random(seed)
        self.things = first()
        self.leaf = "leaf"

    def play(self, hands: list[Hand]) -> list[str]:
        """Play it; what was done."""
        self.say()
        hands[0](self.stack, *UP)
        done = []
        steps = [self.edit, self.refresh, self.destroy, self.secret, self.rename, self.replace, self.fail]
        for i in range(LENGTH):
            one, other = (hands if i % 2 else hands[::-1])[:2]
            step = self.random.choice(steps)
            done.append(step.__name__)
            step(one, other)
            before = essence(self.stack.latest())
            other(self.stack, "up", "--yes", "--expect-no-changes")  # with its preview
            assert essence(self.stack.latest()) == before, done
        return done

    def say(self, things: Things | None = None) -> None:
        self.stack.spec(
            things or self.things, exports={"length": {"$ref": ["base", "length"]}, "leaf": self.leaf}
        )

    def edit(self, one: Hand, _other: Hand) -> None:
        name = self.random.choice(sorted(self.things))
        self.things[name]["text"] = "x" * self.random.randint(1, 9)
        self.things[name]["tags"] = {"n": self.random.randint(1, 99), "l": [1, {"x": self.random.random()}]}
        self.say()
        one(self.stack, "up", "--yes")  # with its preview

    def refresh(self, one: Hand, _other: Hand) -> None:
        one(self.stack, "refresh", "--yes", "--skip-preview")

    def destroy(self, one: Hand, other: Hand) -> None:
        one(self.stack, "destroy", "--yes", "--skip-preview", "--target", URN + self.leaf)
        other(self.stack, *UP)

    def secret(self, one: Hand, _other: Hand) -> None:
        self.things["middle"]["hidden"] = {"deep": {"$secret": f"s{self.random.randint(1, 9)}"}}
        self.things["middle"]["key"] = {"$config": "token"}
        self.say()
        one(self.stack, *UP)

    def rename(self, one: Hand, _other: Hand) -> None:
        new = f"leaf{self.random.randint(1, 999)}"
        content = self.things.pop(self.leaf)
        # The cloud knows it by the name in its inputs, which changes with it.
        self.things[new] = {**content, "options": {"aliases": [{"name": self.leaf}]}}
        self.leaf = new
        self.say()
        one(self.stack, *UP)

    def replace(self, one: Hand, _other: Hand) -> None:
        for name in ("base", "dbr"):
            self.things[name]["kind"] = f"k{self.random.randint(1, 999)}"
        self.say()
        one(self.stack, *UP)
        # This cloud knows things by name: the old one, deleted after the new one was made, took its file along.
        (self.stack.cloud / "base.json").write_text(json.dumps({"text": self.things["base"]["text"]}))

    def fail(self, one: Hand, other: Hand) -> None:
        broken = copy.deepcopy(self.things)
        broken["bad"] = {"text": "refuse"}
        broken["leaf" if self.leaf == "leaf" else self.leaf]["text"] = "f"
        self.say(broken)
        one(self.stack, *UP, "--continue-on-error", code=1)
        self.things[self.leaf]["text"] = "f"
        self.say()
        other(self.stack, *UP)


def play(folder: Path, seed: int, hands: list[Hand]) -> tuple[list[str], list[str]]:
    stack = new_stack(folder)
    try:
        for_both(stack)
        done = Sequence(stack, seed).play(hands)
        return done, essence(stack.latest())
    finally:
        stack.clean_up()


@pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_a_sequence_alternating_with_the_cli(tmp_path: Path, seed: int) -> None:
    hands: list[Hand] = [engine, cli] if seed % 2 else [cli, engine]
    done, ours = play(tmp_path / "turns", seed, hands)
    print(f"seed {seed}: {', '.join(done)}")
    same, alone = play(tmp_path / "alone", seed, [engine, engine])
    assert same == done
    assert ours == alone


@pytest.mark.long
def test_a_sequence_by_the_engine_alone(tmp_path: Path) -> None:
    """The same play without the CLI: each new process sees no change to the work of the one before."""
    done, state = play(tmp_path / "alone", 3, [engine, engine])
    assert len(done) == LENGTH
    assert any(json.loads(item)["urn"].endswith("::base") for item in state)
