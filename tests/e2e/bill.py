"""The estimate beside the local cloud's bill: `python -m tests.e2e.bill`, with 20 jobs on nodes that are taken away.

Some jobs are trained first, so that there are finished runs to estimate from. The bill is what the local cloud's replicas come to by the
second of running, idle time included. A job's share of it is the time for which its nodes had the job.
"""

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from flux_training.clients.connection import connect
from flux_training.clients.stack.pricing import price_stack
from flux_training.clients.stack.run_states import run_states_of
from flux_training.clients.stack.services import StackServices
from flux_training.training.cost import StackBill
from flux_training.training.estimates.ranges import Range
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.settings import StackSettings, parse_stack_settings
from flux_training.training.stack_bill import describe_stack_bill
from tests.e2e.checkout import Checkout, new_checkout
from tests.training.job_folders import make_job

# Each step takes a second, so that the load of this machine does not matter.
STEPS = range(12, 32, 2)
MANY_STEPS = range(12, 32)
EARLIER_STEPS = (14, 18, 22, 26, 30)
SAVE_EVERY = 5
NODES = 5
# One for every five of these jobs. For a job of an hour, the assumed rate of the lowest priority is the same (SALAD_INTERRUPTIONS).
INTERRUPTIONS_AN_HOUR = 30
# With it, one of the earlier jobs loses its node, so that the finished runs show what that costs.
SEED = 23
IDLE_SECONDS = 2
MAX_SECONDS = 500
CLOUD = (
    "--port 0 --boot-seconds 0 --autoscaler-seconds 2 --poll-seconds 0.2 --heartbeat-seconds 0.5 "
    f"--nodes {NODES} --step-seconds 1"
)
BILLED = "SELECT COALESCE(SUM((billed_until - running_from) * dollars_an_hour / 3600), 0) FROM billing"
# Kelpie's jobs only keep the last machine that had them.
LOG_STATES = """
CREATE TABLE job_states (job TEXT, status TEXT, machine_id TEXT, since REAL);
CREATE TRIGGER log_job_states AFTER UPDATE OF status ON jobs BEGIN
    INSERT INTO job_states VALUES
        (json_extract(NEW.body, '$.environment.FLUX_JOB'), NEW.status, NEW.machine_id, NEW.heartbeat);
END;
"""
# A machine has a job until the job's next state, or until the machine itself ends.
JOB_BILLS = """
SELECT job, COUNT(*), SUM((MIN(billed_until, until) - since) * dollars_an_hour / 3600)
FROM (SELECT *, LEAD(since, 1, 9e99) OVER (PARTITION BY job ORDER BY since) AS until FROM job_states)
JOIN billing USING (machine_id) WHERE status = 'running' GROUP BY job
"""


@dataclass(frozen=True)
class JobBill:
    """`estimate` and `billed` in dollars. `machines`: how many had the job, one after the other."""

    job: str
    steps: int
    machines: int
    estimate: Range
    billed: float

    @property
    def is_inside(self) -> bool:
        return self.estimate.low <= self.billed <= self.estimate.high

    def __str__(self) -> str:
        dollars = [self.estimate.low, self.estimate.likely, self.estimate.high, self.billed]
        numbers = "  ".join(f"{1000 * usd:6.3f}" for usd in dollars)
        return f"{self.job:8} {self.steps:5} {self.machines:8}  {numbers}  {'' if self.is_inside else 'outside'}".rstrip()


@dataclass(frozen=True)
class BillComparison:
    """In dollars."""

    estimate: StackBill
    billed: float
    jobs: tuple[JobBill, ...]

    @property
    def error(self) -> float:
        """How far the estimate is off, relative to the bill."""
        assert self.estimate.usd is not None
        return self.estimate.usd / self.billed - 1

    @property
    def inside(self) -> int:
        return sum(job.is_inside for job in self.jobs)

    def __str__(self) -> str:
        heading = "job      steps machines     low  likely    high  billed, in thousandths of a dollar"
        summary = f"estimated ${self.estimate.usd:.5f}, billed ${self.billed:.5f}: {self.error:+.1%}"
        inside = f"{self.inside} of {len(self.jobs)} jobs inside their range"
        return "\n".join(
            [describe_stack_bill(self.estimate, local=True), heading, *map(str, self.jobs), summary, inside]
        )


def compare(
    folder: Path, earlier: Sequence[int], steps: Sequence[int], interruptions_an_hour: int = 0
) -> BillComparison:
    """Train a job for each number of `earlier` steps as a basis for the estimate, then one for each number of `steps`."""
    with new_checkout(folder, cloud=CLOUD) as checkout:
        first = _make_jobs(checkout, "earlier", earlier, seed=10)
        then = _make_jobs(checkout, "job", steps, seed=50)
        checkout.configure("cluster", {"maxReplicas": NODES, "idleThresholdSeconds": IDLE_SECONDS})
        checkout.make("cloud")
        with database_of(checkout) as database:
            database.executescript(LOG_STATES)
        if interruptions_an_hour:
            rate = ["--per-hour", str(interruptions_an_hour), "--seed", str(SEED)]
            checkout.run_module("localcloud", "chaos", "interrupt", *rate)
        checkout.declare(**{name: {} for name in first})
        checkout.make("up", seconds=MAX_SECONDS)
        before = bill_of(checkout)
        checkout.declare(**{name: {} for name in [*first, *then]})
        estimate = estimate_of(checkout)
        checkout.make("up", seconds=MAX_SECONDS)
        total = bill_of(checkout) - before
        return BillComparison(estimate, total, tuple(_job_bills(checkout, estimate)))


def _make_jobs(checkout: Checkout, prefix: str, steps: Sequence[int], seed: int) -> list[str]:
    names = [f"{prefix}-{number}" for number in range(len(steps))]
    for number, (name, count) in enumerate(zip(names, steps, strict=True), start=seed):
        make_job(checkout.root / "jobs", name, steps=count, save_every=SAVE_EVERY, seed=number)
    return names


def _job_bills(checkout: Checkout, estimate: StackBill) -> list[JobBill]:
    with database_of(checkout) as database:
        billed = {job: (machines, usd) for job, machines, usd in database.execute(JOB_BILLS)}
    return [
        JobBill(line.job, line.steps, billed[line.job][0], line.cost, billed[line.job][1])
        for line in estimate.lines
        if line.cost
    ]


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


def database_of(checkout: Checkout) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(checkout.root / ".localcloud/cloud.db", timeout=10))


def bill_of(checkout: Checkout) -> float:
    """The bill in dollars, once no replica is running."""
    with database_of(checkout) as database:
        while database.execute("SELECT COUNT(*) FROM billing WHERE open = 1").fetchone()[0]:
            time.sleep(0.2)
        return float(database.execute(BILLED).fetchone()[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(compare(Path(place) / "checkout", EARLIER_STEPS, MANY_STEPS, INTERRUPTIONS_AN_HOUR))
