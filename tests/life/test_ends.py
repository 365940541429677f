"""How runs end, and what `destroy` does with unfinished ones."""

import contextlib
import json
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from localcloud.testing import wait_until

from flux_training.clients.storage import Storage
from flux_training.training.runs.run import Layout, RunKeys
from tests.life.nodes import leave_weights, report
from tests.life.stacks import Stack, kill_with_children, new_stack


def keys_of(stack: Stack, job: str) -> RunKeys:
    return Layout(f"{stack.place}/").run(job, stack.outputs()["jobs"][job]["runId"])


def _nothing(_storage: Storage, _keys: RunKeys) -> None:
    return


def _half(storage: Storage, keys: RunKeys) -> None:
    storage.put_bytes(keys.weights, (storage.get_bytes(keys.weights) or b"")[:-2])


def _wrong_step(storage: Storage, keys: RunKeys) -> None:
    header = {
        "__metadata__": {"training_info": '{"step": 10}'},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    storage.put_bytes(keys.weights, struct.pack("<Q", len(text)) + text + bytes(4))


def _rubbish(storage: Storage, keys: RunKeys) -> None:
    storage.put_bytes(keys.weights, b"<html>not weights</html>")


def _no_weights(storage: Storage, keys: RunKeys) -> None:
    storage.delete_many([keys.weights])


ENDS: dict[str, tuple[Callable[[Storage, RunKeys], None], bool, str]] = {
    "nothing": (_nothing, False, "there are no weights in the bucket"),
    "done.json alone": (_no_weights, True, "cat.safetensors is missing"),
    "half a file": (_half, True, "bytes long, but their header says"),
    "the wrong step": (_wrong_step, True, "they are from step 10, not from the last step (20)"),
    "something else": (_rubbish, True, "does not begin with a safetensors header"),
}


def test_a_completed_job_without_valid_weights_is_not_finished(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    """One stack has a job for each way to end without valid weights."""
    jobs = {f"cat-{number}": end for number, end in enumerate(ENDS)}
    seeds = {job: 500 + number for number, job in enumerate(jobs)}
    stack = new_stack(tmp_path / "stack", cloud, "ends-unsound", seeds, engine)
    stack.up()
    bucket, declared = stack.connection.storage("life"), stack.outputs()["jobs"]
    keys = {job: Layout(f"{stack.place}/").run(job, declared[job]["runId"]) for job in jobs}
    queued = {job.environment["FLUX_JOB"]: job for job in stack.jobs()}
    assert queued.keys() == jobs.keys()
    for job, end in jobs.items():
        spoil, with_weights, _ = ENDS[end]
        if with_weights:
            leave_weights(bucket, keys[job])
        spoil(bucket, keys[job])
        report(stack.connection, queued[job], "completed")

    stack.refresh()
    told = stack.outputs()["jobs"]
    preview = stack.run("preview")
    for job, end in jobs.items():
        words = ENDS[end][2].replace("cat", job)
        assert told[job]["status"] == "completed without weights", end
        assert words in told[job]["reason"]
        assert words in preview
    assert preview.count("set `attempt: 2` for the job") >= len(jobs)

    stack.up()
    assert stack.live_runs() == []
    stack.configure({job: {"attempt": 2} for job in jobs})
    stack.up()
    assert stack.live_runs() == stack.declared_runs()
    assert len(stack.live_runs()) == len(jobs)


def silent_since(cloud: Path, job: str, hours: int) -> None:
    """Change the job as if its last heartbeat was some hours ago."""
    then = time.time() - hours * 3600
    with contextlib.closing(sqlite3.connect(cloud / "cloud.db")) as database, database:
        database.execute(
            "UPDATE jobs SET status = 'running', started = ?, heartbeat = ? WHERE id = ?", (then, then, job)
        )


@pytest.mark.long
def test_a_job_without_heartbeats_is_stalled_and_replaced_by_a_new_attempt(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    stack = new_stack(tmp_path / "stack", cloud, "ends-stalled", {"cat": 610}, engine)
    stack.up()
    (job,) = stack.jobs()
    silent_since(cloud, job.id, hours=2)
    stack.refresh()
    told = stack.outputs()["jobs"]["cat"]
    assert told["status"] == "stalled"
    assert "no node has reported it for 2 h 0 min" in told["reason"]
    assert "set `attempt: 2` for the job" in stack.run("preview")

    stack.up()
    assert [job.id for job in stack.jobs()] == [job.id]
    stack.configure({"cat": {"attempt": 2}})
    stack.up()
    assert stack.live_runs() == [stack.outputs()["jobs"]["cat"]["runId"]]
    assert stack.connection.kelpie().get_job(job.id).status == "canceled"


@pytest.mark.long
def test_a_job_posted_by_a_killed_up_is_canceled_once_it_is_not_declared(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    """The killed `up` had posted the job but not stored it in the state."""
    stack = new_stack(tmp_path / "stack", cloud, "ends-orphan", {"cat": 620, "dog": 621}, engine)
    stack.configure({"cat": {}})
    stack.up()
    before = stack.outputs()["jobs"]["cat"]["runId"]
    stack.configure({"cat": {}, "dog": {}})
    process = stack.begin("up", "--yes", "--skip-preview")
    wait_until(lambda: len(stack.jobs()) == 2)
    kill_with_children(process, and_providers=True)

    stack.configure({"cat": {}})
    stack.up()
    assert stack.live_runs() == [before]
    stack.destroy()
    assert stack.live_runs() == []


def test_another_checkout_cancels_no_job_that_it_never_declared(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    one, other = (
        new_stack(tmp_path / side, cloud, "ends-pair", {"cat": 630, "dog": 631}, engine)
        for side in ("one", "other")
    )
    one.up()
    wanted = one.live_runs()
    other.configure({"cat": {}})
    other.up()
    assert one.live_runs() == wanted


def test_without_autoscaling_a_canceled_run_that_is_declared_again_gets_a_replica(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    stack = new_stack(tmp_path / "stack", cloud, "ends-again", {"cat": 640}, engine)
    stack.configure({"cat": {}}, autoscale=False)
    stack.up()
    stack.destroy()
    stack.up()
    group = stack.connection.salad().get_group(stack.place)
    assert group is not None
    assert (stack.live_runs(), group.replicas) == (stack.declared_runs(), 1)


def test_destroy_cancels_unfinished_jobs_and_starts_no_replica(
    engine: str, cloud: Path, tmp_path: Path
) -> None:
    stack = new_stack(
        tmp_path / "stack", cloud, "ends-destroy", {"cat": 600, "dog": 601, "bird": 602}, engine
    )
    stack.up()
    by_name = {job.environment["FLUX_JOB"]: job for job in stack.jobs()}
    leave_weights(stack.connection.storage("life"), keys_of(stack, "cat"))
    report(stack.connection, by_name["cat"], "completed")
    wait_until(lambda: stack.connection.salad().get_group(stack.place).replicas == 2)  # type: ignore[union-attr]  # the group exists

    log = cloud / "requests.jsonl"
    before = len(log.read_text(encoding="utf-8").splitlines())
    stack.destroy()
    time.sleep(3 * 0.2)
    since = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[before:]]
    deleted = [entry["path"] for entry in since if entry["method"] == "DELETE"]
    assert f"/jobs/{by_name['cat'].id}" not in deleted
    assert {f"/jobs/{by_name[name].id}" for name in ("dog", "bird")} <= set(deleted)
    rule = next(index for index, path in enumerate(deleted) if path.startswith("/scaling-rules/"))
    group = next(index for index, path in enumerate(deleted) if "/containers/" in path)
    assert rule < min(deleted.index(f"/jobs/{by_name[name].id}") for name in ("dog", "bird")) < group
    assert (
        stack.connection.salad().list_groups() == []
        or stack.connection.salad().get_group(stack.place) is None
    )
    assert [entry for entry in since if entry["path"].endswith("/start")] == []
