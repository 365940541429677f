"""`python -m localcloud chaos`: faults of services and nodes, on demand and by a seed."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from group_body import group_body, job_body
from localcloud.chaos.settings import Chaos
from localcloud.home import write_json
from localcloud.testing import (
    STUB_NODE,
    kelpie_client,
    run_localcloud,
    running_cloud,
    s3_client,
    salad_client,
    wait_until,
)

from flux_training.clients.connection import connect
from flux_training.clients.kelpie import Job

HOLD = {"HOLD": "1"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cloud"


def chaos(home: Path, *arguments: str, code: int = 0) -> str:
    done = run_localcloud(home, "chaos", *arguments)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_active_faults_are_listed_and_can_be_ended(home: Path) -> None:
    assert chaos(home) == "nothing\n"
    chaos(home, "bad-gpu", "--share", "0.5", "--seed", "3")
    chaos(home, "kelpie-403", "--next", "2")
    assert chaos(home) == 'bad-gpu: {"share": 0.5, "seed": 3}\nkelpie-403: {"next": 2, "seed": 0}\n'
    chaos(home, "off", "bad-gpu")
    assert "bad-gpu" not in chaos(home)
    chaos(home, "off")
    assert chaos(home) == "nothing\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("kelpie-403",), 2, "--next"),
        (("salad-html", "--rate", "2"), 2, "2 is not between 0 and 1"),
        (("slow-network", "--amount", "0"), 2, "0 is less than 1"),
        (("earthquake",), 2, "earthquake"),
        (("interrupt",), 1, "no node runs"),
        (("interrupt", "abc"), 1, "no node abc runs"),
        (("proxy",), 1, "does not run"),
    ],
)
def test_impossible_commands_are_refused(
    home: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    told = chaos(home, *arguments, code=code)
    assert said in told
    assert "Traceback" not in told


def test_the_same_seed_causes_the_same_faults(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"

    def draws(seed: int) -> list[object]:
        entries = {
            "salad-html": {"rate": 0.5, "seed": seed},
            "bad-gpu": {"share": 0.5, "seed": seed},
            "interrupt": {"per_hour": 60, "seed": seed},
        }
        write_json(path, entries)
        made = Chaos(path)
        return [(made.is_due("salad-html"), made.draw_conditions(), made.draw_lifetime()) for _ in range(40)]

    first = draws(1)
    assert draws(1) == first
    assert draws(2) != first
    assert {entry[0] for entry in first} == {True, False}
    assert {entry[1] for entry in first} == {"", "bad-gpu"}


def test_our_clients_survive_faults_of_the_services(home: Path) -> None:
    with (
        running_cloud(home, nodes=0) as connection,
        kelpie_client(connection) as kelpie,
        salad_client(connection) as salad,
    ):
        chaos(home, "kelpie-403", "--next", "3")
        refused = [kelpie.get("/jobs") for _ in range(4)]
        assert [answer.status_code for answer in refused] == [403, 403, 403, 200]
        assert {answer.json()["message"] for answer in refused[:3]} == {
            "Error Accessing Authentication Service",
            "Network connection lost.",
            "Invalid Project 'proj': fetch failed",
        }
        assert refused[0].headers["content-type"].startswith("text/plain")
        chaos(home, "salad-html", "--next", "1")
        page = salad.get("/containers")
        assert (page.status_code, page.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert salad.get("/containers").json() == {"items": []}

        chaos(home, "kelpie-403", "--rate", "0.3", "--seed", "5")
        chaos(home, "salad-html", "--rate", "0.3", "--seed", "5")
        assert 5 < sum(kelpie.get("/jobs").status_code == 403 for _ in range(40)) < 25
        ours = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")})
        assert ours.kelpie().list_jobs() == []
        assert ours.salad().list_groups() == []


@pytest.fixture
def busy(home: Path) -> Iterator[dict[str, Any]]:
    """A cloud with one node, whose job does not end."""
    with (
        running_cloud(home, node_command=STUB_NODE, nodes=2) as connection,
        salad_client(connection) as salad,
        kelpie_client(connection) as kelpie,
    ):
        group = salad.post("/containers", json=group_body(container_environment_variables=HOLD)).json()["id"]
        job = kelpie.post("/jobs", json=job_body(group)).json()["id"]
        wait_until(lambda: kelpie.get(f"/jobs/{job}").json()["status"] == "running")
        yield connection


def nodes(connection: dict[str, Any]) -> list[dict[str, Any]]:
    with salad_client(connection) as salad:
        found: list[dict[str, Any]] = salad.get("/containers/g1/instances").json()["instances"]
        return [node for node in found if node["state"] == "running"]


@pytest.mark.parametrize("how", [(), ("--kill",)])
def test_a_node_is_taken_away_on_demand(home: Path, busy: dict[str, Any], how: tuple[str, ...]) -> None:
    [before] = nodes(busy)
    assert before["id"] in chaos(home, "interrupt", *how)
    [after] = wait_until(lambda: [node for node in nodes(busy) if node["id"] != before["id"]])
    assert after["machine_id"] != before["machine_id"]


def test_nodes_are_taken_away_at_a_rate(home: Path, busy: dict[str, Any]) -> None:
    """The bill lists each machine that a node ran on, however shortly."""
    chaos(home, "interrupt", "--per-hour", "36000")
    [first] = nodes(busy)
    chaos(home, "interrupt", first["id"][:8])
    with contextlib.closing(sqlite3.connect(home / "cloud.db")) as database:
        machines = "SELECT DISTINCT machine_id FROM billing"
        wait_until(lambda: len(database.execute(machines).fetchall()) > 2)
    chaos(home, "off")


def test_a_restart_keeps_the_machine(home: Path, busy: dict[str, Any]) -> None:
    [node] = nodes(busy)
    place = home / "nodes" / node["id"] / "env.json"
    with salad_client(busy) as salad:
        for how in ("restart", "recreate"):
            wait_until(place.exists)
            place.unlink()
            path = f"/containers/g1/instances/{node['id']}"
            assert salad.post(f"{path}/{how}").status_code == 202
            wait_until(place.exists)
            again = wait_until(lambda: nodes(busy))
            assert [one["machine_id"] for one in again] == [node["machine_id"]]
        assert salad.post("/containers/g1/instances/none/restart").status_code == 404


TRAINER = """\
import pathlib, sys
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/big").write_bytes(bytes(200 * 1024))
exec(pathlib.Path("run.py").read_text()) if "gpu" in sys.argv else None
"""


def run_on(home: Path, condition: tuple[str, ...], *arguments: str, objects: int = 0) -> tuple[Job, Path]:
    """Run a job on a node with a bad condition; return the ended job and the bucket's folder."""
    with running_cloud(home, nodes=1, heartbeat_seconds=0.1) as connection:
        s3 = s3_client(connection)
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key="in/program.py", Body=TRAINER.encode())
        for number in range(objects):
            s3.put_object(Bucket="bkt", Key=f"in/{number}", Body=bytes(16 * 1024))
        chaos(home, *condition)
        environment = {
            "AWS_ACCESS_KEY_ID": connection["s3"]["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": connection["s3"]["secret_access_key"],
            "AWS_ENDPOINT_URL": connection["s3"]["url"],
            "AWS_REGION": "auto",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        }
        place = {"bucket": "bkt", "local_path": "in/", "prefix": "in/", "direction": "download"}
        result = {"bucket": "bkt", "local_path": "out/", "prefix": "out/", "direction": "upload"}
        with salad_client(connection) as salad, kelpie_client(connection) as kelpie:
            made = salad.post("/containers", json=group_body(container_environment_variables=environment))
            body = job_body(
                made.json()["id"],
                arguments=["in/program.py", *arguments],
                max_failures=1,
                sync={"before": [place], "after": [result]},
            )
            job = kelpie.post("/jobs", json=body).json()["id"]
            ended = ("completed", "failed")
            wait_until(lambda: kelpie.get(f"/jobs/{job}").json()["status"] in ended)
            return Job.model_validate(kelpie.get(f"/jobs/{job}").json(), extra="ignore"), home / "s3/bkt"


def test_a_full_disk_is_a_counted_failure(home: Path) -> None:
    job, bucket = run_on(home, ("full-disk", "--amount", "100"))
    assert (job.status, job.num_failures) == ("failed", 1)
    assert not (bucket / "out/big").exists()


def test_a_bad_gpu_is_a_counted_failure(home: Path) -> None:
    job, _ = run_on(home, ("bad-gpu",), "gpu")
    assert (job.status, job.num_failures) == ("failed", 1)
    assert "CUDA error" in "".join(path.read_text() for path in (home / "log").glob("node-*"))


def test_a_slow_network_transfers_everything(home: Path) -> None:
    job, bucket = run_on(home, ("slow-network", "--amount", "400"), objects=3)
    assert job.status == "completed"
    assert (bucket / "out/big").stat().st_size == 200 * 1024
    logged = "".join(path.read_text() for path in (home / "log").glob("node-*"))
    assert "this machine has: slow-network=400" in logged


def test_the_proxy_prints_its_connection_file_and_removes_it_at_the_end(home: Path) -> None:
    with running_cloud(home, nodes=0):
        command = [sys.executable, "-m", "localcloud", "--home", str(home), "chaos", "proxy", "--rate", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
            assert proxy.stdout is not None
            assert str(home / "connection-faulty.json") in proxy.stdout.readline()
            faulty = json.loads((home / "connection-faulty.json").read_text())
            assert httpx.get(faulty["page"]).status_code == 200
            for service in ("kelpie", "salad", "cloudflare", "s3"):
                assert failed(faulty[service]["url"] + "/jobs")
            proxy.send_signal(signal.SIGINT)
            assert "4 requests; failed" in proxy.stdout.read()
        assert proxy.returncode == 0
    assert not (home / "connection-faulty.json").exists()


def failed(url: str) -> bool:
    try:
        return httpx.get(url).status_code >= 400
    except httpx.HTTPError:
        return True
