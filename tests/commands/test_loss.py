"""Terminal, pages and documents show one loss, under one name: the mean of the last steps, and of as many at the start."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flux_training.clients.kelpie import Job
from flux_training.commands.jobs.list import list_command
from flux_training.commands.report.page import run_page
from flux_training.commands.report.runs import ReportedRun
from flux_training.commands.ui.documents import stack_document
from flux_training.commands.ui.past_runs import list_runs
from flux_training.commands.ui.run_view import read_run
from flux_training.commands.watch.job_status import JobStatus, StackJob, describe_status
from flux_training.commands.watch.status import job_document
from flux_training.commands.watch.table import render_status_table
from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.commands.webhook.notice import notice_about_job
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.commands.runs_folder import make_run
from tests.commands.test_list_export import Run
from tests.support.flux import make_checkout
from tests.support.hostile_buckets import as_storage
from tests.training.job_folders import make_job

NAME, END, CHANGE = "loss (mean of 2 steps)", "0.0500", "1.0000 → 0.0500"
LAYOUT = Layout("p/")
KEYS = LAYOUT.run("cat", "a" * 12)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(root)
    make_job(root / "jobs", "cat", images=1)
    return root


@pytest.fixture
def folder(checkout: Path) -> Path:
    """A fetched run whose progress.json also has the loss of the last step alone."""
    found = make_run(checkout / "outputs/dev", "cat", KEYS.run)
    progress = json.loads((found / "progress.json").read_text(encoding="utf-8"))
    (found / "progress.json").write_text(json.dumps({**progress, "loss": 9.0}), encoding="utf-8")
    return found


def row_of(folder: Path) -> JobRow:
    progress = RunProgress.model_validate_json((folder / "progress.json").read_bytes())
    job = StackJob("cat", KEYS.run, "j", 20, KEYS)
    queue_job = Job(id="j", container_group_id="g", status="running")
    return JobRow(JobStatus(job, RunState.RUNNING, "", progress, queue_job), 0.4, 0.4, "machine", "", "")


def test_status_and_its_json_and_the_webhook(folder: Path) -> None:
    row = row_of(folder)
    assert f"{NAME} {END}" in describe_status(row.status)
    console = Console(width=80, file=io.StringIO())
    console.print(render_status_table(StackStatus([row]), 80, local=False))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert END in shown.splitlines()[1]
    assert "Loss: mean of 2 steps." in shown
    document = job_document(row)
    assert [document[key] for key in ("loss_first", "loss", "loss_steps")] == [1.0, 0.05, 2]
    notice = notice_about_job(row.status, "bucket", None)
    assert notice is not None
    assert notice.loss == f"{NAME} {CHANGE}"


def test_list_and_report(folder: Path, run: Run) -> None:
    listed = run(list_command, "cat")
    assert END in listed.splitlines()[1]
    assert "Loss: mean of 2 steps." in listed
    assert json.loads(run(list_command, "cat", "--json"))["jobs"][0]["runs"][0]["loss"] == 0.05
    page = run_page(ReportedRun("cat", KEYS.run, folder), folder.parent.parent, Path("jobs"))
    assert NAME.capitalize() in page
    assert CHANGE in page


def test_the_live_page(folder: Path) -> None:
    (job,) = stack_document("dev", StackStatus([row_of(folder)]), {}, local=True, error="")["jobs"]
    assert (job["loss_name"], job["loss"]) == (NAME, 0.05)
    files = {KEYS.progress: (folder / "progress.json").read_bytes(), f"{KEYS.output}run.json": b"{}"}
    assert dict(read_run(as_storage(files), KEYS, "dev")["figures"])[NAME.capitalize()] == CHANGE
    (past,) = list_runs(as_storage(files), LAYOUT, folder.parent.parent)
    assert (past["loss_name"], past["loss"]) == (NAME, 0.05)
