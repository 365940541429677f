"""How long the embedded engine takes beside the Pulumi CLI, each in stacks of its own with the same program.

Without a `pulumi` on the PATH, the engine alone.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flux_training.commands.stack.engine import find_cli
from tests.bench.measure import in_turns, table

ENGINE = "embedded engine"
PROGRAM = """
import os, pulumi
from things import Number
before = None
things = [Number(f"t{i}", i) for i in range(int(os.environ["THINGS"]))]
pulumi.export("sum", pulumi.Output.all(*[thing.twice for thing in things]).apply(sum))
"""
# A provider that does nothing, so that all the time is the tools' own.  Serialised once: the SDK's serializer
# leaves a wrapper behind each time, which ends in a RecursionError at about the 319th resource.
THINGS = """
import functools
from pulumi.dynamic import CreateResult, Resource, ResourceProvider, dynamic

dynamic.serialize_provider = functools.cache(dynamic.serialize_provider)

class NumberProvider(ResourceProvider):
    serialize_as_secret_always = False

    def __getstate__(self):
        return None

    def create(self, props):
        return CreateResult(str(props["number"]), {**props, "twice": 2 * props["number"]})

PROVIDER = NumberProvider()

class Number(Resource, module="bench", name="Number"):
    def __init__(self, name, number):
        super().__init__(PROVIDER, name, {"number": number, "text": "x" * 100, "tags": {"a": "b"}, "twice": None})
"""


@dataclass(frozen=True)
class Tool:
    """The engine or the CLI, with the program in a folder."""

    command: list[str]
    folder: Path

    def run(self, size: int, *arguments: str) -> None:
        """One command with a program of `size` resources. Raises CalledProcessError."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
        environment |= {
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_CONFIG_PASSPHRASE": "bench",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PYTHONPATH": "",
            "THINGS": str(size),
            "PYTHONDONTWRITEBYTECODE": "",  # compiled once, as for everybody
        }
        line = [*self.command, *arguments, "--non-interactive", "--color", "never"]
        subprocess.run(
            line, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )

    def create(self, size: int) -> None:
        """`up` from nothing, in a new stack."""
        number = len(list(self.folder.glob("Pulumi.*.yaml")))
        self.run(size, "stack", "init", f"s{size}-{number}")
        self.up(size)

    def up(self, size: int) -> None:
        self.run(size, "up", "--yes", "--skip-preview")


def beside_the_cli(sizes: list[int], folder: Path, rounds: int) -> str:
    """`up` from nothing, then `up` with nothing to do, for each number of resources."""
    tools = _tools(folder)
    parts = []
    for size in sizes:
        for what, act, turns in (("from nothing", Tool.create, 1), ("with nothing to do", Tool.up, rounds)):
            acts = {
                name: (lambda tool=tool, act=act, size=size: act(tool, size)) for name, tool in tools.items()
            }
            parts.append(table(f"`up` {what}, {size} resources", in_turns(acts, turns), ENGINE, {}))
    return "\n".join(parts)


def _tools(folder: Path) -> dict[str, Tool]:
    commands = {ENGINE: [sys.executable, "-m", "pulumi_embedded"]}
    if cli := find_cli():
        commands["Pulumi CLI"] = [cli]
    found = {name: Tool(command, folder / name.replace(" ", "-")) for name, command in commands.items()}
    for tool in found.values():
        tool.folder.mkdir(parents=True)
        (tool.folder / "__main__.py").write_text(PROGRAM)
        (tool.folder / "things.py").write_text(THINGS)
        (tool.folder / "Pulumi.yaml").write_text(
            f"name: bench\nruntime: {{name: python, options: {{virtualenv: '{sys.prefix}'}}}}\n"
            "backend: {url: 'file://.'}\n"
        )
    return found
