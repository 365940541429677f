"""The exact text of cost estimates and budget errors."""

from dataclasses import replace
from typing import Any

import pytest

from flux_training.training.bill import (
    bill_heading,
    bill_rows,
    bill_table,
    budget_findings,
    cost_record_of_run,
    describe_actual_cost,
    describe_bill,
    describe_cost_without_work,
    estimate_record,
    short_limit_warnings,
    show_dollars,
)
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.cost import Bill, Line, Rate, StackBill
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.records import EstimateRecord

exact = Range.exactly
RATE = Rate("RTX 5090 (32 GB)", "high", 0.36)
NO_PRICE = Rate("RTX 5090 (32 GB)", "batch", None, "no price at priority batch")
CAT = Line("cat", "new", 2000, exact(3600.0), exact(0.36), "the recipe's figure")
DOG = Line("a-large-dog", "queued", 12, exact(90.0), exact(0.009), "1 finished run like it")
UNKNOWN = Line("bird", "new", 5, None, None, "the speed of it is unknown")
FIX = "raise the limit, train fewer jobs or steps, or choose another cluster.gpu or priority"


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        (0.0, "$0.00"),
        (0.0001, "$0.0001"),
        (0.094, "$0.0940"),
        (0.095, "$0.10"),
        (1.0, "$1.00"),
        (1234.5, "$1234.50"),
    ],
)
def test_small_costs_are_not_shown_as_zero(usd: float | None, text: str) -> None:
    assert show_dollars(usd) == text


def test_an_unknown_price_is_explained() -> None:
    assert bill_heading(Bill(RATE, ())) == "RTX 5090 (32 GB) at priority high, $0.360 an hour"
    assert bill_heading(Bill(NO_PRICE, ())) == (
        "RTX 5090 (32 GB) at priority batch, price unknown: no price at priority batch"
    )


def test_preview_text_is_exact() -> None:
    bill = Bill(RATE, (CAT, DOG), idle=exact(900.0), replicas=2, always=1)
    assert describe_bill(bill, local=True).splitlines() == [
        "Estimated cost on RTX 5090 (32 GB) at priority high, $0.360 an hour:",
        "  cat          2,000 steps               60 min    $0.36",
        "  a-large-dog  12 steps, already queued   2 min  $0.0090",
        "  idle         2 replicas scaling down   15 min  $0.0900",
        "  total                                  76 min    $0.46",
        (
            "Times from the recipe's figure; 1 finished run like it. "
            "The local cloud is free: its prices are examples."
        ),
        "cluster.minReplicas keeps 1 rented even without work; no total includes that: $8.64 a day.",
    ]
    assert describe_bill(Bill(RATE, (CAT, CAT)), local=False).splitlines()[-1] == (
        "Times from the recipe's figure."
    )


@pytest.mark.parametrize(
    ("replicas", "local", "said"), [(1, False, True), (1, True, False), (2, False, False)]
)
def test_a_single_replica_makes_retries_slower(replicas: int, local: bool, said: bool) -> None:
    bill = Bill(RATE, (CAT,), replicas=replicas)
    assert ("an attempt that fails costs up to 5 idle minutes more" in describe_bill(bill, local)) == said


@pytest.mark.parametrize(
    ("hours", "warned"),
    [
        ({"cat": 0.5}, ["cat"]),
        ({"cat": 1.0}, []),
        ({"cat": None, "bird": 0.1}, []),
        ({"a-large-dog": 0.01}, ["a-large-dog"]),
    ],
)
def test_a_limit_below_the_estimate_is_a_warning(hours: dict[str, float | None], warned: list[str]) -> None:
    bill = StackBill({"": Bill(RATE, (CAT, DOG, UNKNOWN))})
    found = short_limit_warnings(bill, hours)
    assert [one.partition(":")[0] for one in found] == warned
    assert all("raise maxHours, or lower train.steps" in one for one in found)


def test_columns_fit_their_content() -> None:
    lines = (Line("j", "new", 1, exact(1.0), None, ""), Line("j", "new", 1, exact(36000.0), exact(100.0), ""))
    assert bill_table(Bill(RATE, lines)) == "\n".join(
        [
            "  j      1 steps     1 s  unknown",
            "  j      1 steps  10.0 h  $100.00",
            "  total           10.0 h  unknown",
        ]
    )


def test_an_unknown_cost_makes_the_total_unknown() -> None:
    bill = Bill(RATE, (CAT, UNKNOWN), idle=exact(480.0), replicas=1)
    assert bill_rows(bill) == [
        ("cat", "2,000 steps", "60 min", "$0.36", ""),
        ("bird", "5 steps", "unknown", "unknown", ""),
        ("idle", "1 replica scaling down", "8 min", "$0.0480", ""),
        ("total", "", "unknown", "unknown", ""),
    ]
    assert bill_rows(Bill(RATE, (CAT,), exact(480.0), 1))[-1] == ("total", "", "68 min", "$0.41", "")


