"""What the launcher costs beside a trainer that prints 50 lines a second: memory, and CPU as a part of one core.

    python -m tests.node.cost [--seconds 20]

Prints; Linux only (/proc). Goals: 40 MB and 1 % of a core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.node.runs import Node


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def measure(home: Path, seconds: float) -> str:
    """One run; in words."""
    node = Node(home, f"pace:{seconds + 30:.0f}", steps=3000)
    process = node.start()
    process.stdout, output = None, process.stdout  # somebody has to read
    assert output is not None
    os.set_blocking(output.fileno(), False)
    path, deadline = node.output / "asleep", time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    start, began = cpu_seconds(process.pid), time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(0.1)
        output.read()
    used = cpu_seconds(process.pid) - start
    percent = 100 * used / (time.monotonic() - began)
    memory = peak_megabytes(process.pid)
    process.terminate()
    process.wait(20)
    output.close()
    return f"launcher: {memory:.0f} MB at most, {percent:.1f} % of a core over {seconds:.0f} s beside 50 lines a second"


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.node.cost")
    parser.add_argument("--seconds", type=float, default=20)
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), parser.parse_args().seconds))


if __name__ == "__main__":
    main()
