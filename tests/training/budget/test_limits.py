"""Which jobs fit into the limits of a day and of a month."""

from collections.abc import Collection
from functools import partial

import pytest

from flux_training.training.budget import limits as limits_module
from flux_training.training.budget.entries import Spent
from flux_training.training.budget.limits import WantedJob, find_jobs_over_budget
from flux_training.training.cluster_settings import BudgetSettings

TEN = Spent(day=10.0, month=30.0)


def costs(**usd: float) -> partial[dict[str, float]]:
    """Jobs that share nothing: each costs the same whatever else is queued."""
    return partial(_costs_of, usd)


def _costs_of(usd: dict[str, float], queued: Collection[str]) -> dict[str, float]:
    return {name: usd[name] for name in queued}


@pytest.mark.parametrize(
    ("limits", "spent", "waiting"),
    [
        ({}, TEN, []),
        ({"maxUsdPerDay": 3.0}, Spent(), []),
        ({"maxUsdPerDay": 2.9}, Spent(), ["c"]),
        ({"maxUsdPerDay": 11.5}, TEN, ["b", "c"]),
        ({"maxUsdPerMonth": 31.0}, TEN, ["b", "c"]),
        ({"maxUsdPerMonth": 30.0, "maxUsdPerDay": 99.0}, TEN, ["a", "b", "c"]),
        ({"maxUsdPerDay": 0.0}, Spent(), ["a", "b", "c"]),
    ],
)
def test_jobs_are_queued_in_order_as_far_as_they_fit(
    limits: dict[str, float], spent: Spent, waiting: list[str]
) -> None:
    wanted = [WantedJob(name) for name in "abc"]
    found = find_jobs_over_budget(
        wanted, costs(a=1.0, b=1.0, c=1.0), spent, BudgetSettings.model_validate(limits)
    )
    assert [job.name for job in found] == waiting


def test_priorities_come_first_and_cheaper_jobs_are_not_held_up() -> None:
    wanted = [WantedJob("a"), WantedJob("b", priority=1), WantedJob("c"), WantedJob("d")]
    usd = costs(a=1.0, b=2.5, c=0.5, d=0.5)
    found = find_jobs_over_budget(wanted, usd, Spent(), BudgetSettings(maxUsdPerDay=3.5))
    assert [job.name for job in found] == ["c", "d"]
    found = find_jobs_over_budget(wanted, usd, Spent(), BudgetSettings(maxUsdPerDay=3.0))
    assert [job.name for job in found] == ["a", "d"]


def test_a_waiting_job_says_which_limit_and_until_when() -> None:
    def why(spent: Spent, **limits: float) -> str:
        (job,) = find_jobs_over_budget(
            [WantedJob("a")], costs(a=2.0), spent, BudgetSettings.model_validate(limits)
        )
        return job.why

    assert why(TEN, maxUsdPerDay=11.0) == (
        "it may cost $2.00, and what is queued before it today may cost $10.00 of budget.maxUsdPerDay ($11.00); it can be queued "
        "tomorrow (UTC), or raise the limit"
    )
    assert "queued before it this month may cost $30.00 of budget.maxUsdPerMonth ($31.00)" in why(
        TEN, maxUsdPerMonth=31.0
    )
    assert why(Spent(), maxUsdPerDay=1.0) == (
        "it may cost $2.00, more than budget.maxUsdPerDay ($1.00) as a whole; raise that"
    )


def test_what_a_killed_update_recorded_counts_once() -> None:
    spent, budget = Spent(day=3.0, month=3.0), BudgetSettings(maxUsdPerDay=3.5)
    wanted = [WantedJob("a", recorded=3.0), WantedJob("b"), WantedJob("c")]
    found = find_jobs_over_budget(wanted, costs(a=3.0, b=0.5, c=0.5), spent, budget)
    assert [job.name for job in found] == ["c"]


def test_jobs_that_share_the_idle_time_are_cheaper_together() -> None:
    """One dollar each, and one for all that are queued: two of them cost 3 dollars."""

    def shared(queued: Collection[str]) -> dict[str, float]:
        return {name: 1.0 + 1.0 / len(queued) for name in queued}

    wanted = [WantedJob(name) for name in "abc"]
    for limit, waiting in ((1.9, "abc"), (2.9, "bc"), (3.0, "c"), (4.0, "")):
        found = find_jobs_over_budget(wanted, shared, Spent(), BudgetSettings(maxUsdPerDay=limit))
        assert [job.name for job in found] == list(waiting)


def test_each_job_is_compared_with_the_limits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing all earlier jobs again for each one took ten seconds for a thousand."""
    compared: list[float] = []
    real = limits_module.describe_exceeded_limit

    def count(usd: float, spent: Spent, budget: BudgetSettings) -> str:
        compared.append(usd)
        return real(usd, spent, budget)

    monkeypatch.setattr(limits_module, "describe_exceeded_limit", count)
    names = [f"job-{number}" for number in range(30)]
    usd = costs(**dict.fromkeys(names, 1.0))
    found = find_jobs_over_budget(
        [WantedJob(name) for name in names], usd, Spent(), BudgetSettings(maxUsdPerDay=20.0)
    )
    assert (len(found), len(compared)) == (10, 30)
