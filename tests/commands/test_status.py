"""The status of jobs: in one line, in the table, and what is wrong with them."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from flux_training.clients.gpu_classes import GpuClass
from flux_training.clients.kelpie import Job
from flux_training.clients.salad import ContainerGroup, Instance
from flux_training.commands.stack.declared import undeployed_jobs, withdrawn_jobs
from flux_training.commands.watch.job_status import (
    JobStatus,
    StackJob,
    describe_status,
    find_problems,
    stack_jobs,
)
from flux_training.commands.watch.logs import log_lines_of_job, print_summary
from flux_training.commands.watch.status import undeployed_jobs_note
from flux_training.commands.watch.sweeps import sweeps_among_jobs
from flux_training.commands.watch.table import NOTHING, render_status_table
from flux_training.commands.watch.trainer import assumed_trainers, trainer_note
from flux_training.commands.watch.watcher import ClusterInfo, JobRow, StackStatus, job_row, usd_an_hour
from flux_training.training.cost import usd_of
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import (
    CANCELED_IN_QUEUE,
    NO_REPORT,
    UNEXPLAINED,
    RunState,
    show_duration,
)
from flux_training.training.train_yml.trainer_version import PUBLIC_IMAGE_DATE
from tests.support.flux import STACK_FILE, make_checkout

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def status(name: str, state: str, /, minutes: float = 0, reason: str = "", **progress: object) -> JobStatus:
    queue_status = "running" if state == "stalled" else state
    queue_job = Job(id=name, container_group_id="g", status=queue_status, created=NOW - timedelta(minutes=minutes),
                    machine_id="machine-12345")  # fmt: skip
    job = StackJob(name, "0123456789ab", name, 300, RunKeys(f"runs/{name}/0123456789ab/", name))
    return JobStatus(job, RunState(state), reason, RunProgress.model_validate(progress), queue_job)


def row(found: JobStatus, problem: str = "", spent: float | None = None) -> JobRow:
    return JobRow(found, 0.45, spent, "machine-12345", "", problem)


@pytest.mark.parametrize(
    ("statuses", "wrong"),
    [
        ([status("a", "completed"), status("b", "running"), status("c", "pending", 5)], set()),
        ([status("a", "running"), status("b", "pending", 300)], set()),
        ([status("a", "completed"), status("b", "pending", 16)], {"b"}),
        (
            [status("a", "failed", reason="why"), status("b", "canceled"), status("c", "lost")],
            {"a", "b", "c"},
        ),
        ([status("a", "completed without weights"), status("b", "stalled", reason="no node")], {"a", "b"}),
    ],
)
def test_jobs_that_failed_or_make_no_progress_are_problems(
    statuses: list[JobStatus], wrong: set[str]
) -> None:
    assert set(find_problems(statuses, NOW)) == wrong


def test_a_job_that_was_canceled_on_purpose_is_no_problem() -> None:
    canceled = [status("cat", "canceled", reason=CANCELED_IN_QUEUE), status("dog", "failed", reason="why")]
    assert set(find_problems(canceled, NOW, withdrawn=["cat", "dog"])) == {"dog"}
    found = find_problems(canceled, NOW, "prod")["cat"]
    assert found == f"canceled: {CANCELED_IN_QUEUE}; `make up STACK=prod` queues it again"


def test_a_failure_without_a_cause_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    lost = status("cat", "lost", reason=UNEXPLAINED[RunState.LOST])
    assert find_problems([lost], NOW)["cat"].endswith("; `./flux logs cat` shows its output")
    print_summary(JobRow(lost, None, None, "", "", find_problems([lost], NOW)["cat"]), "dev")
    assert "flux logs" not in capsys.readouterr().out
    known = status("cat", "failed", reason=f"{UNEXPLAINED[RunState.FAILED]}: out of memory")
    assert find_problems([known], NOW)["cat"].endswith(": out of memory")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")],
)
def test_durations_are_rounded(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "reason", "progress", "text"),
    [
        ("pending", "", {}, "pending"),
        ("running", "", {}, "running"),
        ("running", "", {"state": "training", "step": 120, "steps": 300, "loss_smoothed": 0.41, "loss_steps": 30, "eta_seconds": 61},
         "training, step 120 of 300, loss (mean of 30 steps) 0.4100, about 61 s left"),
        ("running", "", {"state": "training", "message": "Caching latents 12/40"}, "training, Caching latents 12/40"),
        ("running", "", {"state": "starting", "step": None, "loss_smoothed": None, "eta_seconds": "?"}, "starting"),
        ("running", "", {"state": "starting", "download_seconds": 12.3}, "starting, downloading for 12 s"),
        ("running", "", {"state": "finished", "step": 300, "steps": 300}, "uploading, step 300 of 300"),
        ("failed", "the trainer ended with 1", {"step": 3}, "failed: the trainer ended with 1"),
        ("completed", "", {"state": "finished", "step": 300}, "completed"),
    ],
)  # fmt: skip
def test_a_status_is_described_in_one_line(
    state: str, reason: str, progress: dict[str, object], text: str
) -> None:
    assert describe_status(status("cat", state, reason=reason, **progress)) == text


def test_problems_end_with_commands_for_their_job_and_stack() -> None:
    unreadable = status("cat", "failed", reason=f"the job failed: {NO_REPORT}")
    stalled = status("dog", "stalled", reason="no node has reported it")
    found = find_problems([unreadable, stalled], NOW, "prod")
    assert found["cat"].endswith("is full; `./flux logs cat --stack prod` shows its output")
    assert found["dog"].endswith(
        "`./flux doctor --stack prod` checks the nodes' keys, `./flux logs dog --stack prod` shows the node's output; "
        "`./flux cancel dog --stack prod` and `make up STACK=prod` cancel the job and replace a node that hangs, which may "
        "cost money until then"
    )


@pytest.mark.parametrize(("gpu_seconds", "is_problem"), [(0.0, True), (12.5, False), (None, False)])
def test_a_run_that_finished_without_training_is_a_problem(
    gpu_seconds: float | None, is_problem: bool
) -> None:
    """Its node found final weights that somebody had put there."""
    found = status("cat", "completed", state="finished", gpu_seconds=gpu_seconds)
    problems = find_problems([found], NOW)
    assert ("trained nothing" in problems.get("cat", "")) == is_problem


def test_a_stalled_job_has_ended_although_the_queue_calls_it_running() -> None:
    stalled = status("cat", "stalled", reason="no node has reported it")
    assert stalled.has_ended
    assert describe_status(stalled) == "stalled: no node has reported it"


@pytest.mark.parametrize(
    ("queue_status", "has_ended"), [("running", False), ("completed", True), (None, True)]
)
def test_a_run_with_weights_has_ended_once_its_worker_has_reported(
    queue_status: str | None, has_ended: bool
) -> None:
    job = status("cat", "completed").job
    queue_job = Job(id="i", container_group_id="g", status=queue_status) if queue_status else None
    found = JobStatus(job, RunState.COMPLETED, queue_job=queue_job)
    assert found.has_ended == has_ended
    assert (describe_status(found) == "the weights are in the bucket; the worker is finishing") != has_ended


def test_jobs_are_read_from_the_outputs() -> None:
    job = status("cat", "running").job
    entry = {"runId": job.run_id, "kelpieId": "cat", "steps": 300, "folder": job.keys.base}
    assert stack_jobs({"jobs": {"cat": entry}}) == [job]
    costs = {"jobs": {"cat": {"idleHours": 0.1}, "dog": {"idleHours": 9.0}}}
    assert stack_jobs({"jobs": {"cat": entry}, "cost": costs}) == [replace(job, idle_seconds=360.0)]
    assert stack_jobs({}) == []


@pytest.mark.parametrize(
    ("reported", "assumed", "cluster", "command"),
    [
        ("0.11.0", "2025-04-01", "", "config set --path cluster.trainerDate 2026-07-21 --stack prod`"),
        ("0.11.0", "2025-04-01", "small", "config set --path clusters.small.trainerDate 2026-07-21"),
        ("99.0", "2025-04-01", "", "a newer version of this project may know it"),
    ],
)
def test_another_trainer_than_lint_assumed_is_a_note_with_its_setting(
    reported: str, assumed: str, cluster: str, command: str
) -> None:
    note = trainer_note(reported, assumed, cluster, "prod")
    assert command in note
    assert reported in rendered(StackStatus([replace(row(TRAINING), trainer_note=note)]), 250)
    assert trainer_note(reported, "", cluster, "prod") == ""


def test_the_stacks_file_says_which_trainer_lint_assumes(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: flux-training\nruntime: python\n")
    settings = {
        "cloud": "salad",
        "storage": {"bucket": "pictures"},
        "jobs": {"cat": {"cluster": "own"}},
        "clusters": {"flux": {}, "own": {"image": "docker.io/me/trainer:1", "trainerDate": "2026-01-01"}},
    }
    config = {f"flux-training:{key}": value for key, value in settings.items()}
    (tmp_path / "Pulumi.prod.yaml").write_text(json.dumps({"config": config}))
    assert assumed_trainers(tmp_path, "prod") == {"flux": PUBLIC_IMAGE_DATE, "own": "2026-01-01"}
    assert assumed_trainers(tmp_path, "other") == {}


def rendered(stack: StackStatus, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(render_status_table(stack, width, local=False))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


TRAINING = status("chelsea-cat", "running", state="training", step=120, loss_smoothed=0.4123, eta_seconds=3700,
                  gpu_seconds=3600, restarts=2)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_at_any_width_a_row_is_one_line_with_the_important_columns(width: int) -> None:
    lines = rendered(StackStatus([row(TRAINING, spent=0.45)]), width).splitlines()
    assert all(len(line) <= width for line in lines)
    for text in ("chelsea-cat", "training", "120/300", "0.4123", "62 min", "$0.45"):
        assert text in lines[1]
    assert ("machine-" in lines[1]) == (width >= 84)


def test_problems_are_below_the_table_and_markup_in_them_is_plain_text() -> None:
    failed = status("cat", "failed", reason="[bold]x[/bold]")
    stack = StackStatus([row(failed, "failed: [bold]x[/bold]")])
    assert not stack.is_well
    assert "cat: failed: [bold]x[/bold]" in rendered(stack, 100)


def test_steps_that_taught_nothing_and_phases_are_named_below_the_table() -> None:
    found = status("cat", "running", state="training", step=9, skipped_batches=3, nan_losses=1)
    caching = status("dog", "running", state="training", message="Caching latents 12/40")
    text = " ".join(rendered(StackStatus([row(found), row(TRAINING), row(caching)]), 200).split())
    assert "dog: Caching latents 12/40" in text
    assert "cat: 3 steps skipped for lack of memory, 1 step without a loss (NaN)" in text


def test_the_jobs_of_a_sweep_are_shown_with_the_settings_in_which_they_differ() -> None:
    found = replace(row(TRAINING), differs="rank 16, learning rate 1e-4")
    lines = rendered(StackStatus([found, row(status("dog", "pending"))]), 80).splitlines()
    assert "chelsea-cat: rank 16, learning rate 1e-4" in lines
    assert not any(line.startswith("dog:") for line in lines)


def test_paid_time_that_trained_nothing_is_shown_with_advice_where_it_costs_money() -> None:
    done = status("cat", "completed", state="finished", gpu_seconds=3000, start_seconds=120, restarts=0)
    idle = replace(done, job=replace(done.job, idle_seconds=420.0))
    stack = StackStatus([row(idle, spent=0.4)])
    text = " ".join(rendered(stack, 200).split())
    assert (
        "Paid without training: 9 min of 57 min (loading, caching, first samples 2 min, idle after the last job 7 min) "
        "- 12% of the paid time is idle after the last job: queue several jobs at once"
    ) in text
    console = Console(width=200, file=io.StringIO())
    console.print(render_status_table(stack, 200, local=True))
    assert isinstance(console.file, io.StringIO)
    assert "Paid without" not in console.file.getvalue()


def test_a_node_cannot_print_control_characters() -> None:
    assert "\x1b" not in rendered(
        StackStatus([row(status("cat", "running", state="tra\x1b[2Jin\ring"))]), 100
    )


def test_the_price_is_that_of_the_most_expensive_class_at_the_groups_priority() -> None:
    classes = [
        GpuClass.model_validate({"id": name, "name": name, "prices": [{"priority": "low", "price": price}]})
        for name, price in (("a", "0.20"), ("b", "0.30"), ("c", "9.00"))
    ]
    container = {"image": "i", "resources": {"cpu": 1, "memory": 1024, "gpu_classes": ["a", "b"]}}
    raw = {"id": "g", "name": "g", "replicas": 1, "priority": "low", "container": container,
           "current_state": {"status": "running"}}  # fmt: skip
    group = ContainerGroup.model_validate(raw)
    assert usd_an_hour(group, classes) == 0.30
    assert usd_an_hour(group.model_copy(update={"priority": "high"}), classes) is None


def test_the_cost_is_unknown_without_time_or_price() -> None:
    assert usd_of(5400, 0.30) == pytest.approx(0.45)
    assert (usd_of(None, 1.0), usd_of(1, None)) == (None, None)


def test_a_job_gets_its_own_lines_of_a_nodes_log() -> None:
    lines = ["boot", "1 node received job a", "x", "2 node received job b", "y", "3 node received job a", "z"]
    assert log_lines_of_job(lines, "a") == ["1 node received job a", "x", "3 node received job a", "z"]
    assert log_lines_of_job(lines, "c") == []


def test_only_transfers_that_failed_are_shown_between_the_trainers_lines() -> None:
    transfers = "2026-11-30 07:50:56,552 localcloud.node.transfers "
    lines = ["1 node received job a", "cat:  10%", "error uploading x"]
    done = [f"{transfers}uploaded runs/cat/loss.csv", f"{transfers}4 files to download from bucket/runs"]
    failed = f"{transfers}error uploading runs/cat/loss.csv: 503"
    assert log_lines_of_job([*lines[:2], *done, failed, lines[2]], "a") == [*lines[:2], failed, lines[2]]


def test_the_jobs_of_a_sweep_are_those_with_the_same_images_in_the_stack_file(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "checkout")
    path = root / "Pulumi.dev.yaml"
    jobs = '    first: {}\n    "first-*": {dataset: first}\n    other: {}\n'
    path.write_text(path.read_text().replace("    first: {}   # the first one\n", jobs))
    (root / "Pulumi.yaml").write_text("name: flux-training\nruntime: python\n")
    names = ["first", "first-rank4", "other"]
    assert sweeps_among_jobs(root, "dev", names) == [["first", "first-rank4"]]
    assert sweeps_among_jobs(root, "prod", names) == []


@pytest.mark.parametrize(
    ("deployed", "said"),
    [
        ({"chelsea-cat", "coffee-cup"}, ""),
        ({"chelsea-cat"}, "Declared, but not deployed: coffee-cup. `make up` trains it."),
    ],
)
def test_declared_jobs_that_the_table_lacks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deployed: set[str], said: str
) -> None:
    monkeypatch.chdir(make_checkout(tmp_path / "checkout"))
    found = undeployed_jobs_note(undeployed_jobs("dev", deployed), "dev")
    assert (found.startswith(said), bool(found)) == (True, bool(said))
    assert undeployed_jobs("none", deployed) == []


def test_jobs_wait_only_for_a_budget_that_the_stack_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.setattr("flux_training.commands.watch.status.project_root", lambda: root)
    assert undeployed_jobs_note(["cat", "dog"], "dev").endswith("cat, dog. `make up` trains them.")
    with (root / "Pulumi.dev.yaml").open("a", encoding="utf-8") as file:
        file.write("  flux-training:budget: {maxUsdPerDay: 1}\n")
    said = "`make up` queues what the budget allows; `./flux plan` says which jobs wait for it."
    assert undeployed_jobs_note(["cat"], "dev").endswith(said)


def test_a_job_that_is_skipped_or_not_declared_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_checkout(tmp_path / "checkout")
    file = root / "Pulumi.dev.yaml"
    file.write_text(STACK_FILE.replace("first: {}", "first: {}\n    second: {skip: true}"), encoding="utf-8")
    monkeypatch.setattr("flux_training.commands.stack.declared.project_root", lambda: root)
    assert withdrawn_jobs("dev", ["first", "second", "third"]) == ["second", "third"]
    assert withdrawn_jobs("none", ["first"]) == []


@pytest.mark.parametrize(
    ("machine", "node"), [("machine-12345", "machine-"), ("user", NOTHING), (None, NOTHING)]
)
@pytest.mark.parametrize("is_listed", [True, False])
def test_the_column_of_the_node_has_its_machine_during_and_after_the_training(
    machine: str | None, node: str, is_listed: bool
) -> None:
    """Kelpie has `user` in its place for a canceled job."""
    found = status("cat", "canceled" if machine == "user" else "running")
    assert found.queue_job is not None
    found = replace(found, queue_job=found.queue_job.model_copy(update={"machine_id": machine}))
    instances = {"machine-12345": Instance(id="instance", machine_id="machine-12345", state="running")}
    shown = job_row(found, ClusterInfo(instances if is_listed else {}), "", "", "")
    line = rendered(StackStatus([shown]), 100).splitlines()[1]
    assert line.split()[-2] == node
