"""Which jobs fit into the limits of a day and of a month."""

import pytest

from flux_training.training.budget.entries import Spent
from flux_training.training.budget.limits import WantedJob, jobs_that_wait
from flux_training.training.cluster_settings import BudgetSettings

TEN = Spent(day=10.0, month=30.0)


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
    wanted = [WantedJob(name, 1.0) for name in "abc"]
    found = jobs_that_wait(wanted, spent, BudgetSettings.model_validate(limits))
    assert [job.name for job in found] == waiting


def test_priorities_come_first_and_cheaper_jobs_are_not_held_up() -> None:
    wanted = [WantedJob("a", 1.0), WantedJob("b", 2.5, priority=1), WantedJob("c", 0.5), WantedJob("d", 0.5)]
    found = jobs_that_wait(wanted, Spent(), BudgetSettings(maxUsdPerDay=3.5))
    assert [job.name for job in found] == ["c", "d"]
    found = jobs_that_wait(wanted, Spent(), BudgetSettings(maxUsdPerDay=3.0))
    assert [job.name for job in found] == ["a", "d"]


def test_a_waiting_job_says_which_limit_and_until_when() -> None:
    def why(spent: Spent, **limits: float) -> str:
        (job,) = jobs_that_wait([WantedJob("a", 2.0)], spent, BudgetSettings.model_validate(limits))
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
    wanted = [WantedJob("a", 3.0, recorded=3.0), WantedJob("b", 0.5), WantedJob("c", 0.5)]
    assert [job.name for job in jobs_that_wait(wanted, spent, budget)] == ["c"]
