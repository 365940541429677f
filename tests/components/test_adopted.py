"""`destroy` keeps what another stack has adopted and what existed before the stack."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from components.bucket import BucketProvider, delete_results
from components.container_group import ContainerGroupProvider
from components.properties import Props
from components.provider import home
from components.scaling_rule import ScalingRuleProvider
from flux_training.clients.connection import Connection
from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import Layout
from tests.components.groups import bucket_props, group_props, new_name, provider_of

A, B = "flux-training/a", "flux-training/b"


class AdoptedGroup:
    """A container group that stack A created and stack B has adopted, with B's rule."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = new_name()
        self.groups = provider_of(ContainerGroupProvider, connection)
        self.rules = provider_of(ScalingRuleProvider, connection)
        self.made = self.groups.create(group_props(connection, owner=A, name=self.name))
        self.rules.create(self.rule(A))
        self.adopted = self.groups.create(group_props(connection, owner=B, name=self.name, adopt=True))
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


def test_a_group_that_another_stack_adopted_is_kept(connection: Connection) -> None:
    group = AdoptedGroup(connection)
    made, adopted = group.made, group.adopted
    assert group.groups.read(made.id, made.outs).id == ""
    assert group.groups.read(made.id, adopted.outs).id == made.id
    before = group.now()
    group.destroy(A, made.outs)
    assert group.now() == before
    assert connection.kelpie().get_rule(made.id) is not None
    group.destroy(B, adopted.outs)
    released = group.now()
    assert released is not None
    assert released.environment_value("FLUX_OWNER") is None
    group.destroy(A, made.outs)
    assert group.now() == released
    assert connection.kelpie().get_rule(made.id) is None


def test_a_released_group_loses_the_stacks_environment(connection: Connection) -> None:
    salad, name = connection.salad(), new_name()
    gpu = salad.gpu_class_id("RTX 5090")
    salad.create_group(GroupSpec(name=name, image="theirs:1", gpu_classes=[gpu], autostart=False))
    groups = provider_of(ContainerGroupProvider, connection)
    groups.cluster_environments = {"": {"HF_HOME": "/x", "HF_TOKEN": "canary-hf-77d0"}}
    props = group_props(connection, owner=A, name=name, adopt=True, variables="HF_HOME, HF_TOKEN")
    adopted = groups.create(props)
    assert adopted.id is not None
    during = salad.get_group(name)
    assert during is not None
    assert during.environment_value("HF_TOKEN") == "canary-hf-77d0"
    groups.delete(adopted.id, adopted.outs)
    left = salad.get_group(name)
    assert left is not None
    assert left.container.environment_variables == {}


def bucket_with(connection: Connection, *keys: str) -> Storage:
    storage = connection.storage(new_name())
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
    buckets = provider_of(BucketProvider, connection)
    made = buckets.create(bucket_props(connection, storage.bucket, owner=A))
    buckets.create(bucket_props(connection, storage.bucket, owner=B, adopt=True))
    for key in OF_RUN:
        storage.put_bytes(key, b"x")
    buckets.delete(made.id, made.outs)
    assert keys(storage) == {*OF_RUN, ".flux/owner.json"}


def test_foreign_objects_below_runs_are_kept_when_results_are_deleted(connection: Connection) -> None:
    theirs = {"runs/2019/marathon.gpx", "runs/2019/photos/1.jpg", "runs/notes.txt"}
    storage = bucket_with(connection, *theirs)
    buckets = provider_of(BucketProvider, connection)
    made = buckets.create(bucket_props(connection, storage.bucket, owner=A, adopt=True))
    for key in OF_RUN:
        storage.put_bytes(key, b"x")
    buckets.delete(made.id, made.outs)
    assert keys(storage) - {".flux/owner.json"} == theirs


@pytest.mark.parametrize("deletions", range(6))
def test_an_interrupted_deletion_of_runs_continues(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    """A node has deleted run.json of one of the runs. The other was made by an earlier version, and has no record."""
    theirs = {"runs/cat/notes.txt", "runs/cat/holidays/1.jpg"}
    recorded, earlier = (Layout("").run("cat", run) for run in ("0123456789ab", "0" * 12))
    storage = bucket_with(connection, *theirs, *OF_RUN, recorded.claim, recorded.results, earlier.weights)
    storage.put_bytes(earlier.record, b"{}")
    storage.delete_many([recorded.record])
    real, left = storage.delete_many, iter(range(deletions))

    def interrupted(keys: Sequence[str]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(keys)

    monkeypatch.setattr("flux_training.clients.storage.MAX_KEYS_PER_DELETE", 1)
    with monkeypatch.context() as once, contextlib.suppress(KeyboardInterrupt):
        once.setattr(storage, "delete_many", interrupted)
        delete_results(storage, Layout(""))
    delete_results(storage, Layout(""))
    assert keys(storage) == theirs


def test_deleted_results_leave_no_record_that_calls_them_finished(connection: Connection) -> None:
    """Otherwise the next `up` would take the runs for finished and train nothing."""
    storage, buckets = connection.storage(new_name()), provider_of(BucketProvider, connection)
    props = bucket_props(connection, storage.bucket, prefix="", results="delete")
    made = buckets.create(props)
    keys = Layout("").run("cat", "0123456789ab")
    for key in (keys.record, keys.weights, keys.claim, keys.posted, keys.results, "runs/theirs.txt"):
        storage.put_bytes(key, b"{}")
    buckets.delete(made.id, made.outs)
    assert [item.key for item in storage.list("")] == [".flux/owner.json", "runs/theirs.txt"]
