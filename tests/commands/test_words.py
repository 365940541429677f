"""What the commands say and choose, and how run.json is completed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flux_training.clients.kelpie import Job
from flux_training.commands.results.outputs import write_record
from flux_training.commands.stack.engine import choose_command, find_engine
from flux_training.commands.stack.file import uses_local_cloud
from flux_training.commands.stack.locks import is_dead, is_left_behind
from flux_training.commands.watch.job_status import Sight, StackJob, describe, stack_jobs
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import in_words
from tests.support.flux import ROOT, with_code

JOB = StackJob("cat", "0123456789ab", "id-1", 300, RunKeys("runs/cat/0123456789ab/", "cat"))


def test_nothing_in_the_folder_it_is_called_from_is_run(tmp_path: Path) -> None:
    """It may be a stranger's, and modules named like ours are in any ML checkout."""
    checkout, stranger = tmp_path / "checkout", tmp_path / "stranger"
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (checkout / ".venv/bin/python").chmod(0o755)
    (checkout / "Makefile").write_text("ready:\n")
    shutil.copy(ROOT / "flux", checkout)
    with_code(checkout)
    stranger.mkdir()
    for name in ("flux_training.py", "rich_click.py"):
        (stranger / name).write_text("raise SystemExit('foreign code was run')\n")
    done = subprocess.run(
        [checkout / "flux", "status", "--help"], cwd=stranger, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "foreign" in done.stdout + done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-3, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("state", "reason", "progress", "words"),
    [
        ("pending", "", {}, "pending"),
        ("running", "", {}, "running"),
        (
            "running",
            "",
            {"state": "training", "step": 120, "steps": 300, "loss_smoothed": 0.41, "eta_seconds": 61},
            "training, step 120 of 300, loss 0.4100, about 61 s left",
        ),
        (
            "running",
            "",
            {"state": "starting", "step": None, "loss_smoothed": None, "eta_seconds": "?"},
            "starting",
        ),
        ("failed", "the trainer ended with 1", {"step": 3}, "failed: the trainer ended with 1"),
        ("completed", "", {"state": "finished", "step": 300}, "completed"),
    ],
)
def test_a_job_in_one_line(state: str, reason: str, progress: dict[str, object], words: str) -> None:
    assert describe(Sight(JOB, state, reason, progress, None)) == words


def test_watching_ends_with_a_stalled_job_although_the_queue_calls_it_running() -> None:
    running = Job(id="id-1", container_group_id="g", status="running")
    sight = Sight(JOB, "stalled", "no node has reported it", {}, running)
    assert sight.ended
    assert describe(sight) == "stalled: no node has reported it"


def test_a_run_has_ended_only_when_the_queue_knows() -> None:
    running = Job(id="id-1", container_group_id="g", status="running")
    sight = Sight(JOB, "completed", "", {}, running)
    assert not sight.ended
    assert describe(sight) == "the weights are in the bucket; the worker is finishing"
    assert Sight(JOB, "completed", "", {}, running.model_copy(update={"status": "completed"})).ended
    assert Sight(JOB, "completed", "", {}, None).ended


EMBEDDED = (sys.executable, "-m", "pulumi_embedded")


@pytest.mark.parametrize(
    ("wanted", "cli", "command"),
    [
        ("", None, EMBEDDED),
        ("", "/bin/pulumi", ("/bin/pulumi",)),
        ("embedded", "/bin/pulumi", EMBEDDED),
        ("cli", "/bin/pulumi", ("/bin/pulumi",)),
    ],
)
def test_the_cli_is_used_where_there_is_one(wanted: str, cli: str | None, command: tuple[str, ...]) -> None:
    assert choose_command(wanted, cli) == command


@pytest.mark.parametrize(
    ("wanted", "words"), [("cli", "no `pulumi` is on the PATH"), ("clii", "ENGINE=clii")]
)
def test_an_engine_that_cannot_be_had_is_refused(wanted: str, words: str) -> None:
    with pytest.raises(FluxError, match=words):
        choose_command(wanted, None)


