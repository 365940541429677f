"""SaladCloud's API: container groups, quotas, prices, refusals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from group_body import RTX_5090, group_body
from localcloud.testing import running_cloud, salad_client, wait_until

CLOUD_SETTINGS = {"quota": 50}
SMALL: dict[str, Any] = {"cpu": 4, "memory": 2048}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def salad(connection: dict[str, Any]) -> Iterator[httpx.Client]:
    with salad_client(connection) as client:
        yield client
        for group in client.get("/containers").json()["items"]:
            client.delete(f"/containers/{group['name']}")
        wait_until(lambda: not client.get("/containers").json()["items"])


def make(salad: httpx.Client, name: str = "g1", **changes: Any) -> dict[str, Any]:
    answer = salad.post("/containers", json=group_body(name, **changes))
    assert answer.status_code == 201, answer.text
    group: dict[str, Any] = answer.json()
    return group


def patch(salad: httpx.Client, body: dict[str, Any], name: str = "g1") -> httpx.Response:
    return salad.patch(f"/containers/{name}", json=body, headers=MERGE_PATCH)


def test_a_group_is_read_as_created_with_priority_at_the_top_level(salad: httpx.Client) -> None:
    asked = group_body("g1", replicas=3)
    answer = salad.post("/containers", json=asked)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/organizations/org/projects/proj/containers/g1"
    read = salad.get("/containers/g1").json()
    assert read["priority"] == "high"
    assert "priority" not in read["container"]
    for name in asked["container"].keys() - {"priority", "resources"}:
        assert read["container"][name] == asked["container"][name]
    assert asked["container"]["resources"].items() <= read["container"]["resources"].items()
    assert (read["replicas"], read["version"], read["display_name"]) == (3, 1, "g1")
    assert [one["id"] for one in salad.get("/containers").json()["items"]] == [read["id"]]


def test_registry_credentials_are_never_read_back(salad: httpx.Client) -> None:
    secret = {"basic": {"username": "u", "password": "hunter2"}}
    make(salad, container_registry_authentication=secret)
    assert "hunter2" not in salad.get("/containers/g1").text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Upper"}, "name"),
        ({"name": "x"}, "name"),
        ({"name": "ends-with-"}, "name"),
        ({"name": "line\n"}, "name"),
        ({"replicas": 501}, "replicas"),
        ({"replicas": True}, "replicas"),
        ({"restart_policy": "sometimes"}, "restart_policy"),
        ({"autostart_policy": None}, "autostart_policy"),
        ({"display_name": "bad_name"}, "display_name"),
        ({"container_priority": "urgent"}, "container.priority"),
        ({"container_image": ""}, "container.image"),
        ({"container_environment_variables": {"EMPTY": ""}}, "container.environment_variables.EMPTY"),
        ({"container_environment_variables": {"LONG": "x" * 1001}}, "container.environment_variables.LONG"),
        ({"container_environment_variables": {"LINES": "a\nb"}}, "container.environment_variables.LINES"),
        ({"container_environment_variables": {"ENDED": "a\n"}}, "container.environment_variables.ENDED"),
        ({"container_environment_variables": {"NULL": None}}, "container.environment_variables.NULL"),
        ({"container_image": "two\nlines"}, "container.image"),
        ({"container_image_caching": "yes"}, "container.image_caching"),
        ({"container_registry_authentication": 5}, "container.registry_authentication"),
        ({"container_logging": 5}, "container.logging"),
        ({"networking": 5}, "networking"),
        ({"networking": {"auth": True, "port": 80}}, "networking.protocol"),
        ({"liveness_probe": {"period_seconds": 5}}, "liveness_probe.timeout_seconds"),
        ({"scheduled-scaling-enabled": "no"}, "scheduled-scaling-enabled"),
        ({"country_codes": ["us", "z1"]}, "country_codes"),
        ({"country_codes": [["us"]]}, "country_codes"),
        ({"container_resources": {"cpu": 4}}, "container.resources.memory"),
        ({"container_resources": {"cpu": 4, "memory": 512}}, "container.resources.memory"),
        ({"container_resources": SMALL | {"gpu_classes": [{}]}}, "container.resources.gpu_classes"),
        ({"container_resources": SMALL | {"gpu_classes": ["nope"]}}, "container.resources.gpu_classes"),
    ],
)
def test_invalid_groups_are_refused_with_the_field_name(
    salad: httpx.Client, changes: dict[str, Any], field: str
) -> None:
    answer = salad.post("/containers", json=group_body(**changes))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert field in answer.json()["errors"]
    assert salad.get("/containers").json()["items"] == []


def test_norway_is_accepted_as_country_code_no(salad: httpx.Client) -> None:
    assert make(salad, country_codes=["no", "us"])["country_codes"] == ["no", "us"]


def test_refusals_do_not_repeat_environment_values(salad: httpx.Client) -> None:
    secret = "s3cr3t" * 200
    answer = salad.post("/containers", json=group_body(container_environment_variables={"KEY": secret}))
    assert answer.status_code == 400
    assert "s3cr3t" not in answer.text


def test_group_names_are_unique(salad: httpx.Client) -> None:
    make(salad)
    answer = salad.post("/containers", json=group_body())
    assert answer.status_code == 409
    assert "g1" in answer.json()["detail"]


def test_the_quota_counts_all_groups(connection: dict[str, Any], salad: httpx.Client) -> None:
    make(salad, "g1", replicas=30)
    refused = salad.post("/containers", json=group_body("g2", replicas=21))
    assert refused.status_code == 403
    make(salad, "g2", replicas=20)
    assert patch(salad, {"replicas": 31}).status_code == 403
    quotas = salad.get(f"{connection['salad']['url']}/organizations/org/quotas").json()
    full = {"container_replicas_quota": 50, "container_replicas_used": 50}
    assert quotas["container_groups_quotas"] == full


def test_gpu_classes_have_prices_as_strings_by_priority(
    connection: dict[str, Any], salad: httpx.Client
) -> None:
    answer = salad.get(f"{connection['salad']['url']}/organizations/org/gpu-classes")
    found = {gpu["id"]: gpu for gpu in answer.json()["items"]}
    prices = found[RTX_5090]["prices"]
    assert [price["priority"] for price in prices] == ["high", "medium", "low", "batch"]
    assert all(isinstance(price["price"], str) and float(price["price"]) > 0 for price in prices)


def test_a_patch_merges_and_ignores_fields_outside_its_schema(salad: httpx.Client) -> None:
    before = make(salad, container_environment_variables={"A": "1", "B": "2"})
    change = {
        "name": "other",
        "autostart_policy": False,
        "restart_policy": "never",
        "replicas": 2,
        "container": {"image": "new:tag", "priority": "low", "environment_variables": {"B": "3", "C": "4"}},
    }
    answer = patch(salad, change)
    assert answer.status_code == 200
    after = answer.json()
    moving = ("current_state", "pending_change")
    read = salad.get("/containers/g1").json()
    assert {**after, **dict.fromkeys(moving)} == {**read, **dict.fromkeys(moving)}
    assert (after["id"], after["name"]) == (before["id"], "g1")
    assert (after["autostart_policy"], after["restart_policy"]) == (True, "always")
    assert (after["replicas"], after["priority"], after["version"]) == (2, "low", 2)
    assert after["container"]["image"] == "new:tag"
    assert after["container"]["environment_variables"] == {"A": "1", "B": "3", "C": "4"}
    assert after["container"]["resources"] == before["container"]["resources"]
    removed = patch(salad, {"container": {"environment_variables": {"B": None}}}).json()
    assert removed["container"]["environment_variables"] == {"A": "1", "C": "4"}
    assert patch(salad, {"display_name": "Fine name"}).json()["display_name"] == "Fine name"
    assert patch(salad, {"display_name": None}).json()["display_name"] == "g1"


def test_a_patch_limits_the_image_name_more_than_a_new_group(salad: httpx.Client) -> None:
    make(salad, container_image="i" * 2048)
    answer = patch(salad, {"container": {"image": "i" * 1025}})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["container.image"])


def test_a_patch_must_be_a_merge_patch(salad: httpx.Client) -> None:
    make(salad)
    assert salad.patch("/containers/g1", json={"replicas": 2}).status_code == 415
    assert patch(salad, {"replicas": 501}).status_code == 400
    assert patch(salad, {"replicas": 2}, "unknown").status_code == 404


def test_a_group_without_a_free_machine_is_deploying(salad: httpx.Client) -> None:
    make(salad, replicas=2)
    wait_until(lambda: salad.get("/containers/g1").json()["current_state"]["status"] == "deploying")
    instances = wait_until(lambda: salad.get("/containers/g1/instances").json()["instances"])
    assert [one["state"] for one in instances] == ["allocating", "allocating"]
    counts = salad.get("/containers/g1").json()["current_state"]["instance_status_counts"]
    assert (counts["allocating_count"], counts["running_count"]) == (2, 0)


def test_a_group_without_autostart_waits_for_start(salad: httpx.Client) -> None:
    make(salad, autostart_policy=False)

    def status() -> str:
        return str(salad.get("/containers/g1").json()["current_state"]["status"])

    wait_until(lambda: status() == "stopped")
    assert salad.post("/containers/g1/start").status_code == 202
    wait_until(lambda: salad.get("/containers/g1/instances").json()["instances"])
    assert salad.post("/containers/g1/stop").status_code == 202
    wait_until(lambda: status() == "stopped")
    wait_until(lambda: not salad.get("/containers/g1/instances").json()["instances"])
    assert salad.post("/containers/unknown/start").status_code == 404


def test_deletion_is_asynchronous(salad: httpx.Client) -> None:
    first = make(salad)
    answer = salad.delete("/containers/g1")
    assert (answer.status_code, answer.content) == (202, b"")
    assert salad.get("/containers/g1").status_code == 200
    assert salad.post("/containers", json=group_body()).status_code == 409
    wait_until(lambda: salad.get("/containers/g1").status_code == 404)
    assert salad.delete("/containers/g1").status_code == 404
    assert make(salad)["id"] != first["id"]


def test_wrong_keys_and_unknown_projects_are_refused(connection: dict[str, Any], salad: httpx.Client) -> None:
    assert salad.get("/containers", headers={"Salad-Api-Key": "wrong"}).status_code == 401
    base = connection["salad"]["url"]
    for path in ("/organizations/org/projects/other/containers", "/organizations/other/gpu-classes", "/nope"):
        problem = salad.get(base + path)
        assert problem.status_code == 404
        assert problem.json()["status"] == 404


def test_more_requests_than_a_minute_allows_are_429(tmp_path: Path) -> None:
    with (
        running_cloud(tmp_path / "cloud", nodes=0, requests_per_minute=5) as connection,
        salad_client(connection) as client,
    ):
        answers = [client.get("/containers") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert "5 requests" in answers[-1].json()["detail"]
