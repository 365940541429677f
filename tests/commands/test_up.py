"""The exit of `flux up` once the jobs have ended: success, or an error for each kind of problem."""

import io
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import rich_click as click

from flux_training.commands.results.outputs import FetchResult
from flux_training.commands.stack import command as stack
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import UNEXPLAINED, RunState
from flux_training.training.settings import StackSettings

ENTRY = {"runId": "0123456789ab", "steps": 300, "folder": "runs/cat/0123456789ab/"}
Up = Callable[..., list[str]]


# The exit code of a refresh in this test while another update runs.
LOCKED = 255


def row(name: str, state: str) -> JobRow:
    """`state` is one of RunState, or one and a reason: `failed: out of memory`."""
    job = StackJob(name, "0123456789ab", "", 300, RunKeys("r/", name))
    state, _, reason = state.partition(": ")
    return JobRow(JobStatus(job, RunState(state), reason), None, None, "", "", "")


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Up:
    """The errors of `flux up` when the jobs end in the given states and the results of `unfetched` cannot be fetched.

    Those of `fetched` were fetched by an earlier `up`. `declared_later`: the run ids after the wait, by job; by default the same.
    """

    def run(
        unfetched: tuple[str, ...] = (),
        stack_name: str = "dev",
        fetched: tuple[str, ...] = (),
        declared_later: dict[str, str] | None = None,
        refresh_codes: tuple[int, ...] = (),
        **states: str,
    ) -> list[str]:
        def fetch(status: JobStatus, *_rest: object) -> FetchResult:
            failed = ["cat.safetensors: No space left on device"] if status.job.name in unfetched else []
            return FetchResult(tmp_path, 0 if status.job.name in fetched else 1, 0, [], failed)

        (tmp_path / "report.html").touch()

        rows = [row(name, state) for name, state in states.items()]
        jobs = dict.fromkeys(states, ENTRY)
        later = (
            jobs if declared_later is None else {n: ENTRY | {"runId": i} for n, i in declared_later.items()}
        )
        outputs = iter([{"jobs": jobs}, {"jobs": jobs}, {"jobs": later}])
        codes = iter(refresh_codes)
        engine = SimpleNamespace(
            outputs=lambda: next(outputs),
            run=lambda command, *_: next(codes, 0) if command == "refresh" else 0,
            wait_for_other_updates=lambda _on_wait: None,
            is_updated_by_others=refresh_codes[:1] == (LOCKED,),
        )
        monkeypatch.setattr(stack, "prepare_engine", lambda *_: engine)
        monkeypatch.setattr(stack, "uses_local_cloud", lambda _root, name: name == "dev")
        monkeypatch.setattr(
            stack, "watch_deployed_jobs", lambda *_: SimpleNamespace(storage=None, local=True)
        )
        monkeypatch.setattr(stack, "follow_until_ended", lambda _: StackStatus(rows))
        monkeypatch.setattr(stack, "fetch_results", fetch)
        monkeypatch.setattr(stack, "read_record", lambda *_: SimpleNamespace(value=None))
        monkeypatch.setattr(stack, "write_report", lambda *_: tmp_path / "report.html")
        try:
            stack.up.main(["--stack", stack_name, "--yes"], standalone_mode=False)
        except FluxError as error:
            return str(error).splitlines()
        return []

    return run


def test_an_update_that_begins_before_the_last_refresh_is_waited_for(up: Up) -> None:
    assert up(refresh_codes=(LOCKED, LOCKED), cat="completed") == []
    with pytest.raises(SystemExit, match=r"^1$"):
        up(refresh_codes=(1,), cat="completed")


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


