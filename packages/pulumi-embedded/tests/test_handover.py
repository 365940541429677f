"""One stack in the hands of the real CLI and of this engine, in turns: neither sees a change to the other's work.

Where the CLI is not on the PATH, the states that it wrote before stand in for it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, cli, engine, essence, for_both
from engine_stack import HERE, EngineStack, thing

DATA = HERE / "data"
STATE = ".pulumi/stacks/fixture/dev.json"


def latest_in(file: Path) -> Any:
    """The deployment in a state file."""
    return json.loads(file.read_text())["checkpoint"]["latest"]


def hand_over(stack: EngineStack, name: str) -> None:
    """Put the CLI's own program and state in place of the test's."""
    shutil.copytree(DATA / "program", stack.folder, dirs_exist_ok=True)
    (stack.folder / "Pulumi.yaml").write_text("name: fixture\nruntime: python\nbackend: {url: 'file://.'}\n")
    shutil.copy(DATA / "Pulumi.dev.yaml", stack.folder)
    state = stack.folder / STATE
    state.parent.mkdir(parents=True)
    shutil.copy(DATA / f"{name}.json", state)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("0-new", "1", "+ 5 to create"),
        ("1-created", "1", "    5 unchanged"),
        ("1-created", "2", "    2 changes. 3 unchanged"),
        ("2-updated-and-replaced", "2", "    5 unchanged"),
        ("3-create-failed", "3", "+ 1 to create"),
        ("4-killed-in-create", "2", "    5 unchanged"),
    ],
)
def test_a_state_of_the_cli_is_used(stack: EngineStack, name: str, step: str, expected: str) -> None:
    hand_over(stack, name)
    arguments = () if "unchanged" not in expected or "changes" in expected else ("--expect-no-changes",)
    assert expected in stack.run("preview", "--stack", "dev", *arguments, STEP=step)


def test_an_update_leaves_the_same_state_as_the_cli(stack: EngineStack) -> None:
    hand_over(stack, "1-created")
    stack.up("--stack", "dev", STEP="2")
    assert essence(latest_in(stack.folder / STATE)) == essence(
        latest_in(DATA / "2-updated-and-replaced.json")
    )


def test_a_pending_create_of_the_cli_is_settled(stack: EngineStack) -> None:
    hand_over(stack, "4-killed-in-create")
    program = stack.folder / "__main__.py"
    program.write_text(program.read_text().replace('"refuse"', '"now it works"'))
    output = stack.up("--stack", "dev", STEP="3")
    assert output.count("ended while it was creating") == 1
    latest = latest_in(stack.folder / STATE)
    assert "pending_operations" not in latest
    assert any(item["urn"].endswith("::bad") for item in latest["resources"])


def turns() -> list[dict[str, Any]]:
    """What the program declares, turn by turn: update, replace in both ways, rename, ignore, drop."""
    length = {"$ref": ["one", "length"]}
    secret = thing(
        {"$config": "token"},
        deep={"x": {"$secret": "hush"}},
        options={"additional_secret_outputs": ["length"]},
    )
    first = {
        "group": {"group": True},
        "one": thing(kind="a", options={"parent": "group"}),
        "two": thing(of=length, options={"parent": "group"}),
        "first": thing(kind="a", dbr=True),
        "on": thing(on={"$ref": ["first", "kind"]}, dbr=True),
        "secret": secret,
    }
    second = {
        **first,
        "one": thing("bb", kind="b", options={"parent": "group"}),
        "first": thing(kind="b", dbr=True),
    }
    third = {
        "other": {"group": True, "options": {"aliases": [{"name": "group"}]}},
        "one": thing("bb", kind="b", options={"parent": "other"}),
        "two": thing(of=length, kind="x", options={"parent": "other", "ignore_changes": ["kind"]}),
        "secret": secret,
    }
    return [first, second, third]


@pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")
@pytest.mark.parametrize("begins", ["engine", "cli"])
def test_alternating_with_the_cli(stack: EngineStack, begins: str) -> None:
    for_both(stack)
    hands: list[Callable[..., str]] = [
        lambda *arguments: engine(stack, *arguments),
        lambda *arguments: cli(stack, *arguments),
    ]
    for i, things in enumerate(turns()):
        stack.spec(things, exports={"length": {"$ref": ["one", "length"]}})
        one, other = hands if (begins == "engine") == (i % 2 == 0) else hands[::-1]
        one("up", "--yes", "--skip-preview")
        before = essence(stack.latest())
        other("up", "--yes", "--expect-no-changes")  # with its preview
        assert essence(stack.latest()) == before
