"""Kelpie's API, compared with the recorded transcript and docs/services.md."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from group_body import group_body, job_body
from localcloud.testing import kelpie_client, logged_requests, running_cloud, salad_client, wait_until

CLOUD_SETTINGS = {"heartbeat_seconds": 0.05, "autoscaler_seconds": 3600}
DATA = Path(__file__).parent / "data"


@pytest.fixture
def kelpie(connection: dict[str, Any]) -> Iterator[httpx.Client]:
    with kelpie_client(connection) as client:
        yield client


@pytest.fixture
def group(connection: dict[str, Any], request: pytest.FixtureRequest) -> str:
    """The id of a new group for this test."""
    name = f"g-{abs(hash(request.node.name))}"
    with salad_client(connection) as salad:
        return str(salad.post("/containers", json=group_body(name)).raise_for_status().json()["id"])


def work(kelpie: httpx.Client, group: str, machine: str = "m1") -> list[dict[str, Any]]:
    query = {"machine_id": machine, "container_group_id": group}
    found: list[dict[str, Any]] = kelpie.get("/work", params=query).json()
    return found


def report(kelpie: httpx.Client, job: str, what: str, group: str, machine: str = "m1") -> httpx.Response:
    return kelpie.post(f"/jobs/{job}/{what}", json={"machine_id": machine, "container_group_id": group})


def post(kelpie: httpx.Client, group: str, **changes: Any) -> str:
    answer = kelpie.post("/jobs", json=job_body(group, **changes))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_all_40_requests_of_the_transcript_are_answered_as_recorded(tmp_path: Path) -> None:
    with running_cloud(tmp_path / "cloud", nodes=0, autoscaler_seconds=3600) as connection:
        with salad_client(connection) as salad:
            identity = salad.post("/containers", json=group_body("g1")).json()["id"]
        keys = connection["salad"]
        done = subprocess.run(
            [
                *(sys.executable, str(DATA / "transcript.py"), connection["kelpie"]["url"]),
                *(str(DATA / "kelpie-scenario.json"), "--check", str(DATA / "kelpie-transcript.json")),
                *("--group", identity),
            ],
            env={
                **os.environ,
                "SALAD_API_KEY": keys["api_key"],
                "SALAD_ORGANIZATION": keys["organization"],
                "SALAD_PROJECT": keys["project"],
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == "40 of 40 steps alike\n"


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"Salad-Api-Key": "wrong"}, 403, "Invalid API Key"),
        ({"Salad-Organization": "other"}, 403, "Invalid Organization Name"),
        ({"Salad-Project": "other"}, 403, "Invalid Project 'other'"),
        ({"Salad-Api-Key": "", "Authorization": "Bearer x"}, 403, "Invalid JWT"),
        ({"Salad-Api-Key": "", "Authorization": "Bearer x.y.z"}, 403, "signature"),
        ({"Salad-Api-Key": "", "Salad-Project": "", "Authorization": "Bearer x"}, 400, "Salad-Project"),
    ],
)
def test_unauthenticated_callers_are_refused(
    kelpie: httpx.Client, changes: dict[str, str], status: int, message: str
) -> None:
    answer = kelpie.get("/jobs", headers=changes)
    assert answer.status_code == status
    assert message in answer.json()["message"]
    assert answer.headers["content-type"].startswith("text/plain")


def test_the_same_body_twice_is_two_jobs(kelpie: httpx.Client, group: str) -> None:
    assert post(kelpie, group) != post(kelpie, group)
    listed = kelpie.get("/jobs", params={"container_group_id": group}).json()
    assert listed["_count"] == 2


def test_count_is_the_length_of_the_page(kelpie: httpx.Client, group: str) -> None:
    made = {post(kelpie, group) for _ in range(5)}
    seen: list[str] = []
    for page in (1, 2, 3, 4):
        query = {"container_group_id": group, "page_size": 2, "page": page, "asc": "true"}
        answer = kelpie.get("/jobs", params=query).json()
        assert answer["_count"] == len(answer["jobs"])
        seen += [job["id"] for job in answer["jobs"]]
    assert sorted(seen) == sorted(made)


def test_unknown_fields_are_dropped_and_environment_is_returned(kelpie: httpx.Client, group: str) -> None:
    job = post(kelpie, group, environment={"FLUX_RUN_ID": "0123456789ab"}, idempotency_key="x")
    shown = kelpie.get(f"/jobs/{job}").json()
    assert shown["environment"] == {"FLUX_RUN_ID": "0123456789ab"}
    assert "idempotency_key" not in shown


@pytest.mark.parametrize("query", [{"page_size": "1e30"}, {"page": "1e18", "page_size": "100"}])
def test_a_page_number_too_large_for_the_database_is_a_database_error(
    kelpie: httpx.Client, query: dict[str, str]
) -> None:
    answer = kelpie.get("/jobs", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert "D1_ERROR" in answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 100000, b'{"max_failures": NaN}', b'{"command": "\\ud800"}'],
    ids=["deep", "NaN", "half a pair"],
)
def test_invalid_json_is_a_bad_request_in_every_api(
    connection: dict[str, Any], kelpie: httpx.Client, body: bytes
) -> None:
    assert kelpie.post("/jobs", content=body).status_code == 400
    with salad_client(connection) as salad:
        headers = {"Content-Type": "application/json"}
        assert salad.post("/containers", content=body, headers=headers).status_code == 400
    cloudflare = connection["cloudflare"]
    place = f"{cloudflare['url']}/accounts/{cloudflare['account_id']}/r2/buckets"
    headers = {"Authorization": f"Bearer {cloudflare['api_token']}"}
    assert httpx.post(place, content=body, headers=headers).status_code == 400


def test_a_batch_is_not_answered_in_the_order_of_the_request(kelpie: httpx.Client, group: str) -> None:
    markers = [str(number) for number in range(20)]
    bodies = [job_body(group, environment={"N": marker}) for marker in markers]
    answer = kelpie.post("/jobs/batch", json=bodies)
    assert answer.status_code == 202
    got = [job["environment"]["N"] for job in answer.json()]
    assert sorted(got) == sorted(markers)
    assert got != markers


def test_a_machine_without_heartbeats_loses_its_job(kelpie: httpx.Client, group: str) -> None:
    job = post(kelpie, group)
    assert [one["id"] for one in work(kelpie, group, "m1")] == [job]
    taken = wait_until(lambda: work(kelpie, group, "m2"))
    assert (taken[0]["id"], taken[0]["machine_id"]) == (job, "m2")
    assert report(kelpie, job, "heartbeat", group, "m1").json() == {"status": "canceled"}
    assert report(kelpie, job, "heartbeat", group, "m2").json() == {"status": "running"}


def test_a_job_with_failures_is_handed_out_again_until_max_failures(kelpie: httpx.Client, group: str) -> None:
    job = post(kelpie, group, max_failures=2)
    work(kelpie, group)
    assert report(kelpie, job, "failed", group).status_code == 202
    assert kelpie.get(f"/jobs/{job}").json()["status"] == "running"
    assert wait_until(lambda: work(kelpie, group, "m2"))[0]["num_failures"] == 1
    report(kelpie, job, "failed", group, "m2")
    shown = kelpie.get(f"/jobs/{job}").json()
    assert (shown["status"], shown["num_failures"]) == ("failed", 2)
    assert work(kelpie, group) == []


def test_purging_a_group_fails_when_a_job_is_running(kelpie: httpx.Client, group: str) -> None:
    running = post(kelpie, group)
    work(kelpie, group)
    waiting = post(kelpie, group)
    answer = kelpie.delete(f"/jobs/container-groups/{group}")
    assert answer.status_code == 500
    assert "NOT NULL constraint failed" in answer.json()["message"]
    assert kelpie.get(f"/jobs/{running}").json()["status"] == "running"
    assert kelpie.get(f"/jobs/{waiting}").status_code == 404


def test_min_above_max_is_accepted(kelpie: httpx.Client, group: str) -> None:
    rule = {"container_group_id": group, "min_replicas": 9, "max_replicas": 1, "idle_threshold_seconds": 0}
    assert kelpie.post("/scaling-rules", json=rule).status_code == 201
    assert kelpie.delete(f"/scaling-rules/{group}").status_code == 204


class Hook(BaseHTTPRequestHandler):
    """Stores what is posted to it, and answers with an error."""

    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(json.loads(body))
        self.send_response(500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("OwnHook", (Hook,), {"got": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", handler.got
    server.shutdown()
    thread.join()
    server.server_close()


def test_webhooks_post_running_completed_and_failed_once_each(
    kelpie: httpx.Client, group: str, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, got = hook
    job = post(kelpie, group, webhook=url, max_failures=1)
    work(kelpie, group)
    wait_until(lambda: len(got) == 1)
    report(kelpie, job, "completed", group)
    wait_until(lambda: len(got) == 2)
    report(kelpie, job, "failed", group)
    wait_until(lambda: len(got) == 3)
    kelpie.delete(f"/jobs/{job}")
    assert [one["status"] for one in got] == ["running", "completed", "failed"]
    assert got[0] == {"status": "running", "job_id": job, "machine_id": "m1", "container_group_id": group}


def test_each_request_is_logged_on_one_line_without_keys(
    kelpie: httpx.Client, connection: dict[str, Any]
) -> None:
    kelpie.get("/jobs/in-the-log", params={"a": "b"})
    # The line is written after the answer was sent.
    path = "/jobs/in-the-log"
    entries = wait_until(lambda: [one for one in logged_requests(connection) if one["path"] == path])
    assert len(entries) == 1
    wanted = {"service": "kelpie", "client": "product", "method": "GET", "query": "a=b", "status": 400}
    assert wanted.items() <= entries[0].items()
    assert connection["salad"]["api_key"] not in Path(connection["request_log"]).read_text()


@pytest.mark.parametrize("settings", [{}, {"ban_machines": False}, {"work_race_seconds": 0.5}])
def test_handing_out_work(tmp_path: Path, settings: dict[str, Any]) -> None:
    fixed = {"nodes": 0, "heartbeat_seconds": 0.6, "autoscaler_seconds": 3600}
    with (
        running_cloud(tmp_path / "cloud", **fixed, **settings) as connection,
        kelpie_client(connection) as kelpie,
        ThreadPoolExecutor(8) as pool,
    ):
        job = post(kelpie, "some-group")
        machines = [f"m{number}" for number in range(8)]
        taken = list(pool.map(lambda machine: work(kelpie, "some-group", machine), machines))
        if "work_race_seconds" in settings:
            assert sum(map(len, taken)) > 1
            return
        assert sum(map(len, taken)) == 1
        report(kelpie, job, "failed", "some-group", "m9")
        again = wait_until(lambda: work(kelpie, "some-group", "m10"))
        assert again[0]["id"] == job
        wait_until(lambda: work(kelpie, "some-group", "m11"))
        if "ban_machines" in settings:
            assert wait_until(lambda: work(kelpie, "some-group", "m9"))
        else:
            assert work(kelpie, "some-group", "m9") == []
