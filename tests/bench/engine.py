"""How long the embedded engine takes beside the Pulumi CLI: `python -m tests.bench.engine [--sizes 10,100,1000]`.

For each size: `up` from nothing, then `up` with nothing to do, both without a preview, each tool in a stack of its
own with the same program.  The two take turns, so that what else the machine does hits both; what counts is the
ratio, shown as its median and range over the turns.  Where there is no `pulumi` on the PATH, the engine alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flux_training.commands.stack.engine import find_cli

REPOSITORY = Path(__file__).resolve().parents[2]
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


@dataclass
class Tool:
    """The engine or the CLI, with a stack in a folder of its own."""

    name: str
    command: list[str]
    folder: Path
    times: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def run(self, *arguments: str, size: int = 0) -> float:
        """Seconds that one command takes.  Raises SystemExit where it fails."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PULUMI_")}
        environment |= {
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_CONFIG_PASSPHRASE": "bench",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PYTHONPATH": "",
            "THINGS": str(size),
            "PYTHONDONTWRITEBYTECODE": "",  # compiled once, as for everybody
        }
        began = time.perf_counter()
        done = subprocess.run(
            [*self.command, *arguments, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(
                f"{self.name}: {' '.join(arguments)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return time.perf_counter() - began

    def measure(self, what: str, size: int) -> None:
        """Measure one `up`."""
        took = self.run("up", "--yes", "--skip-preview", size=size)
        self.times.setdefault((what, size), []).append(took)


def tools(folder: Path) -> list[Tool]:
    """The engine, and the CLI where there is one, each with the program in its folder."""
    found = [Tool("engine", [sys.executable, "-m", "pulumi_embedded"], folder / "engine")]
    pulumi = find_cli()
    if pulumi:
        found.append(Tool("CLI", [pulumi], folder / "cli"))
    for tool in found:
        tool.folder.mkdir()
        (tool.folder / "__main__.py").write_text(PROGRAM)
        (tool.folder / "things.py").write_text(THINGS)
        (tool.folder / "Pulumi.yaml").write_text(
            f"name: bench\nruntime: {{name: python, options: {{virtualenv: '{sys.prefix}'}}}}\n"
            "backend: {url: 'file://.'}\n"
        )
    return found


def turns(count: int, found: list[Tool]) -> Iterator[list[Tool]]:
    """The tools in alternating order."""
    for turn in range(count):
        yield found if turn % 2 == 0 else found[::-1]


def measure(found: list[Tool], size: int, creates: int, noops: int) -> None:
    """All turns of one size, on new stacks; with no turn of creating, the engine makes the stacks of both."""
    if not creates:
        for tool in found:
            maker = Tool("engine", found[0].command, tool.folder)
            maker.run("stack", "init", f"s{size}")
            maker.run("up", "--yes", "--skip-preview", size=size)
    for turn, order in enumerate(turns(creates, found)):
        for tool in order:
            tool.run("stack", "init", f"s{size}-{turn}")
            tool.measure("create", size)
    for order in turns(noops, found):
        for tool in order:
            tool.measure("no-op", size)


def spread(values: list[float], digits: int = 2) -> str:
    """The median and the range."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(found: list[Tool], what: str, size: int) -> str:
    """The times and the ratios as one line."""
    times = [tool.times[what, size] for tool in found]
    parts = [f"{tool.name} {spread(values)} s" for tool, values in zip(found, times, strict=True)]
    if len(found) == 2:
        parts.append(f"ratio {spread([ours / theirs for ours, theirs in zip(*times, strict=True)])}")
    return f"{what:6} of {size:5}: " + ", ".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__)
    parser.add_argument("--sizes", default="1,10,100,1000", help="how many resources, comma between")
    parser.add_argument("--creates", type=int, default=1, help="turns of each `up` from nothing; 0: none")
    parser.add_argument("--noops", type=int, default=5, help="turns of each `up` with nothing to do")
    options = parser.parse_args()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        found = tools(Path(folder))
        if len(found) == 1:
            print("There is no `pulumi` on the PATH: the engine alone.")
        for size in sizes:
            measure(found, size, options.creates, options.noops)
            for what in ("create", "no-op"):
                if (what, size) in found[0].times:
                    print(report(found, what, size), flush=True)


if __name__ == "__main__":
    main()
