"""A checkout with N jobs and a cloud without nodes, and what one of its commands costs: seconds and requests."""

import shutil
import subprocess
import sys
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


@dataclass(frozen=True)
class CommandCost:
    """What one command took: `requests` counts them by service and method."""

    seconds: float
    requests: Counter[tuple[str, str]]


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


def cost_of(checkout: Checkout, line: list[str]) -> CommandCost:
    """Run a command in the checkout. Raises RuntimeError with what it printed when it fails."""
    before = len(checkout.requests())
    environment = find_engine("dev", local=True, environ=checkout.environment).environment
    begun = time.perf_counter()
    done = subprocess.run(
        line,
        cwd=checkout.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{line} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    asked = Counter((entry["service"], entry["method"]) for entry in checkout.requests()[before:])
    return CommandCost(seconds, asked)


def up_line() -> list[str]:
    options = ["--yes", "--skip-preview", "--stack", "dev", "--non-interactive"]
    return [sys.executable, "-m", "pulumi_embedded", "up", *options]
