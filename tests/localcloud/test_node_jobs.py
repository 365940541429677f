"""Training jobs on nodes of the local cloud: launcher and stand-in trainer."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from localcloud.testing import kelpie_client, running_cloud, wait_until
from node_jobs import BUCKET, NodeBucket, ended, job_of, running_group, submit
from safetensors.numpy import load

from flux_training.node.bundle import launcher_bundle
from tests.node.runs import StoredRun


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("node-jobs") / "cloud"
    with running_cloud(home, nodes=3, heartbeat_seconds=0.3, poll_seconds=0.1) as running:
        yield running | {"home": home}


def queue_run(connection: dict[str, Any], group: str, job: str, **settings: Any) -> str:
    """Upload a run and queue it as the product does; return the job's id."""
    bucket, base = NodeBucket(connection), f"runs/{job}/r"
    with tempfile.TemporaryDirectory() as folder:
        run = StoredRun(Path(folder) / BUCKET, job=job, **{"settle_seconds": 3, **settings})
        places = {run.config: f"{base}/config", run.output: f"{base}/output", run.dataset: f"datasets/{job}"}
        for place, prefix in places.items():
            for path in place.iterdir():
                bucket.put(f"{prefix}/{path.name}", path.read_bytes())
    node_job = replace(run.job, run_prefix=f"{base}/", dataset_prefix=f"datasets/{job}/")
    bundle = launcher_bundle()
    return submit(
        connection,
        group,
        ["python", *bundle.arguments],
        sync=node_job.sync(bundle),
        environment=node_job.environment,
    )


def nodes_of(cloud: dict[str, Any], job: str) -> list[Path]:
    """The folders of the nodes that have the job's files."""
    return [path.parent.parent for path in Path(cloud["home"]).glob(f"nodes/*/output/{job}")]


def trainers_of(cloud: dict[str, Any], job: str) -> list[int]:
    """The pids of processes whose working folder is that of a node with the job's files."""
    folders = {str(folder) for folder in nodes_of(cloud, job)}
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str((process / "cwd").readlink()) in folders:
                found.append(int(process.name))
    return found


def node_of(cloud: dict[str, Any], job: str) -> int:
    """The pid of the node that has the job's files."""
    (folder,) = nodes_of(cloud, job)
    for pid in trainers_of(cloud, job):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"localcloud.node" in command and str(folder).encode() in command:
                return pid
    raise AssertionError("no node")


@pytest.mark.long
def test_a_run_is_trained_and_its_results_are_uploaded(cloud: dict[str, Any]) -> None:
    bucket = NodeBucket(cloud)
    with running_group(cloud, "whole") as group:
        job = ended(cloud, queue_run(cloud, group, "disc", steps=60, save_every=20))
        assert (job["status"], job["num_failures"]) == ("completed", 0)
        progress = bucket.json("runs/disc/r/output/progress.json")
        assert (progress["state"], progress["step"], progress["restarts"]) == ("finished", 60, 0)
        assert progress["loss_last"] < progress["loss_first"]
        output = bucket.keys("runs/disc/r/output/")
        assert {"disc_000000020.safetensors", "disc_000000040.safetensors", "loss.csv", "config.yaml"} <= set(
            output
        )
        assert len([name for name in output if name.startswith("samples/1")]) == 4
        assert not [name for name in output if name.endswith(".tmp")]
        assert sorted(bucket.keys("runs/disc/r/model/")) == ["disc.safetensors", "done.json"]
        weights = load(bucket.get("runs/disc/r/model/disc.safetensors"))
        assert all(np.isfinite(value.astype(np.float32)).all() for value in weights.values())
        wait_until(
            lambda: all(not any(folder.iterdir()) for folder in Path(cloud["home"]).glob("nodes/*/dataset"))
        )


@pytest.mark.long
def test_a_killed_node_loses_only_the_steps_since_the_last_checkpoint(cloud: dict[str, Any]) -> None:
    bucket = NodeBucket(cloud)
    with running_group(cloud, "killed", STEP_SECONDS="0.05") as group:
        identity = queue_run(cloud, group, "powercut", steps=60, save_every=10)
        wait_until(lambda: "powercut_000000010.safetensors" in bucket.keys("runs/powercut/r/output/"))
        lost = trainers_of(cloud, "powercut")
        os.kill(node_of(cloud, "powercut"), signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in lost))
        job = ended(cloud, identity)
        assert (job["status"], job["num_failures"]) == ("completed", 0)
        progress = bucket.json("runs/powercut/r/output/progress.json")
        assert (progress["state"], progress["step"]) == ("finished", 60)
        assert progress["restarts"] >= 1
        assert b"\n60," in bucket.get("runs/powercut/r/output/loss.csv")


def test_a_cancelled_run_ends_and_is_not_completed(cloud: dict[str, Any]) -> None:
    bucket = NodeBucket(cloud)
    with running_group(cloud, "cancelled", STEP_SECONDS="0.1") as group, kelpie_client(cloud) as kelpie:
        identity = queue_run(cloud, group, "unwanted", steps=500)
        wait_until(lambda: "unwanted_000000008.safetensors" in bucket.keys("runs/unwanted/r/output/"))
        kelpie.delete(f"/jobs/{identity}").raise_for_status()
        wait_until(
            lambda: not [p for folder in nodes_of(cloud, "unwanted") for p in folder.glob("output/*/*")]
        )
        assert job_of(cloud, identity)["status"] == "canceled"
        assert bucket.keys("runs/unwanted/r/model/") == []


def test_an_incomplete_dataset_is_a_counted_failure_with_a_reason(cloud: dict[str, Any]) -> None:
    bucket = NodeBucket(cloud)
    with running_group(cloud, "half") as group:
        identity = queue_run(cloud, group, "torn")
        bucket.delete("datasets/torn/00002.jpg")
        wait_until(lambda: job_of(cloud, identity)["num_failures"])
        progress = bucket.json("runs/torn/r/output/progress.json")
        assert progress["state"] == "failed"
        assert "00002.jpg: there is no object" in progress["message"]
