"""All runs of the stack in its bucket, with what is known of those that were fetched."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.commands.report.runs import ReportedRun
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.run import Layout
from flux_training.training.values import mapping, number
from flux_training.training.words import one_line

# A node can make folders: what is beyond these limits is left out.
MAX_JOBS, MAX_RUNS_PER_JOB = 1000, 1000
MAX_STATE_LENGTH, MAX_DATE_LENGTH = 40, 16


def list_runs(storage: Storage, layout: Layout, outputs: Path) -> list[dict[str, Any]]:
    """The runs, newest first; those that were not fetched at the end. One request, and one for each job. Raises ServiceError."""
    jobs = [job for job in storage.list_folders(layout.runs) if JOB_NAME.fullmatch(job)][:MAX_JOBS]

    def runs_of(job: str) -> list[str]:
        found = filter(RUN_ID.fullmatch, storage.list_folders(f"{layout.runs}{job}/"))
        return sorted(found)[:MAX_RUNS_PER_JOB]

    pairs = zip(jobs, in_parallel(runs_of, jobs), strict=True)
    runs = [_run_document(job, run, outputs / job / run) for job, found in pairs for run in found]
    return sorted(runs, key=lambda run: str(run["created"]), reverse=True)


def _run_document(job: str, run: str, folder: Path) -> dict[str, Any]:
    return {"job": job, "run_id": run, **dict(_facts(ReportedRun(job, run, folder)))}


def _facts(run: ReportedRun) -> Iterator[tuple[str, Any]]:
    record: Mapping[str, Any] = run.record
    yield "fetched", bool(record)
    yield "created", run.created_at[:MAX_DATE_LENGTH].replace("T", " ")
    yield "state", one_line(str(record.get("state") or ""), MAX_STATE_LENGTH)
    yield "loss", run.progress.loss if record else None
    yield "loss_name", run.progress.loss_name
    yield "spent_usd", number(mapping(record.get("cost")).get("actualUsd"))
