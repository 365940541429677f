"""The exit of `flux up` once the jobs have ended: success, or an error for each kind of problem."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flux_training.commands.results.outputs import FetchResult
from flux_training.commands.stack import command as stack
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState

ENTRY = {"runId": "0123456789ab", "steps": 300, "folder": "runs/cat/0123456789ab/"}
Up = Callable[..., list[str]]


def row(name: str, state: str) -> JobRow:
    job = StackJob(name, "0123456789ab", "", 300, RunKeys("r/", name))
    return JobRow(JobStatus(job, RunState(state)), None, None, "", "", "")


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Up:
    """The errors of `flux up` when the jobs end in the given states and the results of `unfetched` cannot be fetched."""

    def run(unfetched: tuple[str, ...] = (), stack_name: str = "dev", **states: str) -> list[str]:
        def fetch(status: JobStatus, *_rest: object) -> FetchResult:
            failed = ["cat.safetensors: No space left on device"] if status.job.name in unfetched else []
            return FetchResult(tmp_path, 1, 0, [], failed)

        rows = [row(name, state) for name, state in states.items()]
        outputs = {"jobs": dict.fromkeys(states, ENTRY)}
        engine = SimpleNamespace(outputs=lambda: outputs, run=lambda *_: 0)
        monkeypatch.setattr(stack, "prepare_engine", lambda *_: engine)
        monkeypatch.setattr(stack, "connection_of", lambda *_: None)
        monkeypatch.setattr(stack, "Watcher", lambda *_: SimpleNamespace(storage=None, local=True))
        monkeypatch.setattr(stack, "follow", lambda _: StackStatus(rows))
        monkeypatch.setattr(stack, "fetch_results", fetch)
        monkeypatch.setattr(stack, "read_record", lambda *_: SimpleNamespace(value=None))
        monkeypatch.setattr(stack, "write_report", lambda *_: tmp_path / "report.html")
        try:
            stack.up.main(["--stack", stack_name], standalone_mode=False)
        except FluxError as error:
            return str(error).splitlines()
        return []

    return run


def test_up_succeeds_when_all_jobs_completed(up: Up) -> None:
    assert up(cat="completed", dog="completed") == []


def test_up_fails_when_results_could_not_be_fetched(up: Up) -> None:
    (error,) = up(("cat",), cat="completed", dog="completed")
    assert error.startswith("results of 1 of the jobs were not fetched (cat); they are in the bucket")
    assert "retry" not in error


def test_up_names_the_failed_jobs_and_how_to_train_them_again(up: Up) -> None:
    failed, unfetched = up(("dog",), cat="failed", dog="completed", owl="canceled")
    assert failed.startswith("2 of the jobs failed (cat, owl)")
    assert "`./flux retry cat` and `make up`" in failed
    assert "(dog)" in unfetched


def test_commands_in_an_error_name_the_stack(up: Up) -> None:
    (failed,) = up(stack_name="prod", cat="failed")
    assert "`./flux retry cat --stack prod` and `make up STACK=prod`" in failed


def test_up_does_not_suggest_to_retry_a_stalled_job(up: Up) -> None:
    """A retry would start from the beginning; the job only waits for another node."""
    (error,) = up(cat="stalled", dog="completed")
    assert error.startswith("1 of the jobs make no progress (cat)")
    assert "retry" not in error
