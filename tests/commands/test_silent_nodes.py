"""Jobs whose node sends heartbeats and nothing else, and jobs that failed on the only machine: real queue and bucket, a node played here."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from localcloud.testing import kelpie_client, running_cloud, wait_until

from components import declared_runs, training_job
from components.declared_runs import DeclaredRunsArgs, DeclaredRunsProvider
from components.training_job import TrainingJobProvider, TrainingJobState
from flux_training.clients.connection import Connection, connect
from flux_training.clients.errors import ServiceError, Unavailable
from flux_training.clients.kelpie import Job, JobRequest, Sync, SyncRule
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.requeue import SilentRun, cancel_run, job_of_run
from flux_training.clients.salad import GroupSpec, Instance, Salad
from flux_training.clients.stack import spending
from flux_training.clients.stack.spending import Reservation
from flux_training.clients.storage import Storage
from flux_training.commands.watch import follow as follow_module
from flux_training.commands.watch.follow import queue_silent_again
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.commands.watch.watcher import JobRow, StackStatus, Watcher
from flux_training.training.budget.entries import hash_of_run
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.errors import FluxError
from flux_training.training.runs.handout import (
    HUNG_SECONDS,
    MAX_REQUEUES,
    REQUEUES_VARIABLE,
    SILENT_SECONDS,
    UNREPORTED_SECONDS,
)
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.components.groups import new_name

OWNER = "project/stack"
BUCKET = "silent"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("silent") / "cloud"
    # Nodes that never ask for work: the tests do that in their place.
    idle = ["sh", "-c", "exec sleep 1000"]
    with running_cloud(home, nodes=4, node_command=idle, key_write_seconds=0) as running:
        yield running | {"home": home}


class NodeAndRun:
    """A queued run, and a machine that takes jobs but whose worker hangs in its first download."""

    def __init__(self, cloud: dict[str, Any]) -> None:
        self.cloud, self.name = cloud, new_name()
        self.connection: Connection = connect(
            "local", {}, {"FLUX_LOCAL_CLOUD": str(cloud["home"] / "connection.json")}
        )
        self.storage = self.connection.storage(BUCKET)
        if not self.storage.exists():
            self.storage.create_bucket()
        spec = GroupSpec(name=self.name, image="image", environment={"FLUX_OWNER": OWNER})
        self.group = self.connection.salad().create_group(spec).id
        self.layout = Layout(f"{self.name}/")
        self.keys = self.layout.run("cat", "0123456789ab")
        self.place = RunPlace.of(BUCKET, self.layout, "cat", "0123456789ab")
        self.first = Queue(self.connection.kelpie(), self.group).post_once(
            self.place, self._request(), ClaimFile(self.storage, self.keys, OWNER)
        )

    def _request(self) -> JobRequest:
        output = SyncRule(bucket=BUCKET, prefix=self.keys.output, local_path="o/", direction="upload")
        environment = {"FLUX_RUN_ID": "0123456789ab", "FLUX_JOB": "cat"}
        return JobRequest(
            container_group_id=self.group,
            command="python",
            environment=environment,
            sync=Sync(during=[output]),
        )

    @property
    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, which keep the id of the first job."""
        entry = {
            "runId": "0123456789ab",
            "kelpieId": self.first.id,
            "steps": 20,
            "folder": self.keys.base,
            "stallMinutes": 30,
        }
        group = {"id": self.group, "name": self.name}
        return {
            "jobs": {"cat": entry},
            "bucket": BUCKET,
            "prefix": self.layout.prefix,
            "containerGroup": group,
        }

    def watcher(self) -> Watcher:
        return Watcher(self.connection, self.outputs)

    def row(self) -> JobRow:
        return self.watcher().read().rows[0]

    def remove(self) -> None:
        """As `up` removes a job that the stack no longer declares."""
        provider = TrainingJobProvider()
        provider.connection = self.connection
        state = TrainingJobState(
            home={},
            job="cat",
            folder="jobs/cat",
            run_id="0123456789ab",
            steps=20,
            group_id=self.group,
            bucket=BUCKET,
            prefix=self.layout.prefix,
            kelpie_id=self.first.id,
        )
        provider.remove("", state)

    def no_longer_declare(self) -> None:
        """As `up` does before it changes any job."""
        provider = DeclaredRunsProvider()
        provider.connection = self.connection
        before = DeclaredRunsArgs(
            home={},
            group_id=self.group,
            bucket=BUCKET,
            prefix=self.layout.prefix,
            runs={"cat": "0123456789ab"},
        )
        provider.change("", before, replace(before, runs={}))

    def jobs(self) -> list[Job]:
        return self.connection.kelpie().list_jobs(self.group)

    def pending(self) -> Job:
        (job,) = (job for job in self.jobs() if job.status == "pending")
        return job

    def start_node(self) -> Instance:
        """A replica of the group, once it runs."""
        salad = self.connection.salad()
        salad.patch_group(self.name, {"replicas": 1})
        salad.start_group(self.name)
        wait_until(lambda: [one.state for one in salad.instances(self.name)] == ["running"])
        return salad.instances(self.name)[0]

    def take_job(self, machine: str = "m") -> str:
        """Get work as a node does."""
        with kelpie_client(self.cloud) as kelpie:
            query = {"machine_id": machine, "container_group_id": self.group}
            (job,) = kelpie.get("/work", params=query).raise_for_status().json()
        return str(job["id"])

    def report_failure(self, job: str, machine: str = "m") -> None:
        with kelpie_client(self.cloud) as kelpie:
            body = {"machine_id": machine, "container_group_id": self.group}
            kelpie.post(f"/jobs/{job}/failed", json=body).raise_for_status()

    def machines(self) -> list[str]:
        return [node.machine_id for node in self.connection.salad().instances(self.name)]

    def let_pass(self, job: str, seconds: float) -> None:
        """Make the hand-out so much older; the heartbeat stays."""
        self._change("UPDATE jobs SET started = started - ? WHERE id = ?", seconds, job)

    def hand_out_again(self, job: str, later: float, heartbeat: float) -> None:
        """Start the hand-out so many seconds from now, with a heartbeat after so many more."""
        now = time.time()
        change = "UPDATE jobs SET started = ?, heartbeat = ? WHERE id = ?"
        self._change(change, now + later, now + later + heartbeat, job)

    def _change(self, statement: str, *values: object) -> None:
        path = Path(self.cloud["home"]) / "cloud.db"
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database, database:
            database.execute(statement, values)