def test_standing_charge_is_shown_without_a_price() -> None:
    assert describe_bill(Bill(RATE, ()), local=False) == ""
    assert describe_cost_without_work(Bill(RATE, (CAT,))) == ""
    assert describe_bill(Bill(RATE, (CAT,)), local=False).endswith("figure.")
    assert describe_cost_without_work(Bill(NO_PRICE, (), always=3)) == (
        "cluster.minReplicas keeps 3 rented even without work; no total includes that."
    )


def test_costs_above_the_budget_are_reported() -> None:
    bill = Bill(RATE, (CAT, DOG))
    assert budget_findings(limits(maxUsd=0.37, maxUsdPerJob=0.36), bill) == []
    per_job, total = budget_findings(limits(maxUsd=0.35, maxUsdPerJob=0.35), bill)
    assert per_job == (
        f"budget.maxUsdPerJob is $0.35, but cat would cost up to $0.36 (2,000 steps, 60 min); {FIX}"
    )
    assert total == (
        "budget.maxUsd is $0.35, but this would cost up to $0.37 on RTX 5090 (32 GB) at priority high, $0.360 an hour:\n"
        f"{bill_table(bill)}\n{FIX}"
    )
    assert budget_findings(limits(maxUsd=0.36), Bill(RATE, (CAT,))) == []


def test_a_budget_is_compared_with_the_high_end() -> None:
    wide = replace(CAT, time=Range(3000.0, 3600.0, 7200.0), cost=Range(0.3, 0.36, 0.72))
    bill = Bill(RATE, (wide,))
    assert budget_findings(limits(maxUsd=0.72, maxUsdPerJob=0.72), bill) == []
    per_job, total = budget_findings(limits(maxUsd=0.71, maxUsdPerJob=0.71), bill)
    assert per_job.startswith(
        "budget.maxUsdPerJob is $0.71, but cat would cost up to $0.72 (2,000 steps, 50 min to 2.0 h)"
    )
    assert total.startswith("budget.maxUsd is $0.71, but this would cost up to $0.72 on")
    assert bill_table(bill).splitlines()[0] == "  cat    2,000 steps  60 min  $0.36  $0.30 to $0.72"


def test_a_budget_cannot_be_checked_if_a_cost_is_unknown() -> None:
    assert budget_findings(limits(maxUsdPerJob=0.01), Bill(RATE, (CAT, UNKNOWN))) == [
        "the budget cannot be checked: the speed of it is unknown; "
        "set another cluster.gpu or priority, or remove `budget`"
    ]
    unpriced = Bill(NO_PRICE, (replace(CAT, cost=None),))
    (finding,) = budget_findings(limits(maxUsd=1000.0), unpriced)
    assert finding.startswith("the budget cannot be checked: no price at priority batch")
    assert budget_findings(limits(), unpriced) == []
    assert budget_findings(limits(maxUsd=0, maxUsdPerJob=0), Bill(NO_PRICE, ())) == []


def test_estimate_record_for_run_json() -> None:
    known = Line("exact", "new", 7, exact(1234.5678), Range(0.1, 0.1234567, 0.2), "somewhere")
    bill = Bill(RATE, (CAT, known, UNKNOWN), exact(900.0))
    of_gpu = {"gpu": "RTX 5090 (32 GB)", "priority": "high", "usd_an_hour": 0.36, "idle_seconds": 300.0}
    assert estimate_record(bill, "exact") == {
        "usd": 0.1235,
        "seconds": 1234.6,
        "usd_low": 0.1,
        "usd_high": 0.2,
        **of_gpu,
        "basis": "somewhere",
    }
    assert estimate_record(bill, "bird") == {
        "usd": None,
        "seconds": None,
        "usd_low": None,
        "usd_high": None,
        **of_gpu,
        "basis": UNKNOWN.basis,
    }
    assert estimate_record(bill, "not there") is None


def test_cost_in_the_stack_outputs() -> None:
    estimate = EstimateRecord.model_validate(estimate_record(Bill(RATE, (CAT,), exact(900.0)), "cat"))
    assert cost_record_of_run(estimate, 1234.5678) == {
        "gpu": "RTX 5090 (32 GB)",
        "usdAnHour": 0.36,
        "estimateUsd": 0.36,
        "estimateHours": 1.0,
        "actualHours": 0.3429,
        "idleHours": 0.25,
        "actualUsd": 0.1235,
    }
    assert cost_record_of_run(None, 3600) == {"actualHours": 1.0}
    assert cost_record_of_run(estimate, None) == {
        "gpu": "RTX 5090 (32 GB)",
        "usdAnHour": 0.36,
        "estimateUsd": 0.36,
        "estimateHours": 1.0,
        "idleHours": 0.25,
    }


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ({"actualUsd": 0.5, "actualHours": 1.0}, "about $0.50 for 60 min of GPU"),
        ({}, ""),
        ({"actualUsd": 0.5}, ""),
        ({"actualHours": 1.0}, ""),
        (
            {"actualUsd": 0.0, "actualHours": 0.0, "estimateUsd": 0.0},
            "about $0.00 for 0 s of GPU (estimated $0.00)",
        ),
    ],
)
def test_actual_cost_needs_price_and_hours(cost: dict[str, Any], text: str) -> None:
    assert describe_actual_cost(cost) == text


def limits(**found: float) -> BudgetSettings:
    return BudgetSettings.model_validate(found)
