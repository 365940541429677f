"""Which new jobs fit into the limits of a day and of a month."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from flux_training.training.bill import show_dollars
from flux_training.training.budget.entries import Spent
from flux_training.training.cluster_settings import BudgetSettings

# Object names store amounts in millionths of a dollar.
ROUNDING = 1e-6


@dataclass(frozen=True)
class WantedJob:
    """A job that `up` would queue. `recorded`: the dollars that a killed update has recorded for it today, without queueing it."""

    name: str
    priority: int = 0
    recorded: float = 0.0


@dataclass(frozen=True)
class WaitingJob:
    """A job that does not fit. `why`: for the user."""

    name: str
    usd: float
    why: str


def find_jobs_over_budget(
    wanted: Sequence[WantedJob],
    charges_of: Callable[[Collection[str]], Mapping[str, float]],
    spent: Spent,
    budget: BudgetSettings,
) -> tuple[WaitingJob, ...]:
    """`wanted` is in declared order. A job that does not fit does not keep cheaper ones from being queued.

    `charges_of`: dollars by job, if these are queued: the high end of each estimate, with its share of the replicas' idle time.
    """
    fitting: list[WantedJob] = []
    waiting = []
    for job in sorted(wanted, key=lambda one: -one.priority):
        charges = charges_of([one.name for one in (*fitting, job)])
        before = sum(charges[one.name] - one.recorded for one in fitting) - job.recorded
        usd = charges[job.name]
        if why := describe_exceeded_limit(usd, spent.plus(before), budget):
            waiting.append(WaitingJob(job.name, usd, why))
        else:
            fitting.append(job)
    return tuple(waiting)


def describe_exceeded_limit(usd: float, spent: Spent, budget: BudgetSettings) -> str:
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