@pytest.fixture
def silent(cloud: dict[str, Any]) -> NodeAndRun:
    """A run whose job was handed out SILENT_SECONDS ago."""
    made = NodeAndRun(cloud)
    made.let_pass(made.take_job(), SILENT_SECONDS + 1)
    return made


def test_a_silent_job_is_canceled_and_queued_again_once(silent: NodeAndRun) -> None:
    watcher = silent.watcher()
    found = watcher.read()
    assert found.rows[0].status.is_silent
    assert not found.is_well
    (said,) = queue_silent_again(watcher, found)
    assert f"queued again (1 of {MAX_REQUEUES})" in said
    first, second = silent.jobs()
    assert (first.id, first.status, second.status) == (silent.first.id, "canceled", "pending")
    assert second.environment == first.environment | {REQUEUES_VARIABLE: "1"}
    assert second.sync == first.sync
    # Every later watcher finds the new job, although the stack's outputs name the first one.
    assert silent.row().status.queue_job == second
    assert queue_silent_again(watcher, watcher.read()) == []


def test_several_watchers_queue_a_silent_job_again_only_once(silent: NodeAndRun) -> None:
    watchers = [silent.watcher() for _ in range(4)]
    seen = [watcher.read() for watcher in watchers]
    with ThreadPoolExecutor(len(watchers)) as pool:
        list(pool.map(queue_silent_again, watchers, seen))
    assert sorted(job.status for job in silent.jobs()) == ["canceled", "pending"]


