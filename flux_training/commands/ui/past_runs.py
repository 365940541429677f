"""All runs of the stack in its bucket, with what is known of those that were fetched."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.storage import Storage
from flux_training.commands.report.runs import ReportedRun
from flux_training.training.runs.run import Layout
from flux_training.training.values import mapping, number
from flux_training.training.words import one_line

# The maximum number of runs of all jobs that are listed. The page has a row for each.
MAX_RUNS = 10_000
MAX_STATE_LENGTH, MAX_DATE_LENGTH = 40, 16


def list_runs(storage: Storage, layout: Layout, outputs: Path) -> list[dict[str, Any]]:
    """The runs, newest first; those that were not fetched at the end. Raises ServiceError."""
    found = recorded_runs(storage, layout)[:MAX_RUNS]
    runs = [_run_document(job, run, outputs / job / run) for job, run in found]
    return sorted(runs, key=lambda run: str(run["created"]), reverse=True)


def _run_document(job: str, run: str, folder: Path) -> dict[str, Any]:
    return {"job": job, "run_id": run, **dict(_facts_of_fetched_run(ReportedRun(job, run, folder)))}


def _facts_of_fetched_run(run: ReportedRun) -> Iterator[tuple[str, Any]]:
    record: Mapping[str, Any] = run.record
    yield "fetched", bool(record)
    yield "created", run.created_at[:MAX_DATE_LENGTH].replace("T", " ")
    yield "state", one_line(str(record.get("state") or ""), MAX_STATE_LENGTH)
    yield "loss", run.progress.loss if record else None
    yield "loss_name", run.progress.loss_name
    yield "spent_usd", number(mapping(record.get("cost")).get("actualUsd"))
