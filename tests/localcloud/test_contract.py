"""Requests of our clients to SaladCloud and Kelpie, and the local cloud's answers, compared with the OpenAPI documents.

The requests of whole `up` and `destroy` runs are checked in tests/faults.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from group_body import RTX_5090, group_body, job_body
from localcloud.chaos.proxy import Exchange, Proxy, api_service, connection_through_proxy
from localcloud.testing import STUB_NODE, kelpie_client, running_cloud, salad_client, wait_until

from flux_training.clients.connection import Connection, connect
from flux_training.clients.kelpie import JobRequest, Sync, SyncRule
from flux_training.clients.salad import GroupSpec
from tests.support.contracts import ACCEPTED, DATA, DOCUMENTS, deviations, document, unaccepted

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
# Operations that the local cloud lacks, because the product does not need them.
ABSENT = re.compile(
    r"/(queues|inference-endpoints|webhook-secret-key|log-entries|availability|system-logs)\b|/users$|/token$"
)


@dataclass
class Watched:
    """A cloud behind a proxy that stores all exchanges."""

    connection: dict[str, Any]
    exchanges: list[Exchange]
    clients: Connection


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("contract")
    exchanges: list[Exchange] = []
    settings = {"node_command": STUB_NODE, "nodes": 1, "autoscaler_seconds": 3600}
    with (
        running_cloud(folder / "cloud", **settings) as connection,
        Proxy(connection["page"].rstrip("/"), api_service, on_exchange=exchanges.append) as proxy,
    ):
        moved: dict[str, Any] = connection_through_proxy(connection, proxy.url, connection["s3"]["url"])
        (folder / "connection.json").write_text(json.dumps(moved))
        environment = {"FLUX_LOCAL_CLOUD": str(folder / "connection.json")}
        yield Watched(moved, exchanges, connect("local", {}, environment))


def use_our_salad_client(watched: Watched) -> None:
    salad = watched.clients.salad()
    spec = GroupSpec(
        name="contract-salad",
        image="image:1",
        environment={"A": "1"},
        gpu_classes=[salad.gpu_class_id("RTX 5090")],
        display_name="A group",
        autostart=False,
    )
    assert salad.get_group(spec.name) is None
    salad.create_group(spec)
    changed = spec.model_copy(update={"environment": {"B": "2"}, "replicas": 1})
    salad.patch_group(spec.name, changed.patch_body(spec))
    assert salad.list_groups()
    salad.start_group(spec.name)
    wait_until(lambda: salad.instances(spec.name))
    salad.stop_group(spec.name)
    salad.delete_group(spec.name)


def use_our_kelpie_client(watched: Watched) -> None:
    kelpie = watched.clients.kelpie()
    with salad_client(watched.connection) as salad:
        body = group_body("contract-kelpie", autostart_policy=False)
        group = salad.post("/containers", json=body).json()["id"]
    rule = {"bucket": "bkt", "prefix": "p/", "local_path": "d/"}
    job = JobRequest(
        container_group_id=group,
        command="python",
        arguments=["run.py"],
        environment={"A": "1"},
        sync=Sync(
            before=[SyncRule(**rule, direction="download")],
            during=[SyncRule(**rule, direction="upload", pattern="x")],
            after=[SyncRule(**rule, direction="upload")],
        ),
        webhook="http://127.0.0.1:9/",
    )
    posted = kelpie.post_job(job)
    assert kelpie.list_jobs(group, "pending") == [kelpie.get_job(posted.id)]
    kelpie.put_rule(group, 0, 1, 60)
    kelpie.put_rule(group, 0, 0, 60)
    assert kelpie.get_rule(group) is not None
    kelpie.delete_rule(group)
    assert kelpie.get_rule(group) is None
    assert kelpie.cancel_job(posted.id)


def ask_all_of_saladcloud(watched: Watched) -> None:
    connection = watched.connection
    with salad_client(connection) as salad:
        ask_for_groups(salad)
        headers = {"Salad-Api-Key": connection["salad"]["api_key"]}
        organization = f"{connection['salad']['url']}/organizations/org"
        for path in ("/gpu-classes", "/quotas"):
            assert httpx.get(organization + path, headers=headers).status_code == 200
        availability = f"{organization}/availability/sce-gpu-availability"
        for classes, status in (([RTX_5090], 200), ([], 400)):
            answer = httpx.post(availability, headers=headers, json={"gpu_classes": classes})
            assert answer.status_code == status
        assert salad.get("/containers", headers={"Salad-Api-Key": "wrong"}).status_code == 401


def ask_for_groups(salad: httpx.Client) -> None:
    group = group_body("contract-all", replicas=1, display_name="All of it", country_codes=["de", "us"])
    assert salad.post("/containers", json=group).status_code == 201
    assert salad.post("/containers", json=group).status_code == 409
    assert salad.post("/containers", json=group_body("Bad")).status_code == 400
    assert salad.post("/containers", json=group_body("many", replicas=400)).status_code == 403
    place = "/containers/contract-all"
    patch = {"container": {"resources": {"gpu_classes": [RTX_5090]}, "priority": "low"}, "display_name": None}
    assert salad.patch(place, json=patch, headers=MERGE_PATCH).status_code == 200
    assert salad.patch(place, json=patch).status_code == 415
    [instance] = wait_until(
        lambda: [i for i in salad.get(f"{place}/instances").json()["instances"] if i["state"] == "running"]
    )
    one = f"{place}/instances/{instance['id']}"
    assert salad.get(one).status_code == 202
    assert salad.patch(one, json={"deletion_cost": 1}, headers=MERGE_PATCH).status_code == 200
    assert salad.patch(one, json={"deletion_cost": -1}, headers=MERGE_PATCH).status_code == 400
    for what in ("restart", "recreate", "reallocate"):
        assert salad.post(f"{one}/{what}").status_code == 202
    for what in ("start", "stop"):
        assert salad.post(f"{place}/{what}").status_code == 202
        assert salad.post(f"/containers/none/{what}").status_code == 404
    assert salad.get("/containers/none").status_code == 404
    assert salad.get("/containers").status_code == 200
    assert salad.get(place).status_code == 200
    assert salad.delete(place).status_code == 202
    assert salad.delete("/containers/none").status_code == 404


def ask_all_of_kelpie(watched: Watched) -> None:
    with kelpie_client(watched.connection) as kelpie, salad_client(watched.connection) as salad:
        group = salad.post("/containers", json=group_body("contract-jobs", autostart_policy=False)).json()[
            "id"
        ]
        ask_for_jobs(kelpie, group)
        ask_for_rules(kelpie, group)
        assert kelpie.get("/users/me").status_code == 200
        # The recorded requests, including invalid ones.
        played = subprocess.run(
            [
                *(sys.executable, str(DATA / "transcript.py"), str(kelpie.base_url).rstrip("/")),
                *(str(DATA / "kelpie-scenario.json"), "--check", str(DATA / "kelpie-transcript.json")),
                *("--group", group),
            ],
            env={"SALAD_API_KEY": watched.connection["salad"]["api_key"]},
            capture_output=True,
            text=True,
            check=False,
        )
        # Some answers differ, because this server is not new; only the requests matter here.
        assert re.search(r"of 40", played.stdout), played.stdout + played.stderr


def ask_for_jobs(kelpie: httpx.Client, group: str) -> None:
    machine = {"machine_id": "m", "container_group_id": group}
    jobs = [kelpie.post("/jobs", json=job_body(group)).json()["id"] for _ in range(3)]
    assert kelpie.post("/jobs/batch", json=[job_body(group)] * 2).status_code == 202
    assert kelpie.post("/jobs/batch", json=[job_body(group)] * 101).status_code == 202
    assert kelpie.post("/jobs/batch", json=[]).status_code == 400
    [work] = kelpie.get("/work", params=machine).json()
    assert kelpie.get("/work", params={"machine_id": "m"}).status_code == 400
    place = f"/jobs/{work['id']}"
    for what, status in (("heartbeat", 200), ("failed", 202), ("completed", 200)):
        assert kelpie.post(f"{place}/{what}", json=machine).status_code == status
    assert kelpie.post("/jobs/none/heartbeat", json=machine).status_code == 404
    assert kelpie.get(place).json()["status"] == "completed"
    assert kelpie.get("/jobs", params={"container_group_id": group, "status": "pending"}).status_code == 200
    assert kelpie.delete(f"/jobs/{jobs[-1]}").status_code == 202
    assert kelpie.delete(f"/jobs/container-groups/{group}").status_code == 200
    assert kelpie.delete("/jobs").status_code == 403
    assert kelpie.get("/jobs", headers={"Salad-Api-Key": "wrong"}).status_code == 403
    assert httpx.get(f"{str(kelpie.base_url).rstrip('/')}/jobs").status_code == 401


def ask_for_rules(kelpie: httpx.Client, group: str) -> None:
    rule = {"container_group_id": group, "min_replicas": 0, "max_replicas": 1, "idle_threshold_seconds": 60}
    assert kelpie.post("/scaling-rules", json=rule).status_code == 201
    assert kelpie.post("/scaling-rules", json=rule).status_code == 500
    assert kelpie.get("/scaling-rules").status_code == 200
    assert kelpie.get(f"/scaling-rules/{group}").status_code == 200
    assert kelpie.patch(f"/scaling-rules/{group}", json={"max_replicas": 2}).status_code == 200
    assert kelpie.delete(f"/scaling-rules/{group}").status_code == 204
    assert kelpie.delete("/scaling-rules").status_code == 403


def test_all_requests_and_answers_match_the_openapi_documents(watched: Watched) -> None:
    for ask in (use_our_salad_client, use_our_kelpie_client, ask_all_of_saladcloud, ask_all_of_kelpie):
        ask(watched)
    assert unaccepted(watched.exchanges) == set()
    for service in DOCUMENTS:
        exchanges = [exchange for exchange in watched.exchanges if exchange.service == service]
        assert not_asked_for(service, exchanges) == []
        met = [text for exchange in exchanges for text in deviations(exchange)]
        idle = [
            pattern for pattern, _ in ACCEPTED[service] if not any(re.search(pattern, text) for text in met)
        ]
        assert idle == []


def not_asked_for(service: str, exchanges: list[Exchange]) -> list[str]:
    """The document's operations that the local cloud has but that were not requested."""
    prefix = DOCUMENTS[service][2]
    asked = {
        (exchange.method.lower(), urlsplit(exchange.target).path.removeprefix(prefix))
        for exchange in exchanges
    }
    return [
        f"{method} {template}"
        for template, item in document(service).spec["paths"].read_value().items()
        for method in item
        if method in ("get", "post", "patch", "delete")
        and not ABSENT.search(template)
        and not any(method == one and re.fullmatch(as_pattern(template), path) for one, path in asked)
    ]


def as_pattern(template: str) -> str:
    return re.sub(r"\{\w+\}", r"[^/]+", template)
