"""Building requests for a container group, choosing a GPU, waiting. With a working service: test_with_salad.py."""

import json
from decimal import Decimal

import httpx
import pytest
from pydantic import SecretStr

from flux_training.clients.errors import Invalid, Unavailable, UncertainOutcome
from flux_training.clients.gpu_classes import GpuClass, find_gpu_class
from flux_training.clients.http import RetryPolicy
from flux_training.clients.salad import ContainerGroup, GroupSpec, Salad
from flux_training.training.errors import BadInput

KEY = "canary-salad-19fe"
CREDENTIAL = "canary-node-8c21"
RTX_5090 = "851399fb-7329-4195-a042-d6514b28cf33"
RTX_4090 = "ed563892-aacd-40f5-80b7-90c9be6c759b"
SECURE_5090 = "11111111-7329-4195-a042-d6514b28cf33"
CLASSES = [
    GpuClass.model_validate(
        {"id": RTX_5090, "name": "RTX 5090 (32 GB)", "prices": [{"priority": "high", "price": "0.45"}]}
    ),
    GpuClass(id=SECURE_5090, name="RTX 5090 (32 GB)", gpu_class_type="secure"),
    GpuClass(id=RTX_4090, name="RTX 4090 (24 GB)"),
    GpuClass(id="3a4f0b3e-0000-4000-8000-000000000001", name="RTX 4080 (16 GB)"),
]
GROUP = {
    "id": "ab3a4591-efc3-46c0-b06a-3d820c0ec100",
    "name": "flux",
    "container": {
        "image": "i",
        "command": None,
        "resources": {"cpu": 4, "memory": 1024, "gpu_classes": []},
        "environment_variables": {"FLUX_OWNER": "p/s", "AWS_SECRET_ACCESS_KEY": CREDENTIAL},
    },
    "priority": "batch",
    "replicas": 1,
    "current_state": {"status": "running"},
    "unheard_of": {},
}


def salad(handler: object) -> Salad:
    assert callable(handler)
    return Salad(
        "http://salad.test/api",
        SecretStr(KEY),
        "org",
        "proj",
        httpx.MockTransport(handler),
        retry_policy=RetryPolicy(sleep=lambda _: None),
    )


def spec(**changes: object) -> GroupSpec:
    fields: dict[str, object] = {
        "name": "flux",
        "image": "example/trainer:1",
        "environment": {"FLUX_OWNER": "p/s", "AWS_SECRET_ACCESS_KEY": SecretStr(CREDENTIAL)},
        "gpu_classes": [RTX_5090],
    }
    return GroupSpec.model_validate(fields | changes)


def test_create_and_patch_are_one_body() -> None:
    create, patch = spec(replicas=2).create_body(), spec(replicas=2).patch_body()
    assert set(create) - set(patch) == {"name", "autostart_policy", "restart_policy"}
    assert {name: create[name] for name in patch} == patch
    assert create["container"]["priority"] == "batch"
    assert "priority" not in create
    assert "command" not in create["container"]
    assert create["container"]["environment_variables"]["AWS_SECRET_ACCESS_KEY"] == CREDENTIAL
    json.dumps(create)


def test_a_patch_holds_only_what_differs() -> None:
    before = spec(replicas=1, environment={"A": "1", "GONE": "x"}, display_name="old name")
    assert before.patch_body(before) == {}
    assert spec(replicas=3, environment={"A": "1", "GONE": "x"}).patch_body(before) == {
        "replicas": 3,
        "display_name": None,
    }
    after = spec(replicas=1, environment={"A": "2", "B": SecretStr("s")}, display_name="old name")
    assert after.patch_body(before) == {
        "container": {"environment_variables": {"A": "2", "B": "s", "GONE": None}}
    }


def test_all_findings_are_shown_without_secret_values() -> None:
    wrong = spec(
        name="Flux_1",
        display_name="ä",
        cpu=0,
        memory=10,
        storage=5,
        replicas=501,
        environment={"EMPTY": "", "LONG": SecretStr(CREDENTIAL * 100)},
    )
    with pytest.raises(BadInput) as caught:
        wrong.create_body()
    assert len(caught.value.findings) == 8
    assert "Flux_1" in str(caught.value)
    assert "LONG has 1600 characters" in str(caught.value)
    assert CREDENTIAL not in str(caught.value)
    with pytest.raises(BadInput):
        wrong.patch_body()