def test_a_watcher_that_was_killed_after_canceling_is_succeeded_by_the_next(silent: NodeAndRun) -> None:
    silent.storage.put_bytes(silent.keys.requeue, json.dumps({"kelpie_id": silent.first.id}).encode())
    silent.connection.kelpie().cancel_job(silent.first.id)
    watcher = silent.watcher()
    assert len(queue_silent_again(watcher, watcher.read())) == 1
    assert [job.status for job in silent.jobs()] == ["canceled", "pending"]
    found = watcher.read()
    assert found.rows[0].status.state == RunState.PENDING
    assert queue_silent_again(watcher, found) == []


@pytest.mark.parametrize("intended", [None, "another-job"])
def test_a_job_that_a_user_has_canceled_is_not_queued_again(silent: NodeAndRun, intended: str | None) -> None:
    if intended:
        silent.storage.put_bytes(silent.keys.requeue, json.dumps({"kelpie_id": intended}).encode())
    silent.connection.kelpie().cancel_job(silent.first.id)
    watcher = silent.watcher()
    assert queue_silent_again(watcher, watcher.read()) == []
    assert [job.status for job in silent.jobs()] == ["canceled"]


def test_a_watcher_that_was_killed_while_queueing_the_second_time_is_succeeded_by_the_next(
    silent: NodeAndRun,
) -> None:
    queue_silent_again(silent.watcher(), silent.watcher().read())
    second = silent.pending()
    silent.storage.put_bytes(silent.keys.requeue, json.dumps({"kelpie_id": second.id}).encode())
    silent.connection.kelpie().cancel_job(second.id)
    watcher = silent.watcher()
    assert len(queue_silent_again(watcher, watcher.read())) == 1
    assert silent.pending().environment[REQUEUES_VARIABLE] == "2"


def test_a_run_that_a_user_cancels_after_it_was_queued_again_stays_canceled(silent: NodeAndRun) -> None:
    """The stack's outputs still name the first job, which a watcher canceled in order to queue the run again."""
    queue_silent_again(silent.watcher(), silent.watcher().read())
    silent.connection.kelpie().cancel_job(silent.pending().id)
    watcher = silent.watcher()
    assert queue_silent_again(watcher, watcher.read()) == []
    assert [job.status for job in silent.jobs()] == ["canceled", "canceled"]


def test_a_job_that_went_on_after_a_failed_cancel_is_not_queued_again_when_a_user_cancels_it(
    silent: NodeAndRun,
) -> None:
    silent.storage.put_bytes(silent.keys.requeue, json.dumps({"kelpie_id": silent.first.id}).encode())
    silent.storage.put_bytes(silent.keys.progress, b'{"state": "training"}')
    silent.connection.kelpie().cancel_job(silent.first.id)
    watcher = silent.watcher()
    assert queue_silent_again(watcher, watcher.read()) == []
    assert [job.status for job in silent.jobs()] == ["canceled"]


def test_a_launcher_that_reports_just_before_its_job_is_canceled_goes_on(silent: NodeAndRun) -> None:
    watcher = silent.watcher()
    found = watcher.read()
    assert found.rows[0].status.is_silent
    silent.storage.put_bytes(silent.keys.progress, b'{"state": "training"}')
    assert queue_silent_again(watcher, found) == ["cat: training"]
    assert [job.status for job in silent.jobs()] == ["running"]


def stay_silent(run: NodeAndRun) -> None:
    """Until it is not queued again any more."""
    for count in range(1, MAX_REQUEUES + 1):
        watcher = run.watcher()
        assert len(queue_silent_again(watcher, watcher.read())) == 1
        run.let_pass(run.take_job(f"m{count}"), SILENT_SECONDS + 1)


def test_a_run_that_stays_silent_is_stalled_with_the_next_step(silent: NodeAndRun) -> None:
    stay_silent(silent)
    watcher = silent.watcher()
    found = watcher.read()
    assert found.has_ended
    assert found.rows[0].status.state == RunState.STALLED
    assert "`./flux cancel cat` and `make up`" in found.rows[0].problem
    (elsewhere,) = Watcher(silent.connection, silent.outputs, "prod").read().rows
    assert "`./flux doctor --stack prod`" in elsewhere.problem
    assert "`./flux cancel cat --stack prod` and `make up STACK=prod`" in elsewhere.problem
    assert queue_silent_again(watcher, found) == []
    assert [job.status for job in silent.jobs()].count("running") == 1


