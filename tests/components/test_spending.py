"""Two stacks that share a bucket and its limits: whatever is killed, never more is queued than allowed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from math import inf
from typing import Any

import pytest

from components.bucket import BucketArgs, BucketProvider, write_owner_mark
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, JobRequest
from flux_training.clients.queue import posting
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace, newest_posted_job
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.requeue import SilentRun
from flux_training.clients.salad import GroupSpec
from flux_training.clients.stack import spending
from flux_training.clients.stack.spending import Reservation, read_spending, reserve
from flux_training.training.budget.entries import (
    SPENDING_FOLDER,
    SpendingEntry,
    Spent,
    hash_of_run,
    read_entries,
    recorded_today,
    spent_on,
)
from flux_training.training.budget.limits import WaitingJob, WantedJob, find_jobs_over_budget
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.cost import Bill, Line, Rate, StackBill
from flux_training.training.errors import FluxError
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.run import Layout, RunKeys
from tests.components.groups import new_name
from tests.components.test_provider_life import connected
from tests.support.seeds import seeds

BUCKET = "spending"
MAX_UPDATES = 40
# A day before the end of a month and of a year, and one in the middle.
FIRST_DAYS = (date(2026, 11, 29), date(2026, 12, 31), date(2026, 6, 10))
MIDNIGHT_CHANCE = 0.05


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed update here never has a post under way.
    monkeypatch.setattr(posting, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(posting, "CLAIM_POLL_SECONDS", 0.01)


class UpdateKilled(BaseException):
    """Ends an update like a kill: no handler of the code under test catches it."""


class Mortal:
    """Calls another object until its `left` calls are used up. Every second death comes after the call."""

    def __init__(self, real: Any, kills: Kills) -> None:
        self._real = real
        self._kills = kills

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._kills.counted(found) if callable(found) else found


@dataclass
class Kills:
    """The update dies at its call number `left`; in the lock, because the kill must happen once."""

    left: int
    after: bool

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise UpdateKilled
            found = call(*args, **named)
            if self.left == 0:
                raise UpdateKilled
            return found

        return made


@dataclass
class Clock:
    """The days of UTC, as `today` returns them. While it runs, midnight comes at random."""

    day: date
    random: random.Random
    runs: bool = True

    def today(self) -> date:
        if self.runs and self.random.random() < MIDNIGHT_CHANCE:
            self.day += timedelta(days=1)
        return self.day


@dataclass(frozen=True)
class SharingStack:
    """A stack with a prefix of its own. `bill`: of its jobs, which share the idle time after them.

    `accepted`: keys of entries after which a job may be posted. A killed update leaves others, which only count too much.
    """

    connection: Connection
    prefix: str
    group: str
    bill: StackBill
    budget: BudgetSettings
    accepted: set[str] = field(default_factory=set)

    def update(self, kills: Kills) -> None:
        """What `up` does: plan with what was spent, then queue what fits."""
        storage = Mortal(self.connection.storage(BUCKET), kills)
        queue = Queue(Mortal(self.connection.kelpie(), kills), self.group)
        new, waiting = self.plan(storage, queue)
        charges = self.bill.without({one.name for one in waiting}).known_charges
        for job in set(new) - {one.name for one in waiting}:
            keys = Layout(self.prefix).run(job, self.run(job))
            reservation = Reservation(charges[job], self.budget)

            def prepare(job=job, keys=keys, reservation=reservation) -> None:  # type: ignore[no-untyped-def]  # binds the loop's values
                last = newest_posted_job(queue.own_jobs(self.place(job)))
                reserve(storage, self.prefix, keys, reservation, "`make up`", last.id if last else "")
                self.accept(keys)

            queue.post_once(
                self.place(job), self.request(job), ClaimFile(storage, keys, self.prefix), prepare
            )

    def plan(self, storage: Any, queue: Queue) -> tuple[list[str], tuple[WaitingJob, ...]]:
        """The jobs that are not queued yet, and those of them that do not fit."""
        new = [job for job in self.bill.charges if not queue.find(self.place(job))]
        day = spending.today()
        entries = read_spending(storage, day)
        marks = {job: hash_of_run(self.prefix, job, self.run(job)) for job in new}
        # As in `waiting_jobs`: a run that was queued before, and canceled, counts again.
        never_queued = [job for job in new if not queue.own_jobs(self.place(job))]
        wanted = [
            WantedJob(job, recorded=recorded_today(day, marks[job], entries) if job in never_queued else 0.0)
            for job in new
        ]
        return new, find_jobs_over_budget(
            wanted,
            lambda queued: self.bill.without(set(new).difference(queued)).known_charges,
            spent_on(day, entries),
            self.budget,
        )

    def watch(self, kills: Kills, random_: random.Random) -> None:
        """What a watcher does with a run whose node hangs: cancel its job, and queue it again if it fits."""
        storage, kelpie = (
            Mortal(self.connection.storage(BUCKET), kills),
            Mortal(self.connection.kelpie(), kills),
        )
        jobs = self.connection.kelpie().list_jobs(container_group_id=self.group)
        for job in [one for one in jobs if random_.random() < 0.3]:
            name = job.environment["FLUX_JOB"]
            keys = Layout(self.prefix).run(name, self.run(name))
            reserve = partial(self.reserve_again, storage, keys)
            run = SilentRun(Queue(kelpie, self.group), storage, keys, self.place(name), self.prefix, reserve)
            run.queue_again(job) if job.status == "pending" else run.finish(job)

    def reserve_again(self, storage: Any, keys: RunKeys, replaced: Job) -> None:
        spending.reserve_budget_again(storage, self.prefix, keys, replaced.id, "`make up`")
        self.accept(keys)

    def accept(self, keys: RunKeys) -> None:
        mark = hash_of_run(self.prefix, keys.job, keys.run)
        own = [entry for entry in all_entries(self.connection) if entry.run == mark]
        last = max(entry.day for entry in own)
        self.accepted.update(entry.key for entry in own if entry.day == last)

    def update_until_done(self, random_: random.Random) -> None:
        """Updates and watchers are killed at random places and repeated, until an update and a watcher have ended."""
        for _ in range(MAX_UPDATES):
            try:
                self.update(random_kills(random_))
                self.watch(random_kills(random_), random_)
            except (UpdateKilled, FluxError):
                continue
            return

    def run(self, job: str) -> str:
        return f"{job}-run"

    def place(self, job: str) -> RunPlace:
        return RunPlace.of(BUCKET, Layout(self.prefix), job, self.run(job))

    def request(self, job: str) -> JobRequest:
        keys = Layout(self.prefix).run(job, self.run(job))
        upload = {"bucket": BUCKET, "prefix": keys.output, "local_path": "o/", "direction": "upload"}
        return JobRequest.model_validate(
            {
                "container_group_id": self.group,
                "command": "python",
                "environment": {"FLUX_RUN_ID": self.run(job), "FLUX_JOB": job},
                "sync": {"during": [upload]},
            }
        )

    def queued(self) -> Counter[str]:
        """How often each job was queued, by the mark of its run; canceled ones count."""
        jobs = self.connection.kelpie().list_jobs(container_group_id=self.group)
        names = [job.environment["FLUX_JOB"] for job in jobs]
        return Counter(hash_of_run(self.prefix, name, self.run(name)) for name in names)


def random_kills(random_: random.Random) -> Kills:
    return Kills(random_.choice((0, 0, random_.randint(1, 30))), random_.random() < 0.5)


def sharing_stack(
    connection: Connection, random_: random.Random, budget: BudgetSettings, name: str
) -> SharingStack:
    spec = GroupSpec(name=new_name(), image="image", environment={"A": "1"})
    group = connection.salad().create_group(spec).id
    costs = {f"{name}-{number}": Range.exactly(random_.randint(1, 40) / 10) for number in range(4)}
    lines = tuple(Line(job, "new", 20, usd.times(3600), usd, "") for job, usd in costs.items())
    idle, replicas = Range.exactly(random_.choice((0.0, 360.0, 1800.0))), random_.randint(1, 4)
    bill = Bill(Rate("RTX 5090", "high", 1.0), lines, idle.times(replicas), replicas)
    return SharingStack(connection, f"{new_name()}/", group, StackBill({"": bill}), budget)


def spent_today(connection: Connection) -> Spent:
    return spent_on(spending.today(), read_spending(connection.storage(BUCKET), spending.today()))


def all_entries(connection: Connection) -> list[SpendingEntry]:
    return read_entries(item.key for item in connection.storage(BUCKET).list(SPENDING_FOLDER))


def forget_spending(connection: Connection) -> None:
    storage = connection.storage(BUCKET)
    storage.ensure()
    storage.delete_many([item.key for item in storage.list(SPENDING_FOLDER)])


def check_limits(stacks: Sequence[SharingStack], budget: BudgetSettings) -> None:
    """Each job in the queue has an entry, and no day and no month has entries for more than its limit."""
    accepted = {key for stack in stacks for key in stack.accepted}
    entries = [entry for entry in all_entries(stacks[0].connection) if entry.key in accepted]
    recorded = Counter(entry.run for entry in entries)
    for stack in stacks:
        assert stack.queued() <= recorded
    for day in {entry.day for entry in entries}:
        spent = spent_on(day, entries)
        assert spent.day <= (budget.max_usd_per_day or inf) + 1e-6
        assert spent.month <= (budget.max_usd_per_month or inf) + 1e-6


@pytest.mark.parametrize("seed", seeds(100, short=2))
def test_two_stacks_never_queue_more_than_the_limit(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random_ = random.Random(seed)
    forget_spending(connection)
    clock = Clock(random_.choice(FIRST_DAYS), random.Random(seed))
    monkeypatch.setattr(spending, "today", clock.today)
    limit = random_.randint(20, 120) / 10
    setting = random_.choice(("maxUsdPerDay", "maxUsdPerMonth"))
    budget = BudgetSettings.model_validate({setting: limit})
    stacks = [sharing_stack(connection, random_, budget, name) for name in ("a", "b")]
    seeds_of_stacks = [random_.random() for _ in stacks]
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda pair: pair[0].update_until_done(random.Random(pair[1])),
                zip(stacks, seeds_of_stacks, strict=True),
            )
        )
    check_limits(stacks, budget)
    clock.runs = False
    for stack in stacks:
        stack.update(Kills(0, after=False))
    check_limits(stacks, budget)
    # Nothing is left that would still fit beside what is recorded, also by updates that were killed.
    for stack in stacks:
        new, waiting = stack.plan(connection.storage(BUCKET), Queue(connection.kelpie(), stack.group))
        assert sorted(new) == sorted(job.name for job in waiting)


def test_a_job_that_no_longer_fits_is_refused_and_leaves_no_entry(connection: Connection) -> None:
    forget_spending(connection)
    storage = connection.storage(BUCKET)
    budget = BudgetSettings(maxUsdPerDay=3.0)
    cat, dog = (Layout("x/").run(job, "0123456789ab") for job in ("cat", "dog"))
    reserve(storage, "x/", cat, Reservation(2.0, budget), "`make up`")
    # Repeated after a kill, with another estimate, it counts once.
    reserve(storage, "x/", cat, Reservation(2.5, budget), "`make up`")
    reserve(storage, "x/", cat, Reservation(2.0, budget), "`make up`")
    with pytest.raises(FluxError, match=r"(?s)dog no longer fits .* run `make up` again"):
        reserve(storage, "x/", dog, Reservation(1.5, budget), "`make up`")
    assert spent_today(connection) == Spent(2.0, 2.0)
    # A stack without limits is recorded too.
    reserve(storage, "y/", dog, Reservation(5.0, BudgetSettings()), "`make up`")
    assert spent_today(connection) == Spent(7.0, 7.0)


def test_dollars_with_many_digits_are_recorded(connection: Connection) -> None:
    forget_spending(connection)
    storage, budget = connection.storage(BUCKET), BudgetSettings(maxUsdPerDay=3.0)
    for times, job in enumerate(("cat", "dog"), start=1):
        keys = Layout("x/").run(job, "0123456789ab")
        reserve(storage, "x/", keys, Reservation(1 / 3, budget), "`make up`")
        assert spent_today(connection).day == pytest.approx(times / 3, abs=1e-5)


def test_a_canceled_run_that_is_queued_again_counts_twice(connection: Connection) -> None:
    forget_spending(connection)
    storage = connection.storage(BUCKET)
    keys = Layout("x/").run("cat", "ba9876543210")
    reserve(storage, "x/", keys, Reservation(2.0, BudgetSettings()), "`make up`")
    storage.put_bytes(keys.posted, json.dumps({"kelpie_id": "job-1"}).encode())
    reserve(storage, "x/", keys, Reservation(2.0, BudgetSettings()), "`make up`")
    assert spent_today(connection).day == 4.0


def test_a_run_that_is_queued_again_after_its_records_were_deleted_counts_twice(
    connection: Connection,
) -> None:
    forget_spending(connection)
    storage, prefix = connection.storage(BUCKET), f"{new_name()}/"
    layout = Layout(prefix)
    keys = layout.run("cat", "ba9876543210")
    provider: BucketProvider = connected(BucketProvider(), connection)
    state = BucketArgs(
        kind="s3", home="", bucket=BUCKET, prefix=prefix, owner="flux/me", adopt=False, results="delete"
    )
    for times in (1, 2, 3):
        write_owner_mark(storage, layout, "flux/me", adopt=False)
        reserve(storage, prefix, keys, Reservation(2.0, BudgetSettings()), "`make up`")
        storage.put_bytes(keys.posted, json.dumps({"kelpie_id": f"job-{times}"}).encode())
        assert spent_today(connection).day == 2.0 * times
        provider.remove("id", state)
        assert storage.head(keys.posted) is None
        assert spent_today(connection).day == 2.0 * times
