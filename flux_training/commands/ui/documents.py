"""What the page shows, as JSON. Pure: texts that nodes wrote have been shortened, and the page inserts them as text only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flux_training.commands.watch.job_status import JobStatus, describe_status
from flux_training.commands.watch.status import job_document, rounded_usd
from flux_training.commands.watch.watcher import ClusterInfo, JobRow, StackStatus
from flux_training.training.bill import FREE
from flux_training.training.runs.run_state import RunState
from flux_training.training.words import make_command

# The maximum number of curves in a chart. More lines could not be told apart.
MAX_CURVES = 12
BAD = (RunState.FAILED, RunState.WITHOUT_WEIGHTS, RunState.STALLED, RunState.LOST)


def stack_document(
    stack: str,
    found: StackStatus | None,
    clusters: Mapping[str, ClusterInfo],
    local: bool,
    error: str,
) -> dict[str, Any]:
    """`error`: why the services could not be read; the rows are then those read before. `clusters`: by group name."""
    rows = found.rows if found else ()
    nothing = (
        f"Nothing is deployed in stack {stack}: {make_command('up', stack)} trains the jobs that it declares."
    )
    return {
        "stack": stack,
        "error": error,
        "note": nothing if found is None and not error else FREE if local else "",
        "ended": found is not None and found.has_ended,
        "spent_usd": rounded_usd(found.spent) if found else None,
        "expected_usd": rounded_usd(_expected_of_all(rows)),
        "jobs": [_row_document(row) for row in rows],
        "clusters": [
            {
                "name": name,
                "nodes": dict(Counter(node.state for node in cluster.instances.values())),
                "usd_an_hour": cluster.price,
            }
            for name, cluster in clusters.items()
        ],
    }


def _row_document(row: JobRow) -> dict[str, Any]:
    return {
        **job_document(row),
        "style": style_of_state(row.status, bool(row.problem)),
        "text": describe_status(row.status),
        "loss_name": row.status.progress.loss_name,
        "expected_usd": rounded_usd(expected_usd(row)),
    }


def rows_with_curves(rows: Sequence[JobRow]) -> tuple[list[JobRow], int]:
    """The jobs in the chart of losses, and how many are left out: if too many have trained a step, those that run come first."""
    trained = [row for row in rows if row.status.progress.step]
    chosen = sorted(trained, key=lambda row: row.status.has_ended)[:MAX_CURVES]
    # Keep the order of the rows, so that a job keeps its colour when another job ends.
    return [row for row in trained if row in chosen], len(trained) - len(chosen)


def style_of_state(status: JobStatus, has_problem: bool) -> str:
    """How to colour the state."""
    if has_problem or status.state in BAD:
        return "bad"
    return "good" if status.state == RunState.COMPLETED else "other"


def expected_usd(row: JobRow) -> float | None:
    """What the whole run will have cost: what it has cost, and its remaining time at the price of its node. None if unknown."""
    if row.spent is None or row.status.has_ended:
        return row.spent
    eta = row.status.progress.eta_seconds
    return None if eta is None or row.price is None else row.spent + eta / 3600 * row.price


def _expected_of_all(rows: Sequence[JobRow]) -> float | None:
    """None unless the cost of every run is known."""
    costs = [cost for row in rows if (cost := expected_usd(row)) is not None]
    return sum(costs) if costs and len(costs) == len(rows) else None