def test_a_stalled_job_whose_launcher_reports_again_is_no_longer_stalled(silent: NodeAndRun) -> None:
    stay_silent(silent)
    watcher = silent.watcher()
    assert watcher.read().rows[0].status.state == RunState.STALLED
    silent.storage.put_bytes(silent.keys.progress, b'{"state": "training"}')
    found = watcher.read()
    assert (found.has_ended, found.rows[0].status.phase) == (False, "training")


def test_a_node_that_hangs_after_a_report_begins_a_new_series(silent: NodeAndRun) -> None:
    stay_silent(silent)
    silent.storage.put_bytes(silent.keys.progress, b'{"state": "training"}')
    # The job is handed out again, to a node that hangs: its start is after the report.
    (job,) = (job for job in silent.jobs() if job.status == "running")
    silent.hand_out_again(job.id, later=2, heartbeat=SILENT_SECONDS + 1)
    watcher = silent.watcher()
    (said,) = queue_silent_again(watcher, watcher.read())
    assert f"queued again (1 of {MAX_REQUEUES})" in said
    assert silent.pending().environment[REQUEUES_VARIABLE] == "1"


def test_a_node_that_is_not_listed_is_not_said_to_be_replaced(cloud: dict[str, Any]) -> None:
    for is_listed in (True, False):
        run = NodeAndRun(cloud)
        node = run.start_node()
        run.let_pass(run.take_job(node.machine_id if is_listed else "gone"), SILENT_SECONDS + 1)
        watcher = run.watcher()
        (said,) = queue_silent_again(watcher, watcher.read())
        assert ("the node is replaced" in said) == is_listed
        assert (node.machine_id in run.machines()) == (not is_listed)
        run.connection.salad().patch_group(run.name, {"replicas": 0})


