"""The estimate beside the local cloud's bill, for ten jobs of different length: `python -m tests.e2e.bill`.

One job is trained first, so that there is a finished run to estimate from. The bill is what the local cloud's replicas come to by the
second of running, idle time included.
"""

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import yaml

from flux_training.clients.connection import connect
from flux_training.clients.stack.pricing import price_stack
from flux_training.clients.stack.run_states import run_states_of
from flux_training.clients.stack.services import StackServices
from flux_training.training.cost import StackBill
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.settings import StackSettings, parse_stack_settings
from flux_training.training.stack_bill import describe_stack_bill
from tests.e2e.checkout import Checkout, new_checkout
from tests.training.job_folders import make_job

# Each step takes a second, so that the load of this machine does not matter.
STEPS = range(12, 32, 2)
NODES = 5
IDLE_SECONDS = 2
CLOUD = (
    "--port 0 --boot-seconds 0 --autoscaler-seconds 2 --poll-seconds 0.2 --heartbeat-seconds 0.5 "
    f"--nodes {NODES} --step-seconds 1"
)
BILLED = "SELECT COALESCE(SUM((billed_until - running_from) * dollars_an_hour / 3600), 0) FROM billing"


@dataclass(frozen=True)
class BillComparison:
    """In dollars."""

    estimate: StackBill
    billed: float

    @property
    def error(self) -> float:
        """How far the estimate is off, relative to the bill."""
        assert self.estimate.usd is not None
        return self.estimate.usd / self.billed - 1

    def __str__(self) -> str:
        return (
            f"{describe_stack_bill(self.estimate, local=True)}\nestimated ${self.estimate.usd:.5f}, billed ${self.billed:.5f}: "
            f"{self.error:+.1%}"
        )


def compare(folder: Path, steps: Sequence[int]) -> BillComparison:
    """Train a job as a basis for the estimate, then one job for each number of `steps`."""
    with new_checkout(folder, cloud=CLOUD) as checkout:
        make_job(checkout.root / "jobs", "first", steps=20, save_every=1000)
        names = [f"job-{number}" for number in range(len(steps))]
        for seed, (name, count) in enumerate(zip(names, steps, strict=True), start=10):
            make_job(checkout.root / "jobs", name, steps=count, save_every=1000, seed=seed)
        cluster = {"maxReplicas": NODES, "idleThresholdSeconds": IDLE_SECONDS}
        checkout.configure("cluster", cluster)
        checkout.declare(first={})
        checkout.make("up")
        before = bill_of(checkout)
        checkout.declare(first={}, **{name: {} for name in names})
        estimate = estimate_of(checkout)
        checkout.make("up")
        return BillComparison(estimate, bill_of(checkout) - before)


def estimate_of(checkout: Checkout) -> StackBill:
    """The estimate that the program would make."""
    with chdir(checkout.root):
        connection = connect("local", {}, os.environ)
        stack = StackServices(connection, settings_of(checkout))
        jobs = declare_jobs(stack.settings)
        return price_stack(stack, jobs, run_states_of(stack, jobs).by_job)


def settings_of(checkout: Checkout) -> StackSettings:
    document = yaml.safe_load((checkout.root / "Pulumi.dev.yaml").read_text(encoding="utf-8"))
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in document["config"].items()
    }
    return parse_stack_settings("flux-training", texts)


def bill_of(checkout: Checkout) -> float:
    """The bill in dollars, once no replica is running."""
    database = sqlite3.connect(checkout.root / ".localcloud/cloud.db")
    try:
        while database.execute("SELECT COUNT(*) FROM billing WHERE open = 1").fetchone()[0]:
            time.sleep(0.2)
        return float(database.execute(BILLED).fetchone()[0])
    finally:
        database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(compare(Path(place) / "checkout", STEPS))
