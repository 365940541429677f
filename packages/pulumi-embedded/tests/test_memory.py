"""What is freed goes back to the system, in the engine and in what it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from engine_stack import PACKAGE_FOLDER, EngineStack
from pulumi_embedded import memory
from pulumi_embedded.cli import main
from pulumi_embedded.deployment.steps import Steps
from pulumi_embedded.properties.values import Secret
from pulumi_embedded.state.serialization import Resource

# A large block is freed; then another lies where the first taught malloc to put it, and small ones lie behind it.
STATES = """
import sys
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if "keep_little" in sys.argv:
    from pulumi_embedded import memory
    memory.keep_little()
first = b"x" * 8_000_000
del first
second = b"y" * 8_000_000
small = [b"z" * 1000 + str(i).encode() for i in range(2000)]
before = resident()
del second
print(before - resident())
"""

PROGRAM = """
import os
import pulumi

pulumi.export("large", os.environ.get("MALLOC_MMAP_THRESHOLD_"))
pulumi.export("trim", os.environ.get("MALLOC_TRIM_THRESHOLD_"))
"""


def given_back(*words: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STATES, *words], cwd=PACKAGE_FOLDER, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only glibc's malloc is told so, and /proc read"
)
def test_a_large_block_that_is_freed_is_given_back() -> None:
    if given_back() > 7_000_000:
        pytest.skip("this C library gives it back by itself")
    assert given_back("keep_little") > 7_000_000


def test_the_engine_itself_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(memory, "keep_little", lambda: told.append(True))
    assert main.run_command(["about"]) == 0
    assert told == [True]


def same(old: dict[str, Any], new: dict[str, Any]) -> tuple[Resource, Resource]:
    """Both resources after a step that changes nothing."""
    before, after = (Resource("urn", "type", custom=True, inputs=inputs) for inputs in (old, new))
    listener: Any = SimpleNamespace(ended=lambda _step: None)
    providers: Any = None
    Steps(providers, listener, None, 1, {}).same(before, after, None)
    return before, after


def test_inputs_that_are_the_same_are_kept_once() -> None:
    before, after = same({"a": [1], "s": Secret("x", "text", "salt")}, {"a": [1], "s": Secret("x")})
    assert after.inputs is before.inputs


@pytest.mark.parametrize(
    ("old", "new"), [({"a": 1}, {"a": True}), ({"a": "x"}, {"a": Secret("x")}), ({}, {"a": None})]
)
def test_inputs_that_only_look_the_same_are_the_new_ones(old: dict[str, Any], new: dict[str, Any]) -> None:
    _, after = same(old, new)
    assert after.inputs is new


def test_the_children_keep_little_as_well_unless_the_user_says_otherwise(stack: EngineStack) -> None:
    (stack.folder / "__main__.py").write_text(PROGRAM)
    stack.up()
    told = json.loads(stack.run("stack", "output", "--json"))
    assert told == {"large": memory.ENVIRONMENT["MALLOC_MMAP_THRESHOLD_"], "trim": "131072"}
    stack.run("up", "--yes", "--skip-preview", MALLOC_TRIM_THRESHOLD_="4096")
    assert json.loads(stack.run("stack", "output", "--json")) == {**told, "trim": "4096"}