def test_a_run_is_queued_again_although_its_node_cannot_be_replaced(
    silent: NodeAndRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise ServiceError("SaladCloud answered 503")

    monkeypatch.setattr(Salad, "reallocate_machine", refuse)
    watcher = silent.watcher()
    (said,) = queue_silent_again(watcher, watcher.read())
    assert (
        "the node was not replaced (SaladCloud answered 503), the job is canceled, and the run is queued again"
        in said
    )
    assert [job.status for job in silent.jobs()] == ["canceled", "pending"]


def test_a_job_is_canceled_only_once_it_is_written_that_its_run_is_removed(
    silent: NodeAndRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a watcher that has begun to queue it again would go on."""
    kelpie, storage = silent.connection.kelpie(), silent.connection.storage(BUCKET)

    def refuse(*_: object, **__: object) -> None:
        raise ServiceError("the bucket answered 503")

    monkeypatch.setattr(storage, "put_bytes", refuse)
    with pytest.raises(ServiceError, match="503"):
        cancel_run(kelpie, silent.first.id, silent.place, storage, silent.keys)
    assert [job.status for job in silent.jobs()] == ["running"]


def test_a_job_whose_bucket_is_gone_is_canceled(silent: NodeAndRun) -> None:
    kelpie, storage = silent.connection.kelpie(), silent.connection.storage("no-such-bucket")
    assert cancel_run(kelpie, silent.first.id, silent.place, storage, silent.keys)
    assert [job.status for job in silent.jobs()] == ["canceled"]


@pytest.mark.parametrize("remove", [NodeAndRun.remove, NodeAndRun.no_longer_declare])
def test_removing_a_stalled_run_replaces_the_node_that_hangs(
    cloud: dict[str, Any], monkeypatch: pytest.MonkeyPatch, remove: Callable[[NodeAndRun], None]
) -> None:
    """`flux cancel` and `make up`, the next step of a stalled job."""
    run, said = NodeAndRun(cloud), list[str]()
    for module in (training_job, declared_runs):
        monkeypatch.setattr(module, "inform", said.append)
    node = run.start_node()
    run.let_pass(run.take_job(node.machine_id), UNREPORTED_SECONDS + 2)
    remove(run)
    assert [job.status for job in run.jobs()] == ["canceled"]
    assert said[0] == "cat: the worker on the job's node hangs, so the node is replaced"
    wait_until(lambda: run.machines() and node.machine_id not in run.machines())
    run.connection.salad().patch_group(run.name, {"replicas": 0})


@pytest.mark.parametrize(("seconds", "reports"), [(UNREPORTED_SECONDS - 15, False), (HUNG_SECONDS + 1, True)])
def test_removing_a_run_leaves_a_sound_node_alone(
    cloud: dict[str, Any], seconds: float, reports: bool
) -> None:
    run = NodeAndRun(cloud)
    node = run.start_node()
    run.let_pass(run.take_job(node.machine_id), seconds)
    if reports:
        run.storage.put_bytes(run.keys.progress, b'{"state": "training"}')
    run.remove()
    assert [job.status for job in run.jobs()] == ["canceled"]
    assert run.machines() == [node.machine_id]
    run.connection.salad().patch_group(run.name, {"replicas": 0})


def test_a_job_whose_launcher_reports_is_left_alone(silent: NodeAndRun) -> None:
    silent.storage.put_bytes(silent.keys.progress, b'{"state": "starting"}')
    watcher = silent.watcher()
    found = watcher.read()
    assert (found.is_well, found.rows[0].status.phase) == (True, "starting")
    assert queue_silent_again(watcher, found) == []


def test_a_job_of_another_run_is_not_canceled(silent: NodeAndRun) -> None:
    """The outputs may name a job that is not this run's: only the job's own environment counts."""
    other = RunPlace.of(BUCKET, silent.layout, "cat", "ba9876543210")
    kelpie = silent.connection.kelpie()
    assert job_of_run(kelpie, silent.first.id, other) is None
    outputs = silent.outputs
    outputs["jobs"]["cat"]["runId"] = "ba9876543210"
    watcher = Watcher(silent.connection, outputs)
    assert queue_silent_again(watcher, watcher.read()) == []
    assert [job.status for job in silent.jobs()] == ["running"]


def test_a_failed_attempt_on_the_only_machine_is_a_problem_until_another_has_the_job(
    cloud: dict[str, Any],
) -> None:
    run = NodeAndRun(cloud)
    run.report_failure(run.take_job())
    run.storage.put_bytes(run.keys.progress, b'{"state": "failed", "message": "CUDA error"}')
    row = run.row()
    assert row.status.phase == "retrying, waiting for another machine"
    assert "attempt 1 of 3 failed (CUDA error)" in row.problem
    assert "maxReplicas: 1" in row.problem
    assert not row.status.has_ended


def remove_at(
    run: NodeAndRun, moment: str, monkeypatch: pytest.MonkeyPatch, subject: object, method: str
) -> list[str]:
    """Remove the run `before` or `after` the next call of the method. Returns the calls in which it was removed."""
    call, done = getattr(subject, method), list[str]()

    def called(*arguments: Any, **named: Any) -> Any:
        if done:
            return call(*arguments, **named)
        done.append(method)
        if moment == "before":
            run.remove()
        found = call(*arguments, **named)
        if moment == "after":
            run.remove()
        return found

    monkeypatch.setattr(subject, method, called)
    return done


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["head", "put_bytes", "cancel_job", "list_jobs", "post_job"])
def test_a_run_that_is_removed_while_a_watcher_queues_it_again_is_not_trained(
    silent: NodeAndRun, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    kelpie, storage = silent.connection.kelpie(), silent.connection.storage(BUCKET)
    run = SilentRun(Queue(kelpie, silent.group), storage, silent.keys, silent.place, OWNER, lambda _job: None)
    subject = kelpie if hasattr(kelpie, step) else storage
    removals = remove_at(silent, moment, monkeypatch, subject, step)
    assert run.queue_again(silent.jobs()[0]) is None
    assert removals == [step]
    assert {job.status for job in silent.jobs()} == {"canceled"}
    watcher = silent.watcher()
    assert queue_silent_again(watcher, watcher.read()) == []


def unexpected(*_args: object, **_more: object) -> None:
    raise AssertionError("nothing is to be written")


def test_a_run_that_no_longer_fits_its_limit_is_canceled_and_waits(
    silent: NodeAndRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts again when it is queued again, because the first job may have cost as much as estimated."""
    prefix, budget = silent.layout.prefix, BudgetSettings(maxUsdPerDay=3.0)
    # As `up` did before it posted the job.
    spending.reserve(silent.storage, prefix, silent.keys, Reservation(2.0, budget), "`make up`", "none")
    watcher = silent.watcher()
    (said,) = queue_silent_again(watcher, watcher.read())
    assert "cat could not be queued again: cat no longer fits in the budget" in said
    assert "run `make up` again" in said
    assert [job.status for job in silent.jobs()] == ["canceled"]
    # A watcher tries again at each poll, and must not write each time.
    with monkeypatch.context() as reading:
        reading.setattr(Storage, "put_bytes", unexpected)
        (said,) = queue_silent_again(silent.watcher(), watcher.read())
    assert "cat could not be queued again: cat no longer fits in the budget" in said

    tomorrow = spending.today() + timedelta(days=1)
    monkeypatch.setattr(spending, "today", lambda: tomorrow)
    (said,) = queue_silent_again(watcher, watcher.read())
    assert "queued again" in said
    mark = hash_of_run(prefix, "cat", "0123456789ab")
    days = {entry.day for entry in spending.read_spending(silent.storage, tomorrow) if entry.run == mark}
    assert tomorrow in days


def test_a_removed_run_that_is_declared_again_is_queued_again_when_it_is_silent(silent: NodeAndRun) -> None:
    silent.remove()
    claim = ClaimFile(silent.storage, silent.keys, OWNER)
    queue = Queue(silent.connection.kelpie(), silent.group)
    silent.first = queue.post_once(silent.place, silent._request(), claim)
    silent.let_pass(silent.take_job(), SILENT_SECONDS + 1)
    watcher = silent.watcher()
    (said,) = queue_silent_again(watcher, watcher.read())
    assert "queued again" in said


class Refusing:
    """A watcher of one canceled job that can never be queued again."""

    local = True

    def __init__(self) -> None:
        job = StackJob("cat", "0123456789ab", "j", 20, Layout("").run("cat", "0123456789ab"))
        queued = Job(id="j", container_group_id="g", status="canceled")
        status = JobStatus(job, RunState.CANCELED, "the job was canceled", queue_job=queued)
        self.row = JobRow(status, None, None, "", "", "canceled")
        self.tries = 0

    def read(self) -> StackStatus:
        return StackStatus([self.row])

    def queue_again(self, _status: JobStatus) -> str:
        self.tries += 1
        raise FluxError(f"claim.json is held by another update, request {self.tries}")


def test_an_error_that_lasts_is_said_once_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow_module, "LOCAL_POLL_SECONDS", 0.0)
    refusing = Refusing()
    assert follow_module.follow_until_ended(cast(Watcher, refusing)).has_ended
    printed = "".join(capsys.readouterr())
    assert printed.count("could not be queued again: claim.json is held") == 1
    assert refusing.tries == 2


def test_services_that_stop_answering_are_named_once_and_their_return_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow_module, "LOCAL_POLL_SECONDS", 0.0)
    refusing, failures = Refusing(), [Unavailable("the local cloud does not answer")] * 3

    def read() -> StackStatus:
        if failures:
            raise failures.pop()
        return StackStatus([refusing.row])

    monkeypatch.setattr(refusing, "read", read)
    assert follow_module.follow_until_ended(cast(Watcher, refusing)).has_ended
    lines = "".join(capsys.readouterr()).splitlines()
    assert lines[:2] == ["the local cloud does not answer; still waiting", "The services answer again."]
    assert len([line for line in lines if "answer" in line]) == 2
