"""How long `up` from nothing and `up` with nothing to do take for stacks of 1, 10, 100 and 1,000 jobs, and their requests."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from flux_training.commands.stack.engine import find_engine
from tests.e2e.checkout import Checkout, new_checkout
from tests.training.job_folders import make_job

CLOUD = "--port 0 --nodes 0 --requests-per-minute 1000000 --autoscaler-seconds 3600"
UP = [
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


@dataclass(frozen=True)
class UpCost:
    """What one `up` took."""

    seconds: float
    requests: int


def scaling(counts: list[int], folder: Path) -> str:
    """One measurement each: an `up` from nothing cannot be repeated on one stack, and a thousand jobs take minutes."""
    lines = [
        "### A stack of N jobs, each with a dataset of its own (embedded engine, cloud without nodes)",
        "",
        "| N | up from nothing s | no-op s | state bytes per job | requests per job | no-op requests |",
        "|---|---|---|---|---|---|",
    ]
    costs: dict[int, tuple[UpCost, UpCost]] = {}
    for count in counts:
        with stack_of(count, folder / f"stack-{count}") as checkout:
            first, again = run_up(checkout), run_up(checkout)
            (state,) = (checkout.root / ".pulumi/stacks").rglob("dev.json*[!k]")
            size = state.stat().st_size
        costs[count] = first, again
        lines.append(
            f"| {count} | {first.seconds:.1f} | {again.seconds:.1f} | {size / count:.0f} "
            f"| {first.requests / count:.1f} | {again.requests} |"
        )
    if 100 in costs and 1000 in costs:
        up, noop = (costs[1000][i].seconds / costs[100][i].seconds for i in (0, 1))
        lines += ["", f"time(1000) / time(100): {up:.1f} for up from nothing, {noop:.1f} for no-op."]
    return "\n".join([*lines, ""])


@contextmanager
def stack_of(jobs: int, folder: Path) -> Iterator[Checkout]:
    """A checkout whose stack declares `jobs` jobs, each with an image of its own: two resources for each job."""
    with new_checkout(folder, cloud=CLOUD) as checkout:
        shutil.rmtree(checkout.root / "jobs")
        (checkout.root / "jobs").mkdir()
        for number in range(jobs):
            make_job(checkout.root / "jobs", f"job-{number:04}", images=1, seed=number)
            _make_unique(checkout.root / "jobs" / f"job-{number:04}", number)
        document = yaml.safe_load((checkout.root / "Pulumi.dev.yaml").read_text(encoding="utf-8"))
        document["config"]["flux-training:jobs"] = {"job-*": {}}
        (checkout.root / "Pulumi.dev.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        checkout.make("cloud")
        checkout.engine("stack", "select", "--create")
        yield checkout


def _make_unique(job: Path, number: int) -> None:
    """Append bytes that no other image has; Pillow ignores them."""
    image = job / "dataset/00001.jpg"
    image.write_bytes(image.read_bytes() + number.to_bytes(4, "big"))


def run_up(checkout: Checkout) -> UpCost:
    """Raises CalledProcessError with what it printed if it fails."""
    before = len(checkout.requests())
    environment = find_engine("dev", local=True, environ=checkout.environment).environment
    begun = time.perf_counter()
    subprocess.run(UP, cwd=checkout.root, env=environment, capture_output=True, text=True, check=True)
    return UpCost(time.perf_counter() - begun, len(checkout.requests()) - before)
