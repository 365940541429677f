"""The supervisor and Kelpie's autoscaler: which node processes run."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from group_body import RTX_5090, group_body, job_body
from localcloud.testing import (
    STUB_NODE,
    is_alive,
    kelpie_client,
    logged_requests,
    run_localcloud,
    running_cloud,
    salad_client,
    start_cloud,
    wait_until,
    write_settings,
)

HOLD = {"HOLD": "1"}


@dataclass
class CloudClients:
    """A running cloud and its clients."""

    home: Path
    connection: dict[str, Any]
    salad: httpx.Client
    kelpie: httpx.Client

    def make(self, **changes: Any) -> str:
        answer = self.salad.post("/containers", json=group_body(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def instances(self, state: str = "running") -> list[dict[str, Any]]:
        answer = self.salad.get("/containers/g1/instances")
        found = answer.json()["instances"] if answer.status_code == 200 else []
        return [one for one in found if one["state"] == state]

    def rows(self, query: str) -> list[sqlite3.Row]:
        with sqlite3.connect(self.home / "cloud.db") as database:
            database.row_factory = sqlite3.Row
            return database.execute(query).fetchall()

    def pids(self) -> list[int]:
        running = "SELECT pid FROM instances WHERE state = 'running' ORDER BY created"
        return [row["pid"] for row in self.rows(running)]

    def patch(self, **changes: Any) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        self.salad.patch("/containers/g1", json=changes, headers=headers).raise_for_status()

    def job(self, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kelpie.get(f"/jobs/{identity}").json()
        return found

    def post(self, group: str, **changes: Any) -> str:
        return str(self.kelpie.post("/jobs", json=job_body(group, **changes)).json()["id"])


@contextmanager
def clients(home: Path, connection: dict[str, Any]) -> Iterator[CloudClients]:
    with salad_client(connection) as salad, kelpie_client(connection) as kelpie:
        yield CloudClients(home, connection, salad, kelpie)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudClients]:
    home = tmp_path / "cloud"
    with (
        running_cloud(home, node_command=STUB_NODE, nodes=3, heartbeat_seconds=20) as connection,
        clients(home, connection) as made,
    ):
        yield made


def test_a_group_has_a_node_for_each_replica_with_its_environment(cloud: CloudClients) -> None:
    group = cloud.make(replicas=2, container_environment_variables={"MINE": "yes"})
    nodes = wait_until(lambda: len(cloud.instances()) == 2 and cloud.instances())
    assert cloud.salad.get("/containers/g1").json()["current_state"]["status"] == "running"
    paths = [cloud.home / "nodes" / node["id"] / "env.json" for node in nodes]
    wait_until(lambda: all(path.exists() and path.read_text() for path in paths))
    for node, path in zip(nodes, paths, strict=True):
        seen = json.loads(path.read_text())
        wanted = {
            "HOME": str(path.parent),
            "MINE": "yes",
            "SALAD_MACHINE_ID": node["machine_id"],
            "SALAD_CONTAINER_GROUP_ID": group,
            "SALAD_ORGANIZATION_NAME": "org",
            "SALAD_PROJECT_NAME": "proj",
            "KELPIE_API_URL": cloud.connection["kelpie"]["url"],
            "HEARTBEAT_SECONDS": "20",
            "IDLE_SECONDS": "10.0",
        }
        assert wanted.items() <= seen.items()
        # Nothing is inherited from the environment of the cloud, which may hold secrets.
        known = {"PATH", "LANG", "NODE_TOKEN", "POLL_SECONDS", "STEP_SECONDS", "LC_CTYPE", "PWD", "SHLVL"}
        assert set(seen) <= wanted.keys() | known
    calls = wait_until(lambda: [one for one in logged_requests(cloud.connection) if one["client"] == "node"])
    assert {one["path"] for one in calls} == {"/work"}


def test_replicas_beyond_the_number_of_machines_wait(cloud: CloudClients) -> None:
    cloud.make(replicas=5)
    wait_until(lambda: len(cloud.instances()) == 3)
    assert len(cloud.instances("allocating")) == 2


def test_a_group_that_cannot_start_does_not_delay_others(cloud: CloudClients) -> None:
    """SaladCloud allows this variable name, but no process can be started with it."""
    cloud.make(name="first", container_environment_variables={"A=B": "1"})
    wait_until(lambda: "cannot be started" in (cloud.home / "log/cloud.log").read_text())
    cloud.make()
    wait_until(lambda: len(cloud.instances()) == 1)


def test_a_node_that_dies_is_replaced_by_another_machine(cloud: CloudClients) -> None:
    cloud.make()
    [before] = wait_until(cloud.instances)
    [pid] = cloud.pids()
    os.kill(pid, signal.SIGKILL)
    [after] = wait_until(lambda: [one for one in cloud.instances() if one["id"] != before["id"]])
    assert after["machine_id"] != before["machine_id"]
    assert not is_alive(pid)
    wait_until(lambda: not (cloud.home / "nodes" / before["id"]).exists())


def test_scaling_down_stops_idle_nodes_first(cloud: CloudClients) -> None:
    group = cloud.make(replicas=3, container_environment_variables=HOLD)
    wait_until(lambda: len(cloud.instances()) == 3)
    job = cloud.post(group)
    busy = wait_until(lambda: cloud.job(job)["machine_id"])
    pids = cloud.pids()
    cloud.patch(replicas=1)
    wait_until(lambda: sum(map(is_alive, pids)) == 1)
    [left] = wait_until(cloud.instances)
    assert left["machine_id"] == busy


def test_only_container_changes_restart_replicas(cloud: CloudClients) -> None:
    cloud.make(container_environment_variables={"A": "1"})
    [first] = wait_until(cloud.instances)
    cloud.patch(replicas=2, display_name="Other")
    wait_until(lambda: len(cloud.instances()) == 2)
    assert first["id"] in {one["id"] for one in cloud.instances()}
    before = {one["id"] for one in cloud.instances()}
    cloud.patch(container={"environment_variables": {"A": "2"}})
    wait_until(lambda: len(cloud.instances()) == 2 and not before & {one["id"] for one in cloud.instances()})
    assert {one["version"] for one in cloud.instances()} == {3}


def test_reallocation_changes_the_machine_and_deletion_ends_all_nodes(cloud: CloudClients) -> None:
    cloud.make()
    [before] = wait_until(cloud.instances)
    assert cloud.salad.post(f"/containers/g1/instances/{before['id']}/reallocate").status_code == 202
    wait_until(lambda: [one for one in cloud.instances() if one["machine_id"] != before["machine_id"]])
    pids = cloud.pids()
    cloud.salad.delete("/containers/g1")
    wait_until(lambda: cloud.salad.get("/containers/g1").status_code == 404)
    assert not any(map(is_alive, pids))


def test_running_time_is_billed_at_the_price_of_the_priority(cloud: CloudClients) -> None:
    cloud.make(container_priority="batch")
    wait_until(cloud.instances)
    cloud.salad.delete("/containers/g1")
    wait_until(lambda: cloud.salad.get("/containers/g1").status_code == 404)
    [bill] = cloud.rows("SELECT * FROM billing")
    assert (bill["gpu_class"], bill["priority"], bill["dollars_an_hour"]) == (RTX_5090, "batch", 0.25)
    assert bill["billed_until"] > bill["running_from"]
    assert bill["open"] == 0


def rule(group: str, **changes: int) -> dict[str, Any]:
    fields = {"min_replicas": 0, "max_replicas": 2, "idle_threshold_seconds": 0}
    return {"container_group_id": group} | fields | changes


def test_the_autoscaler_follows_the_queue_up_and_down(cloud: CloudClients) -> None:
    group = cloud.make(autostart_policy=False, container_environment_variables=HOLD)
    cloud.kelpie.post("/scaling-rules", json=rule(group)).raise_for_status()
    jobs = [cloud.post(group) for _ in range(3)]
    wait_until(lambda: len(cloud.instances()) == 2)
    assert cloud.salad.get("/containers/g1").json()["replicas"] == 2
    wait_until(lambda: sum(cloud.job(job)["status"] == "running" for job in jobs) == 2)
    for job in jobs:
        cloud.kelpie.delete(f"/jobs/{job}")
    wait_until(lambda: not cloud.pids())
    stopped = wait_until(
        lambda: (state := cloud.salad.get("/containers/g1").json()) and not cloud.instances() and state
    )
    assert stopped["current_state"]["status"] == "stopped"
    # The group was stopped, not set to 0 replicas.
    assert stopped["replicas"] >= 1


def test_without_an_invitation_for_kelpie_rules_do_nothing(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    with (
        running_cloud(home, node_command=STUB_NODE, kelpie_invited=False) as connection,
        clients(home, connection) as cloud,
    ):
        group = cloud.make(autostart_policy=False)
        made = cloud.kelpie.post("/scaling-rules", json=rule(group, min_replicas=1))
        cloud.post(group)
        time.sleep(0.5)  # ten periods of the autoscaler
        assert cloud.salad.get("/containers/g1").json()["current_state"]["status"] == "stopped"
        assert cloud.kelpie.get(f"/scaling-rules/{group}").json() == made.json()


def test_a_finished_job_that_is_cancelled_starts_the_group_again(cloud: CloudClients) -> None:
    group = cloud.make(autostart_policy=False)
    cloud.kelpie.post("/scaling-rules", json=rule(group)).raise_for_status()
    job = cloud.post(group)
    wait_until(lambda: cloud.job(job)["status"] == "completed")
    wait_until(lambda: not cloud.pids())
    change = {"idle_threshold_seconds": 3600}
    cloud.kelpie.patch(f"/scaling-rules/{group}", json=change).raise_for_status()
    cloud.kelpie.delete(f"/jobs/{job}")
    assert cloud.job(job)["status"] == "canceled"
    wait_until(cloud.pids)


def test_a_rule_keeps_its_bounds_and_is_deleted_with_its_group(cloud: CloudClients) -> None:
    group = cloud.make(autostart_policy=False)
    cloud.kelpie.post("/scaling-rules", json=rule(group, min_replicas=1)).raise_for_status()
    wait_until(lambda: len(cloud.instances()) == 1)
    cloud.salad.delete("/containers/g1")
    wait_until(lambda: cloud.kelpie.get(f"/scaling-rules/{group}").status_code == 404)


def age_heartbeats(home: Path, seconds: float) -> None:
    """As if the cloud had been down for so long."""
    with contextlib.closing(sqlite3.connect(home / "cloud.db")) as database, database:
        database.execute("UPDATE jobs SET heartbeat = heartbeat - ?", (seconds,))


def test_a_killed_cloud_loses_nothing_and_keeps_its_nodes(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    write_settings(home, node_command=STUB_NODE, nodes=2, heartbeat_seconds=0.5)
    connection = start_cloud(home)
    try:
        with clients(home, connection) as cloud:
            group = cloud.make(autostart_policy=False, container_environment_variables=HOLD)
            cloud.kelpie.post("/scaling-rules", json=rule(group, max_replicas=1)).raise_for_status()
            jobs = [cloud.post(group) for _ in range(20)]
            wait_until(lambda: cloud.job(jobs[0])["status"] == "running")
            nodes = cloud.pids()
            os.kill(connection["pid"], signal.SIGKILL)
            wait_until(lambda: not is_alive(connection["pid"]))
            assert all(map(is_alive, nodes))
        age_heartbeats(home, seconds=60)
        with clients(home, start_cloud(home)) as cloud:
            # Not given to a second node: the first one was not gone, this cloud was.
            machines = {"machine_id": "another", "container_group_id": group}
            taken = cloud.kelpie.get("/work", params=machines).json()
            assert [job["id"] for job in taken] != [jobs[0]]
            query = {"container_group_id": group, "page_size": 100}
            listed = {job["id"] for job in cloud.kelpie.get("/jobs", params=query).json()["jobs"]}
            assert listed == set(jobs)
            assert cloud.kelpie.get(f"/scaling-rules/{group}").status_code == 200
            assert cloud.salad.get("/containers/g1").json()["id"] == group
            assert cloud.pids() == nodes
            os.kill(nodes[0], signal.SIGKILL)
            wait_until(lambda: cloud.pids() and cloud.pids() != nodes)
    finally:
        pids = CloudClients(home, {}, httpx.Client(), httpx.Client()).pids()
        run_localcloud(home, "stop")
    assert not any(map(is_alive, pids))


def test_stop_ends_nodes_that_a_killed_daemon_left(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    with running_cloud(home, node_command=STUB_NODE) as connection, clients(home, connection) as cloud:
        cloud.make()
        [pid] = wait_until(cloud.pids)
        os.kill(connection["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(connection["pid"]))
        assert run_localcloud(home, "stop").stdout == "not running\n"
        wait_until(lambda: not is_alive(pid))
        assert cloud.rows("SELECT * FROM instances") == []


def test_daemon_and_nodes_stop_when_the_home_folder_is_removed(tmp_path: Path) -> None:
    home = tmp_path / "cloud"
    with running_cloud(home, node_command=STUB_NODE) as connection, clients(home, connection) as cloud:
        cloud.make()
        [pid] = wait_until(cloud.pids)
        shutil.rmtree(home)
        wait_until(lambda: not is_alive(connection["pid"]))
        assert not is_alive(pid)
