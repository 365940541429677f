"""A checkout with N jobs and a cloud without nodes, and what one of its commands costs: seconds, memory, requests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from flux_training.commands.stack.engine import find_engine
from tests.e2e.checkout import Checkout, new_checkout
from tests.training.job_folders import make_job

CLOUD = "--port 0 --nodes 0 --requests-per-minute 1000000 --autoscaler-seconds 3600"
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """Of one command, in MB at its highest. `memory` is what all its processes take together (PSS: a page that n of them share counts
    as 1/n in each), `largest` the resident size of the largest, shared pages included."""

    seconds: float
    memory: float
    largest: float
    requests: Counter[tuple[str, str]]


@contextmanager
def stack_of(jobs: int, folder: Path) -> Iterator[Checkout]:
    """A checkout whose stack declares `jobs` jobs, each with an image of its own: two resources a job, the most there can be."""
    with new_checkout(folder, cloud=CLOUD) as checkout:
        shutil.rmtree(checkout.root / "jobs")
        (checkout.root / "jobs").mkdir()
        for number in range(jobs):
            make_job(checkout.root / "jobs", f"job-{number:04}", images=1, seed=number)
            _make_unlike(checkout.root / "jobs" / f"job-{number:04}", number)
        document = yaml.safe_load((checkout.root / "Pulumi.dev.yaml").read_text(encoding="utf-8"))
        document["config"]["flux-training:jobs"] = {"job-*": {}}
        (checkout.root / "Pulumi.dev.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        checkout.make("cloud")
        checkout.engine("stack", "select", "--create")
        yield checkout


def _make_unlike(job: Path, number: int) -> None:
    """Bytes that no other image has, where Pillow reads on."""
    image = job / "dataset/00001.jpg"
    image.write_bytes(image.read_bytes() + number.to_bytes(4, "big"))


def cost_of(checkout: Checkout, line: list[str]) -> Cost:
    """Run a command in the checkout. Raises RuntimeError with what it printed when it fails."""
    before = len(checkout.requests())
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        environment = find_engine("dev", local=True, environ=checkout.environment).environment
        process = subprocess.Popen(
            line, cwd=checkout.root, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        memory = largest = 0.0
        while process.poll() is None:
            sizes = _sizes(process.pid)
            memory = max(memory, sum(share for share, _ in sizes))
            largest = max([largest, *(resident for _, resident in sizes)])
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - begun
        output.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{line} ended with {process.returncode}:\n{output.read().decode()[-3000:]}")
    asked = Counter((entry["service"], entry["method"]) for entry in checkout.requests()[before:])
    return Cost(seconds, memory, largest, asked)


def up_line() -> list[str]:
    return [
        sys.executable,
        "-m",
        "pulumi_embedded",
        "up",
        "--yes",
        "--skip-preview",
        "--stack",
        "dev",
        "--non-interactive",
    ]


def _sizes(pid: int) -> list[tuple[float, float]]:
    """(its share, its resident size) in MB, of a process and of each below it."""
    sizes = []
    for child in [pid, *_below(pid)]:
        try:
            rows = Path(f"/proc/{child}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        kilobytes = {row.partition(":")[0]: int(row.split()[1]) for row in rows}
        sizes.append((kilobytes["Pss"] * 1024 / 1e6, kilobytes["Rss"] * 1024 / 1e6))
    return sizes


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_below(child)]
    return found
