"""Which new jobs fit into the limits of a day and of a month."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from flux_training.training.bill import show_dollars
from flux_training.training.budget.entries import Spent
from flux_training.training.cluster_settings import BudgetSettings

# Amounts are stored in millionths of a dollar.
ROUNDING = 1e-6


@dataclass(frozen=True)
class WantedJob:
    """A job that `up` would queue. `usd`: the high end of its estimate, with its share of the replicas' idle time.

    `recorded`: what a killed update has recorded for it today, without queueing it.
    """

    name: str
    usd: float
    priority: int = 0
    recorded: float = 0.0


@dataclass(frozen=True)
class WaitingJob:
    """A job that does not fit. `why`: for the user."""

    name: str
    usd: float
    why: str


def jobs_that_wait(
    wanted: Sequence[WantedJob], spent: Spent, budget: BudgetSettings
) -> tuple[WaitingJob, ...]:
    """`wanted` is in declared order. A job that does not fit does not keep cheaper ones from being queued."""
    waiting = []
    for job in sorted(wanted, key=lambda one: -one.priority):
        others = spent.plus(-job.recorded)
        why = does_not_fit(job.usd, others, budget)
        if why:
            waiting.append(WaitingJob(job.name, job.usd, why))
        else:
            spent = others.plus(job.usd)
    return tuple(waiting)


def jobs_that_wait_sharing(
    wanted: Sequence[WantedJob],
    charges_of: Callable[[Collection[str]], Mapping[str, float | None]],
    spent: Spent,
    budget: BudgetSettings,
) -> tuple[WaitingJob, ...]:
    """The same for jobs that share the idle time after them, so that what each is charged depends on which others are queued.

    `charges_of`: dollars by job, if these are queued; they replace the `usd` of `wanted`.
    """
    fitting: list[WantedJob] = []
    waiting: list[WaitingJob] = []
    for job in sorted(wanted, key=lambda one: -one.priority):
        tried = [*fitting, job]
        charges = charges_of([one.name for one in tried])
        priced = [replace(one, usd=charges[one.name] or 0.0) for one in tried]
        found = jobs_that_wait(priced, spent, budget)
        waiting += found
        if not found:
            fitting = tried
    return tuple(waiting)


def does_not_fit(usd: float, spent: Spent, budget: BudgetSettings) -> str:
    """Which limit another `usd` dollars would exceed, and until when; empty if they fit."""
    limits = (
        ("maxUsdPerMonth", budget.max_usd_per_month, spent.month, "this month", "next month"),
        ("maxUsdPerDay", budget.max_usd_per_day, spent.day, "today", "tomorrow"),
    )
    for name, limit, already, when, until in limits:
        if limit is None or already + usd <= limit + ROUNDING:
            continue
        if usd > limit + ROUNDING:
            return f"it may cost {show_dollars(usd)}, more than budget.{name} ({show_dollars(limit)}) as a whole; raise that"
        return (
            f"it may cost {show_dollars(usd)}, and what is queued before it {when} may cost {show_dollars(already)} of budget.{name} "
            f"({show_dollars(limit)}); it can be queued {until} (UTC), or raise the limit"
        )
    return ""
