"""The estimate of a stack with several clusters, and its budget."""

from dataclasses import replace
from typing import Any

import pytest

from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.cost import Bill, Line, Rate, StackBill
from flux_training.training.estimates.ranges import Range
from flux_training.training.stack_bill import describe_stack_bill, stack_budget_findings

FIX = "raise the limit, train fewer jobs or steps, or choose another cluster.gpu or priority"
CAT = Line("cat", "new", 2000, Range.exactly(3600.0), Range.exactly(0.36), "the recipe's figure")
CLIP = Line("clip", "new", 500, Range.exactly(1800.0), Range.exactly(1.0), "the recipe's figure")
FLUX = Bill(Rate("RTX 5090 (32 GB)", "high", 0.36), (CAT,))
VIDEO = Bill(Rate("H100", "high", 2.0), (CLIP,))
BOTH = StackBill({"flux": FLUX, "video": VIDEO})
UNKNOWN = Bill(Rate("H100", "batch", None, "no price at priority batch"), (replace(CLIP, cost=None),))


def test_each_cluster_is_shown_with_the_total() -> None:
    text = describe_stack_bill(BOTH, local=True)
    assert "Cluster flux: Estimated cost on RTX 5090 (32 GB) at priority high, $0.360 an hour:" in text
    assert "Cluster video: Estimated cost on H100 at priority high, $2.000 an hour:" in text
    assert text.endswith("\nAll clusters together: $1.36.")


def test_clusters_without_work_are_not_shown() -> None:
    text = describe_stack_bill(StackBill({"flux": FLUX, "video": replace(VIDEO, lines=())}), local=True)
    assert "video" not in text
    assert "together" not in text


@pytest.mark.parametrize(
    ("budget", "bill", "findings"),
    [
        ({"maxUsd": 1.36}, BOTH, []),
        (
            {"maxUsd": 1.35},
            BOTH,
            [
                f"budget.maxUsd is $1.35, but this would cost up to $1.36 (flux $0.36, video $1.00); {FIX}",
            ],
        ),
        (
            {"maxUsd": 9.0, "maxUsdPerJob": 0.5},
            BOTH,
            [
                f"budget.maxUsdPerJob is $0.50, but clip would cost up to $1.00 (500 steps, 30 min); {FIX}",
            ],
        ),
        (
            {"maxUsd": 9.0},
            StackBill({"flux": FLUX, "video": UNKNOWN}),
            [
                "the budget cannot be checked: no price at priority batch; set another cluster.gpu or priority, or remove `budget`"
            ],
        ),
        (
            {"maxUsd": 9.0},
            StackBill({"flux": FLUX, "video": replace(UNKNOWN, lines=())}),
            [],
        ),
    ],
)
def test_the_budget_is_for_all_clusters(budget: dict[str, Any], bill: StackBill, findings: list[str]) -> None:
    assert stack_budget_findings(BudgetSettings.model_validate(budget), bill) == findings
