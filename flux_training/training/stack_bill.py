"""The estimate of a stack as text: its only cluster's, or each cluster's with the total."""

from flux_training.training.bill import (
    CHEAPER,
    budget_findings,
    describe_bill,
    show_dollar_range,
    show_dollars,
)
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.cost import StackBill


def describe_stack_bill(bill: StackBill, local: bool) -> str:
    """What a preview says about the cost; empty if nothing is trained and no replica stays."""
    if bill.only:
        return describe_bill(bill.only, local)
    texts = {name: describe_bill(one, local) for name, one in bill.clusters.items()}
    parts = [f"Cluster {name}: {text}" for name, text in texts.items() if text]
    if sum(bool(one.lines) for one in bill.clusters.values()) > 1:
        possible = show_dollar_range(bill.cost)
        parts.append(
            f"All clusters together: {show_dollars(bill.usd)}{f' ({possible})' if possible else ''}."
        )
    return "\n".join(parts)


def stack_budget_findings(budget: BudgetSettings, bill: StackBill) -> list[str]:
    """One finding per exceeded limit. A limit that cannot be checked counts as exceeded."""
    if bill.only:
        return budget_findings(budget, bill.only)
    per_job = budget.model_copy(update={"max_usd": None})
    found = [text for one in bill.clusters.values() for text in budget_findings(per_job, one)]
    if budget.max_usd is None or not bill.lines:
        return found
    if bill.cost is None:
        unknown = [
            text for one in bill.clusters.values() if one.usd is None for text in budget_findings(budget, one)
        ]
        return list(dict.fromkeys([*found, *unknown]))
    if bill.cost.high > budget.max_usd:
        shares = ", ".join(
            f"{name} {show_dollars(one.cost.high)}"
            for name, one in bill.clusters.items()
            if one.lines and one.cost
        )
        found.append(
            f"budget.maxUsd is {show_dollars(budget.max_usd)}, but this would cost up to {show_dollars(bill.cost.high)} ({shares}); {CHEAPER}"
        )
    return found