def test_only_the_local_stack_has_a_passphrase_of_its_own() -> None:
    assert find_engine("dev", local=True, environ={}).environment["PULUMI_CONFIG_PASSPHRASE"]
    assert (
        find_engine("p", local=False, environ={"PULUMI_CONFIG_PASSPHRASE": "x"}).environment[
            "PULUMI_CONFIG_PASSPHRASE"
        ]
        == "x"
    )
    with pytest.raises(FluxError, match="needs the passphrase"):
        find_engine("prod", local=False, environ={})


@pytest.mark.parametrize(
    ("said", "packed"),
    [
        ({}, "true"),
        ({"PULUMI_DIY_BACKEND_GZIP": "false"}, "false"),
        ({"PULUMI_SELF_MANAGED_STATE_GZIP": "false"}, None),
        ({"PULUMI_DIY_BACKEND_ZSTD": "true"}, None),
    ],
)
def test_the_state_is_packed_unless_the_user_says_something_of_it(
    said: dict[str, str], packed: str | None
) -> None:
    environment = find_engine("dev", local=True, environ=said).environment
    assert environment.get("PULUMI_DIY_BACKEND_GZIP") == packed
    assert said.items() <= environment.items()


def test_a_stack_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text("config:\n  flux-training:cloud: salad\n")
    assert not uses_local_cloud(tmp_path, "prod")
    with pytest.raises(BadInput, match="did you mean `prod`"):
        uses_local_cloud(tmp_path, "prd")
    (tmp_path / "Pulumi.bad.yaml").write_text("config: ]")
    with pytest.raises(BadInput, match=r"Pulumi\.bad\.yaml cannot be read"):
        uses_local_cloud(tmp_path, "bad")


def test_jobs_of_the_outputs() -> None:
    entry = {"runId": JOB.run_id, "kelpieId": "id-1", "steps": 300, "folder": JOB.keys.base}
    assert stack_jobs({"jobs": {"cat": entry}}) == [JOB]
    assert stack_jobs({}) == []


def test_what_the_queue_knew_of_a_run_is_kept_when_it_forgets_it(tmp_path: Path) -> None:
    path = tmp_path / "cat" / "run.json"
    queue_job = Job(
        id="id-1", container_group_id="g", status="completed", machine_id="node-1", num_heartbeats=4
    )
    write_record(path, {"run_id": "r"}, Sight(JOB, "completed", "", {}, queue_job))
    write_record(path, {"run_id": "r"}, Sight(JOB, "completed", "", {}, None))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["kelpie"]["id"], record["kelpie"]["machine_id"], record["kelpie"]["num_heartbeats"]) == (
        "id-1",
        "node-1",
        4,
    )
    assert (record["run_id"], record["state"]) == ("r", "completed")


@pytest.mark.parametrize(
    ("lock", "dead"),
    [
        ({"pid": 8, "hostname": "here"}, True),
        ({"pid": 7, "hostname": "here"}, False),
        ({"pid": 8, "hostname": "there"}, False),
        ({"pid": "8", "hostname": "here"}, False),
        ({}, False),
    ],
)
def test_only_a_lock_known_to_be_dead_is_taken_away(lock: dict[str, object], dead: bool) -> None:
    assert is_dead(lock, "here", lambda pid: pid == 7) == dead


def test_a_lock_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / ".pulumi/locks/organization/flux-training/dev"
    folder.mkdir(parents=True)
    assert not is_left_behind(tmp_path, "dev")
    (folder / "a.json").write_text(json.dumps({"pid": 2**22 + 1, "hostname": socket.gethostname()}))
    assert is_left_behind(tmp_path, "dev")
    (folder / "b.json").write_text("{")
    assert not is_left_behind(tmp_path, "dev")