@pytest.mark.parametrize("name", ["ab", "a1", "flux-training-2", "a" * 63])
def test_valid_names(name: str) -> None:
    assert spec(name=name).findings() == []


@pytest.mark.parametrize("name", ["", "a", "1a", "a-", "-a", "A1", "a_b", "a" * 64, "ab\n"])
def test_invalid_names(name: str) -> None:
    assert len(spec(name=name).findings()) == 1


@pytest.mark.parametrize(
    ("wanted", "uuid"),
    [
        (RTX_5090, RTX_5090),
        (RTX_5090.upper(), RTX_5090),
        (SECURE_5090, SECURE_5090),
        ("RTX 5090 (32 GB)", RTX_5090),
        ("rtx5090", RTX_5090),
        ("4090", RTX_4090),
    ],
)
def test_a_gpu_is_found_by_uuid_name_or_part_of_its_name(wanted: str, uuid: str) -> None:
    assert find_gpu_class(CLASSES, wanted).id == uuid


@pytest.mark.parametrize("wanted", ["RTX 509", "RTX 50", "509", "TX 5090", "RTX 4090 (2"])
def test_a_part_of_a_word_is_no_gpu(wanted: str) -> None:
    with pytest.raises(BadInput, match=r"offers no GPU.*similar names: .*RTX"):
        find_gpu_class(CLASSES, wanted)


def test_a_ti_is_another_gpu() -> None:
    ti, plain = GpuClass(id="a", name="RTX 4070 Ti Super (16 GB)"), GpuClass(id="b", name="RTX 4070 (12 GB)")
    for wanted in ("RTX 4070", "4070", "RTX 4070 Ti"):
        with pytest.raises(BadInput, match="similar names: RTX 4070 Ti Super"):
            find_gpu_class([ti], wanted)
    assert find_gpu_class([ti, plain], "RTX 4070") is plain
    assert find_gpu_class([ti, plain], "4070 ti super") is ti


def test_an_unknown_gpu_is_reported_with_similar_names() -> None:
    with pytest.raises(BadInput, match=r"RTX 5070.*similar names: .*RTX 50?.90") as caught:
        find_gpu_class(CLASSES, "RTX 5070")
    assert "H100" not in str(caught.value)
    with pytest.raises(BadInput, match="RTX 4080"):
        find_gpu_class(CLASSES, "")
    with pytest.raises(BadInput, match="SaladCloud offers no GPU"):
        find_gpu_class(CLASSES, "00000000-0000-4000-8000-000000000000")


def test_an_ambiguous_gpu_is_reported_with_its_candidates() -> None:
    with pytest.raises(BadInput, match="is ambiguous") as caught:
        find_gpu_class(CLASSES, "RTX")
    assert RTX_4090 in str(caught.value)


def test_prices_are_exact() -> None:
    assert CLASSES[0].price("high") == Decimal("0.45")
    assert CLASSES[0].price("low") is None


def test_a_group_is_read_leniently_and_shows_no_credential() -> None:
    group = salad(lambda _: httpx.Response(200, json=GROUP)).get_group("flux")
    assert group is not None
    assert group.environment_value("FLUX_OWNER") == "p/s"
    assert group.environment_value("NONE") is None
    assert CREDENTIAL not in f"{group!r} {group}"
    assert CREDENTIAL not in f"{spec()!r} {spec()}"


def test_a_patch_is_sent_as_a_merge_patch() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.method == "PATCH"
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        assert request.url.path == "/api/organizations/org/projects/proj/containers/flux"
        assert json.loads(request.content) == {"replicas": 4}
        return httpx.Response(200, json=GROUP)

    assert isinstance(salad(handler).patch_group("flux", {"replicas": 4}), ContainerGroup)


def test_a_name_cannot_lead_to_another_path() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path == b"/api/organizations/org/projects/proj/containers/..%2Fx%3Fy"
        return httpx.Response(404)

    assert salad(handler).get_group("../x?y") is None


