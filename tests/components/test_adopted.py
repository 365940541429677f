"""What `destroy` leaves alone: what another stack has adopted by now, and what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcloud.testing import running_cloud

from components.bucket import BucketProvider, keys_of_runs
from components.container_group import ContainerGroupProvider
from components.properties import Props
from components.provider import FluxProvider, home
from components.scaling_rule import ScalingRuleProvider
from flux_training.clients.connection import Connection, connect
from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import Layout

A, B = "flux-training/a", "flux-training/b"
_numbers = count()
P = TypeVar("P", bound=FluxProvider)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    place = tmp_path_factory.mktemp("cloud")
    with running_cloud(place, nodes=0):
        yield connect("local", {}, {"FLUX_LOCAL_CLOUD": str(place / "connection.json")})


def provider(kind: type[P], connection: Connection) -> P:
    made = kind()
    made.connection = connection
    made.cluster_environment = {}
    return made


def group_props(connection: Connection, owner: str, name: str, adopt: bool = False) -> Props:
    return {
        "home": home(connection),
        "name": name,
        "image": "some/image:1",
        "gpu": "RTX 5090",
        "priority": "batch",
        "cpu": 2,
        "memory": 8,
        "storage": 10,
        "replicas": 0,
        "autoscale": True,
        "variables": "",
        "credentials": "",
        "owner": owner,
        "adopt": adopt,
    }


class Handed:
    """A container group that stack A made and stack B has adopted, with the rule that B wants for it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = f"adopted-{os.getpid()}-{next(_numbers)}"
        self.groups = provider(ContainerGroupProvider, connection)
        self.rules = provider(ScalingRuleProvider, connection)
        self.made = self.groups.create(group_props(connection, A, self.name))
        self.rules.create(self.rule(A))
        self.adopted = self.groups.create(group_props(connection, B, self.name, adopt=True))
        self.rules.create(self.rule(B))

    def rule(self, owner: str) -> dict[str, Any]:
        place = {"home": home(self.connection), "groupId": self.made.id, "groupName": self.name}
        return {**place, "owner": owner, "minReplicas": 0, "maxReplicas": 1, "idleThresholdSeconds": 60}

    def now(self) -> ContainerGroup | None:
        return self.connection.salad().get_group(self.name)

    def destroy(self, owner: str, outputs: Props) -> None:
        """As `destroy` does: the rule first."""
        self.rules.delete(self.made.id, self.rule(owner))
        self.groups.delete(self.made.id, outputs)


def test_destroy_leaves_a_group_that_another_stack_adopted(connection: Connection) -> None:
    handed = Handed(connection)
    before = handed.now()
    handed.destroy(A, handed.made.outs)
    assert handed.now() == before
    assert connection.kelpie().get_rule(handed.made.id) is not None


def test_refresh_drops_a_group_that_another_stack_adopted(connection: Connection) -> None:
    handed = Handed(connection)
    assert handed.groups.read(handed.made.id, handed.made.outs).id == ""
    assert handed.groups.read(handed.made.id, handed.adopted.outs).id == handed.made.id


def test_a_released_group_is_kept_when_its_first_stack_is_destroyed(connection: Connection) -> None:
    handed = Handed(connection)
    handed.destroy(B, handed.adopted.outs)
    released = handed.now()
    assert released is not None
    assert released.environment_value("FLUX_OWNER") is None
    handed.destroy(A, handed.made.outs)
    assert handed.now() == released
    assert connection.kelpie().get_rule(handed.made.id) is None


def test_a_released_group_loses_the_stacks_environment(connection: Connection) -> None:
    salad, name = connection.salad(), f"adopted-{os.getpid()}-{next(_numbers)}"
    gpu = salad.gpu_class_id("RTX 5090")
    salad.create_group(GroupSpec(name=name, image="theirs:1", gpu_classes=[gpu], autostart=False))
    groups = provider(ContainerGroupProvider, connection)
    groups.cluster_environment = {"HF_HOME": "/x", "HF_TOKEN": "canary-hf-77d0"}
    props = group_props(connection, A, name, adopt=True) | {"variables": "HF_HOME, HF_TOKEN"}
    adopted = groups.create(props)
    assert adopted.id is not None
    during = salad.get_group(name)
    assert during is not None
    assert during.environment_value("HF_TOKEN") == "canary-hf-77d0"
    groups.delete(adopted.id, adopted.outs)
    left = salad.get_group(name)
    assert left is not None
    assert left.container.environment_variables == {}


def bucket_props(connection: Connection, owner: str, bucket: str, adopt: bool = False) -> Props:
    place = {"home": home(connection), "kind": "s3", "bucket": bucket, "prefix": ""}
    return {**place, "location": None, "owner": owner, "adopt": adopt, "results": "delete", "retention": None}


def bucket_with(connection: Connection, *keys: str) -> Storage:
    storage = connection.storage(f"adopted-{os.getpid()}-{next(_numbers)}")
    storage.create_bucket()
    for key in keys:
        storage.put_bytes(key, b"x")
    return storage


RUN = "runs/cat/0123456789ab/"
OF_RUN = (
    f"{RUN}claim.json",
    f"{RUN}config/train.yml",
    f"{RUN}model/cat.safetensors",
    f"{RUN}output/run.json",
)


def keys(storage: Storage) -> set[str]:
    return {item.key for item in storage.list("")}


def test_a_bucket_that_another_stack_has_adopted_keeps_its_results(connection: Connection) -> None:
    storage = bucket_with(connection)
    buckets = provider(BucketProvider, connection)
    made = buckets.create(bucket_props(connection, A, storage.bucket))
    buckets.create(bucket_props(connection, B, storage.bucket, adopt=True))
    for key in OF_RUN:
        storage.put_bytes(key, b"x")
    buckets.delete(made.id, made.outs)
    assert keys(storage) == {*OF_RUN, ".flux/owner.json"}


def test_foreign_objects_below_runs_are_kept_when_results_are_deleted(connection: Connection) -> None:
    theirs = {"runs/2019/marathon.gpx", "runs/2019/photos/1.jpg", "runs/notes.txt"}
    storage = bucket_with(connection, *theirs)
    buckets = provider(BucketProvider, connection)
    made = buckets.create(bucket_props(connection, A, storage.bucket, adopt=True))
    for key in OF_RUN:
        storage.put_bytes(key, b"x")
    buckets.delete(made.id, made.outs)
    assert keys(storage) - {".flux/owner.json"} == theirs


names = st.sampled_from(["runs", "cat", "0a", "output", "run.json", "model", "x"])


@given(st.lists(st.lists(names, min_size=1, max_size=4).map("/".join), unique=True))
def test_an_interrupted_deletion_of_runs_continues(below: list[str]) -> None:
    layout = Layout("p/")
    lying = [f"{layout.runs}{key}" for key in below]
    wanted = keys_of_runs(layout, lying)
    assert len(wanted) == len(set(wanted))
    for done in range(len(wanted)):
        left = [key for key in lying if key not in wanted[:done]]
        assert set(keys_of_runs(layout, left)) == set(wanted[done:])