def test_up_refers_only_to_a_cause_that_was_shown(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = up(cat="failed: out of memory")
    assert "fix: remove the cause shown above, then `./flux retry cat`" in shown
    (unexplained,) = up(cat="failed: out of memory", dog="completed without weights")
    look = "fix: look for the cause in the output of `./flux logs dog` and remove it, then `./flux retry cat`"
    assert look in unexplained
    assert "dog: completed without weights; its files are in" in capsys.readouterr().out
    (lost,) = up(cat=f"lost: {UNEXPLAINED[RunState.LOST]}")
    assert "the output of `./flux logs cat`" in lost


def test_runs_that_were_canceled_or_replaced_on_purpose_are_no_failures(
    up: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"dog": "fedcba987654", "owl": ENTRY["runId"]}
    (error,) = up(declared_later=later, cat="canceled", dog="canceled", owl="failed")
    assert error.startswith("1 of the jobs failed (owl)")
    shown = " ".join(capsys.readouterr().out.split())
    assert "cat: another update canceled it: it was not declared, or had `skip: true`" in shown
    assert (
        "dog: run 0123456789ab was replaced by a newer run, fedcba987654; `make up` waits for that one"
        in shown
    )
    assert up(declared_later={}, cat="canceled") == []
    (error,) = up(declared_later={}, cat="failed")
    assert error.startswith("1 of the jobs failed (cat)")


def test_commands_in_an_error_name_the_stack(up: Up) -> None:
    (failed,) = up(stack_name="prod", cat="failed")
    assert "`./flux retry cat --stack prod` and `make up STACK=prod`" in failed


def test_results_that_were_fetched_before_are_not_listed_again(
    up: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    assert up(fetched=("cat",), stack_name="prod", cat="completed", dog="completed") == []
    shown = capsys.readouterr().out
    assert "cat: " not in shown
    assert "dog: " in shown
    assert "The results of 1 other job were fetched before; `./flux list --stack prod` names them" in shown
    assert "Next: open outputs/prod/dog/0123456789ab/report.html in a browser" in shown
    assert "`./flux export dog --to ~/loras/dog --stack prod` makes a folder to use or publish" in shown
    assert up(fetched=("cat",), cat="completed") == []
    shown = capsys.readouterr().out
    assert "The results of all deployed jobs were fetched before; `./flux list` names them" in shown
    assert "Next" not in shown


def test_up_does_not_suggest_to_retry_a_stalled_job(up: Up) -> None:
    """A retry would start from the beginning; the job only waits for another node."""
    (error,) = up(cat="stalled", dog="completed")
    assert error.startswith("1 of the jobs make no progress (cat)")
    assert "retry" not in error


class RecordingEngine:
    """Notes the Pulumi commands that it is asked to run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.preview_result = (0, True)

    def show_preview(self) -> tuple[int, bool]:
        self.ran.append("preview")
        return self.preview_result

    def run(self, *arguments: str) -> int:
        self.ran.append(arguments[0])
        return 0

    def outputs(self) -> dict[str, object]:
        return {}

    def wait_for_other_updates(self, on_wait: Callable[[int], None]) -> None:
        """No other update is running."""

    def export(self) -> dict[str, object]:
        group = {"type": "pulumi-python:dynamic/flux:ContainerGroup", "outputs": {"name": "flux"}}
        job = {"type": "pulumi-python:dynamic/flux:TrainingJob", "outputs": {"status": "running"}}
        return {
            "deployment": {"resources": [{"urn": "stack::cluster", **group}, {"urn": "stack::cat", **job}]}
        }


def settings(autoscale: bool) -> StackSettings:
    storage, cluster = {"bucket": "bucket-name"}, {"autoscale": autoscale}
    return StackSettings.model_validate(
        {"cloud": "salad", "storage": storage, "jobs": {}, "cluster": cluster}
    )


@pytest.fixture
def paid_stack(monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    """A stack that is not on the local cloud."""
    engine = RecordingEngine()
    monkeypatch.setattr(stack, "prepare_engine", lambda *_: engine)
    monkeypatch.setattr(stack, "uses_local_cloud", lambda *_: False)
    monkeypatch.setattr(stack, "stack_settings", lambda *_: settings(autoscale=True))
    return engine


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """A pseudo-terminal as standard input; call it with what the user types."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda text: os.write(ours, text.encode())
    os.close(ours)


@pytest.mark.parametrize(
    ("command", "before"), [(stack.up, ["preview"]), (stack.destroy, [])], ids=["up", "destroy"]
)
def test_without_consent_nothing_changes(
    paid_stack: RecordingEngine, terminal: Callable[[str], int], command: click.Command, before: list[str]
) -> None:
    terminal("n\n")
    with pytest.raises(FluxError, match="nothing was changed"):
        command.main(["--stack", "prod"], standalone_mode=False)
    assert paid_stack.ran == before


def test_with_consent_the_stack_is_changed(
    paid_stack: RecordingEngine, terminal: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal("y\n")
    stack.up.main(["--stack", "prod", "--no-wait"], standalone_mode=False)
    assert paid_stack.ran == ["preview", "up"]
    terminal("y\n")
    stack.destroy.main(["--stack", "prod"], standalone_mode=False)
    assert paid_stack.ran[-1] == "destroy"
    printed = capsys.readouterr().out
    assert "container group flux" in printed
    assert "had not ended when the state was updated: cat." in printed


@pytest.mark.usefixtures("terminal")
def test_without_changes_nobody_is_asked(
    paid_stack: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    paid_stack.preview_result = (0, False)
    stack.up.main(["--stack", "prod", "--no-wait"], standalone_mode=False)
    assert paid_stack.ran == ["preview", "up"]
    assert "Nothing changes" in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_a_failed_preview_ends_up(paid_stack: RecordingEngine) -> None:
    paid_stack.preview_result = (255, True)
    with pytest.raises(SystemExit, match=r"^255$"):
        stack.up.main(["--stack", "prod"], standalone_mode=False)
    assert paid_stack.ran == ["preview"]


def test_replicas_that_nobody_would_stop_are_not_started(
    paid_stack: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "stack_settings", lambda *_: settings(autoscale=False))
    with pytest.raises(
        FluxError, match=r"--no-wait with cluster.autoscale: false; .* its replicas would keep running"
    ):
        stack.up.main(["--stack", "prod", "--yes", "--no-wait"], standalone_mode=False)
    assert paid_stack.ran == []


@pytest.mark.parametrize("command", [stack.up, stack.destroy], ids=["up", "destroy"])
def test_without_a_terminal_consent_is_an_option(
    paid_stack: RecordingEngine, monkeypatch: pytest.MonkeyPatch, command: click.Command
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.delenv("MAKELEVEL", raising=False)
    with pytest.raises(click.UsageError, match=f"`./flux {command.name} --yes --stack prod` does not ask"):
        command.main(["--stack", "prod"], standalone_mode=False)
    monkeypatch.setenv("MAKELEVEL", "1")
    with pytest.raises(click.UsageError, match=f"`make {command.name} YES=1 STACK=prod` does not ask"):
        command.main(["--stack", "prod"], standalone_mode=False)
    assert paid_stack.ran == []


def test_the_total_estimate_is_that_of_the_jobs_that_are_listed() -> None:
    trained = {"actualUsd": 0.3, "actualHours": 0.6, "estimateUsd": 0.4}
    shown = stack.cost_table({"cat": trained, "dog": trained, "owl": {"estimateUsd": 0.4}}, local=False)
    assert "owl" not in shown
    assert "total  about $0.60 (estimated $0.80)" in shown