def test_a_lost_answer_to_create_is_uncertain() -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ReadError("reset")

    with pytest.raises(UncertainOutcome) as caught:
        salad(handler).create_group(spec())
    assert len(calls) == 1
    assert CREDENTIAL not in str(caught.value)


def test_starting_a_group_is_retried() -> None:
    replies = [httpx.Response(503), httpx.Response(202)]
    salad(lambda _: replies.pop(0)).start_group("flux")
    assert replies == []


def test_deleting_waits_until_the_group_is_gone() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "DELETE":
            return httpx.Response(202)
        return httpx.Response(200, json=GROUP) if len(asked) < 6 else httpx.Response(404)

    salad(handler).delete_group("flux")
    assert asked == ["GET", "DELETE", "GET", "GET", "GET", "GET"]


def test_a_refusal_that_quotes_the_environment_shows_no_secret() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        container = json.loads(request.content)["container"]
        quoted = " and ".join(container["environment_variables"].values())
        return httpx.Response(400, json={"title": "Bad value", "detail": quoted})

    wanted = spec(
        environment={"FLUX_OWNER": "p/s", "PART": SecretStr(CREDENTIAL[:10]), "K": SecretStr(CREDENTIAL)}
    )
    patch = wanted.patch_body(spec(environment={}))
    for act in (
        lambda: salad(handler).create_group(wanted),
        lambda: salad(handler).patch_group("flux", patch, wanted.secrets),
    ):
        with pytest.raises(Invalid, match=r"Bad value: p/s and \*\*\* and \*\*\*$"):
            act()


def test_the_wait_for_an_image_is_limited() -> None:
    states = iter(["pending", "pending", "stopped"])

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=GROUP | {"current_state": {"status": next(states, "pending")}})

    client = salad(handler)
    group = client.get_group("flux")
    assert group is not None
    assert client.prepared(group).current_state.status == "stopped"
    with pytest.raises(Unavailable, match="still preparing"):
        client.prepared(group, wait_seconds=0)


def test_a_new_group_of_the_same_name_ends_the_wait_for_a_deletion() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        new = GROUP | {"id": "another"} if len(asked) > 2 else GROUP
        return httpx.Response(202) if request.method == "DELETE" else httpx.Response(200, json=new)

    salad(handler).delete_group("flux")
    assert asked == ["GET", "DELETE", "GET"]


def test_the_wait_for_a_deletion_is_limited() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(202) if request.method == "DELETE" else httpx.Response(200, json=GROUP)

    with pytest.raises(Unavailable, match="still deleting"):
        salad(handler).delete_group("flux", wait_seconds=0)


def test_deleting_a_missing_group_succeeds() -> None:
    salad(lambda _: httpx.Response(404)).delete_group("flux")


def test_an_html_page_is_reported_by_its_title() -> None:
    page = "<html><head><title>Service Unavailable</title></head></html>"
    with pytest.raises(Unavailable, match="Service Unavailable"):
        salad(lambda _: httpx.Response(503, text=page)).list_groups()
    with pytest.raises(Invalid, match="a web page"):
        salad(lambda _: httpx.Response(400, text="<html>")).list_groups()


def test_repr_shows_no_key() -> None:
    client = salad(lambda _: httpx.Response(200))
    assert KEY not in f"{client!r}{vars(client)}"


@pytest.mark.parametrize(("machine", "reallocated"), [("m1", ["b"]), ("gone", []), ("", [])])
def test_the_instance_on_a_machine_is_reallocated_and_no_other(machine: str, reallocated: list[str]) -> None:
    """An instance that still waits for a machine has none."""
    states = [("a", "", "allocating"), ("b", "m1", "running"), ("c", "m2", "running")]
    instances = [{"id": one, "machine_id": where, "state": state} for one, where, state in states]
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(request.url.path.split("/")[-2])
            return httpx.Response(202)
        return httpx.Response(200, json={"instances": instances})

    assert salad(answer).reallocate_machine("flux", machine) == bool(reallocated)
    assert asked == reallocated
