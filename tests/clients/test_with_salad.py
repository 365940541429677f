"""The SaladCloud client against the local cloud, and against the real service if its keys are given."""

import uuid

import pytest
from pydantic import SecretStr

from flux_training.clients.connection import Connection
from flux_training.clients.errors import Conflict, NotFound, Unauthorized
from flux_training.clients.gpu_classes import find_gpu_class
from flux_training.clients.salad import ContainerGroup, GroupSpec, Salad

RTX_5090 = "851399fb-7329-4195-a042-d6514b28cf33"
CREDENTIAL = "canary-group-5d0e"


def spec_of(group: ContainerGroup, **changes: object) -> GroupSpec:
    fields: dict[str, object] = {
        "name": group.name,
        "image": group.container.image,
        "environment": {"FLUX_OWNER": "tests/clients"},
        "gpu_classes": group.container.resources.gpu_classes,
        "autostart": False,
    }
    return GroupSpec.model_validate(fields | changes)


def test_a_group_comes_back_as_it_was_declared(connection: Connection, group: ContainerGroup) -> None:
    read = connection.salad().get_group(group.name)
    assert read is not None
    assert read.id == group.id
    assert read.priority == "batch"
    assert read.replicas == 0
    assert read.container.resources.gpu_classes == [RTX_5090]
    assert read.container.resources.memory == 24 * 1024
    assert read.environment_value("FLUX_OWNER") == "tests/clients"
    assert read.autostart_policy is False
    assert read.id in {each.id for each in connection.salad().list_groups()}


def test_a_group_is_changed_in_place(connection: Connection, group: ContainerGroup) -> None:
    before = spec_of(group)
    after = spec_of(
        group,
        environment={"FLUX_OWNER": "tests/clients", "SECRET": SecretStr(CREDENTIAL)},
        memory=30 * 1024,
        display_name="a test",
    )
    connection.salad().patch_group(group.name, after.patch_body(before))
    read = connection.salad().get_group(group.name)
    assert read is not None
    assert read.id == group.id
    assert read.container.resources.memory == 30 * 1024
    assert read.container.resources.cpu == before.cpu
    assert read.display_name == "a test"
    assert read.environment_value("SECRET") == CREDENTIAL
    assert read.environment_value("FLUX_OWNER") == "tests/clients"
    assert CREDENTIAL not in repr(read)


def test_a_name_can_be_used_once(connection: Connection, group: ContainerGroup) -> None:
    with pytest.raises(Conflict):
        connection.salad().create_group(spec_of(group))


def test_a_deleted_group_frees_its_name(connection: Connection, group: ContainerGroup) -> None:
    salad = connection.salad()
    salad.delete_group(group.name)
    assert salad.get_group(group.name) is None
    salad.delete_group(group.name)
    assert salad.create_group(spec_of(group)).id != group.id


def test_a_group_without_replicas_has_no_instances(connection: Connection, group: ContainerGroup) -> None:
    assert list(connection.salad().instances(group.name)) == []


def test_missing_things(connection: Connection) -> None:
    salad, name = connection.salad(), f"flux-none-{uuid.uuid4().hex[:8]}"
    assert salad.get_group(name) is None
    with pytest.raises(NotFound):
        salad.patch_group(name, {"replicas": 1})
    with pytest.raises(NotFound):
        salad.instances(name)


def test_gpu_classes_have_names_and_prices(connection: Connection) -> None:
    gpu = find_gpu_class(connection.salad().gpu_classes(), "rtx 5090")
    assert gpu.id == RTX_5090
    price = gpu.price("batch")
    assert price is not None
    assert price > 0


def test_a_wrong_key_is_reported_and_not_shown(connection: Connection) -> None:
    wrong = SecretStr("canary-wrong-salad-key")
    salad = Salad(connection.salad_url, wrong, connection.organization, connection.project)
    with pytest.raises(Unauthorized, match="check the SaladCloud API key") as caught:
        salad.list_groups()
    assert "canary" not in str(caught.value)
