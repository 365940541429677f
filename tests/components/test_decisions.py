"""Decisions of the providers that need no service: replacements, drift, requests, environments, and the owner of a job."""

import asyncio
import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from components import container_group
from components.bucket import BucketProvider, objects_of
from components.container_group import (
    ContainerGroupProvider,
    ContainerGroupState,
    actual_spec,
    apply_spec,
    configured_node_keys,
    fingerprint,
    foreign_group_error,
    group_spec,
    issued_keys,
    issued_keys_in_group,
    marked_as_adopted,
    node_environment,
    secret_values,
    with_drift,
)
from components.dataset import DatasetProvider
from components.declared_runs import DeclaredRunsProvider, unfinished_jobs
from components.dev_group import DevGroupProvider, tunnel_name
from components.node_keys import NodeKeysArgs, NodeKeysProvider, token_name
from components.pipeline import TrainingPipeline, cluster_size, total_cost
from components.prepared_runs import PreparedRun
from components.properties import from_props, property_names, to_props
from components.provider import FluxProvider, home
from components.scaling_rule import ScalingRuleArgs, ScalingRuleProvider
from components.training_job import (
    TrainingJobArgs,
    TrainingJobProvider,
    TrainingJobState,
    failed_run_advice,
    job_request,
)
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, Sync, SyncRule
from flux_training.clients.queue.own_jobs import RunPlace, choose_own_job
from flux_training.clients.salad import GIB, ContainerGroup, GroupSpec, GroupState
from flux_training.node.bundle import launcher_bundle
from flux_training.node.job import changed_limits, launch_limits
from flux_training.node.launcher.settings import config_digest
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.environment import pulumi_command
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout
from tests.components.groups import GROUP, group, spec
from tests.components.in_memory import PLACE
from tests.components.in_memory import job as queued_job
from tests.support.hostile_buckets import as_storage


def connection(**changes: Any) -> Connection:
    values: dict[str, Any] = {
        "cloud": "salad",
        "kelpie_url": "http://127.0.0.1:1",
        "salad_url": "http://127.0.0.1:1",
        "api_key": "salad-key",
        "organization": "o",
        "project": "p",
        "s3_endpoint": "http://127.0.0.1:2",
        "s3_access_key_id": "id",
        "s3_secret_access_key": "secret",
    }
    return Connection(**(values | changes))


# ---- replacements


@pytest.mark.parametrize(
    ("provider", "replacing", "old_first"),
    [
        (BucketProvider, {"bucket", "prefix"}, True),
        (ContainerGroupProvider, {"name"}, True),
        (DevGroupProvider, {"name"}, True),
        (DatasetProvider, {"bucket", "prefix", "digest"}, False),
        (DeclaredRunsProvider, {"groupId", "bucket", "prefix"}, True),
        (NodeKeysProvider, {"bucket", "prefixes", "credentials", "end", "rotate", "parent"}, False),
        (ScalingRuleProvider, {"groupId"}, True),
        (TrainingJobProvider, {"runId", "groupId", "bucket", "prefix", "job"}, True),
    ],
)
def test_which_changed_properties_replace_a_resource(
    provider: type[FluxProvider[Any, Any]], replacing: set[str], old_first: bool
) -> None:
    made = provider()
    made.connection = connection()
    old, new = (
        {
            key: {} if key in ("runs", "retention", "keys") else value
            for key in property_names(made.args_class).values()
        }
        for value in ("1", "2")
    )
    old |= {"home": home(made.connection)}
    for key in new.keys() - {"home"}:
        diff = made.diff("1", old, old | {key: new[key]})
        assert diff.replaces == ([key] if key in replacing else []), key
        assert (diff.changes, diff.delete_before_replace) == (None, old_first)
    assert set(made.diff("1", old, new).replaces or []) == replacing


@pytest.mark.parametrize(
    ("news", "replaces"), [({"digest": "d2"}, ["digest"]), ({"digest": "d1"}, []), ({}, [])]
)
def test_a_datasets_digest_is_its_id(news: dict[str, str], replaces: list[str]) -> None:
    made = DatasetProvider()
    made.connection = connection()
    there = {"home": home(made.connection), "bucket": "b", "prefix": ""}
    assert made.diff("d1", there, there | news).replaces == replaces


def test_where_a_stack_lives() -> None:
    assert home(connection()) == "o/p at http://127.0.0.1:1, http://127.0.0.1:2"
    assert home(connection(s3_endpoint=None, s3_region="eu-1")) == "o/p at http://127.0.0.1:1, S3 in eu-1"
    assert home(connection(cloud="local")) == "the cloud on this machine"


def test_a_state_without_a_home_is_accepted() -> None:
    made = ScalingRuleProvider()
    made.connection = connection()
    for properties in (ScalingRuleArgs, TrainingJobState):
        made.check_same_place(from_props(properties, {}))


# ---- the cluster


@pytest.mark.parametrize(
    ("least", "most", "declared", "size"),
    [
        (0, 3, 0, (0, 0)),
        (2, 3, 1, (1, 1)),
        (2, 3, 2, (2, 2)),
        (1, 3, 3, (1, 3)),
        (0, 3, 4, (0, 3)),
        (3, 3, 9, (3, 3)),
    ],
)
def test_never_more_replicas_than_jobs_or_than_allowed(
    least: int, most: int, declared: int, size: tuple[int, int]
) -> None:
    assert cluster_size(ClusterSettings(minReplicas=least, maxReplicas=most), declared) == size


def test_a_stack_without_jobs_costs_nothing() -> None:
    async def cost() -> object:
        return await TrainingPipeline.cost(cast(TrainingPipeline, SimpleNamespace(jobs={}))).future()

    assert asyncio.run(cost()) == total_cost({})


@pytest.mark.parametrize(
    ("jobs", "sums"),
    [
        ({}, {"jobs": {}}),
        ({"a": None, "b": {}}, {"jobs": {}}),
        ({"a": {"gpu": "g"}}, {"jobs": {"a": {"gpu": "g"}}}),
        (
            {"a": {"estimateUsd": 0.11111}, "b": {"estimateUsd": 0.2, "actualUsd": 0.3}},
            {
                "estimateUsd": 0.3111,
                "actualUsd": 0.3,
                "jobs": {"a": {"estimateUsd": 0.11111}, "b": {"estimateUsd": 0.2, "actualUsd": 0.3}},
            },
        ),
    ],
)
def test_known_costs_are_added_up(jobs: dict[str, Any], sums: dict[str, Any]) -> None:
    assert total_cost(jobs) == sums


PROPS = GROUP | {
    "name": "name",
    "image": "image",
    "gpuClass": "gpu",
    "priority": "high",
    "cpu": 4.0,
    "memory": 30.0,
    "storage": 50.0,
    "replicas": 2.0,
    "autoscale": False,
    "owner": "p/s",
}


def state(**changes: Any) -> ContainerGroupState:
    return from_props(ContainerGroupState, PROPS | changes)


class FakeSalad:
    """Has one GPU class and records requests."""

    def __init__(self, group: ContainerGroup | None = None) -> None:
        self.requests: list[Any] = []
        self._group = group

    def gpu_class_id(self, name: str) -> str:
        return f"id of {name}"

    def prepared(self, group: ContainerGroup) -> ContainerGroup:
        """Once SaladCloud has its image, it is stopped."""
        return group.model_copy(update={"current_state": GroupState(status="stopped")})

    def patch_group(self, name: str, patch: Any, secrets: Any) -> ContainerGroup:
        assert secrets == ()
        self.requests.append(("patch", name, patch))
        assert self._group is not None
        return self._group.model_copy(update={"version": 2})

    def start_group(self, name: str) -> None:
        self.requests.append(("start", name))

    def stop_group(self, name: str) -> None:
        self.requests.append(("stop", name))


def test_the_request_to_saladcloud() -> None:
    environment = {"A": SecretStr("1"), "FLUX_OWNER": "somebody"}
    assert group_spec(state(cpu=8.0, storage=60.0), cast(Any, FakeSalad()), environment) == GroupSpec(
        name="name",
        display_name="name",
        image="image",
        cpu=8,
        memory=30720,
        storage=60 * GIB,
        gpu_classes=["id of RTX 5090"],
        priority="high",
        replicas=2,
        autostart=True,
        environment={"A": SecretStr("1"), "FLUX_OWNER": "p/s"},
    )
    assert group_spec(state(replicas=1), cast(Any, FakeSalad()), {}).autostart
    for changes in ({"replicas": 0}, {"autoscale": True}):
        assert not group_spec(state(**changes), cast(Any, FakeSalad()), {}).autostart


def test_missing_fields_of_an_answer_count_as_unchanged() -> None:
    seen = group(priority=None, display_name="", replicas=7, resources={"storage_amount": None})
    assert actual_spec(seen, spec()) == spec(replicas=7, environment={"FLUX_OWNER": SecretStr("p/s")})
    other = group(
        priority="low",
        display_name="other",
        environment={},
        resources={"cpu": 1, "memory": 1024, "storage_amount": GIB, "gpu_classes": []},
    )
    assert actual_spec(other, spec()) == spec(
        priority="low", display_name="other", environment={}, cpu=1, memory=1024, storage=GIB, gpu_classes=[]
    )


@pytest.mark.parametrize(
    ("found", "asked", "autoscale", "requests"),
    [
        (group(), spec(), False, []),
        (group(), spec(replicas=3), False, [("patch", "name", {"replicas": 3})]),
        # With a scaling rule, Kelpie starts and stops the group and sets its replicas.
        (group(), spec(replicas=3), True, []),
        (group("stopped", 0), spec(replicas=3), True, []),
        (group(), spec(replicas=3, image="new"), True, [("patch", "name", {"container": {"image": "new"}})]),
        (group("stopped"), spec(), False, [("start", "name")]),
        (group("stopped", 0), spec(replicas=0), False, []),
        (group("running", 0), spec(replicas=0), False, [("stop", "name")]),
        (group("pending", 1), spec(replicas=1), False, []),
        (group("pending", 1, autostart_policy=False), spec(replicas=1), False, [("start", "name")]),
        (group("pending", 0, autostart_policy=False), spec(replicas=0), False, []),
        (group("pending", 0), spec(replicas=0), False, [("stop", "name")]),
        (
            group("stopped", 0),
            spec(replicas=1),
            False,
            [("patch", "name", {"replicas": 1}), ("start", "name")],
        ),
        # The mark of an adopted group stays, so that `destroy` does not delete the group.
        (group(environment={"FLUX_OWNER": "p/s", "FLUX_ADOPTED": "yes"}), spec(), False, []),
    ],
)
def test_only_differences_are_sent_to_a_group(
    found: ContainerGroup, asked: GroupSpec, autoscale: bool, requests: list[Any]
) -> None:
    salad = FakeSalad(found)
    answer = apply_spec(cast(Any, salad), found, asked, autoscale)
    assert salad.requests == requests
    assert answer.version == (2 if any(what[0] == "patch" for what in requests) else 1)


def test_an_adopted_group_is_marked() -> None:
    assert marked_as_adopted(spec()).environment == {"FLUX_OWNER": "p/s", "FLUX_ADOPTED": "yes"}


# ---- drift


def test_an_unchanged_group_has_no_drift() -> None:
    environment = {"FLUX_OWNER": "p/s", "A": "1", "AWS_ACCESS_KEY_ID": "id"}
    stored = state(credentials=fingerprint({"A": "1", "AWS_ACCESS_KEY_ID": "id"}))
    marks = {"FLUX_ADOPTED": "yes", "FLUX_KEYS_END": "x"}
    assert with_drift(stored, group(environment=environment | marks)) == stored


def test_a_group_without_worker_settings_has_no_drift_and_one_with_other_settings_has() -> None:
    """Older groups lack the settings; a user's own value counts like every other variable."""
    environment = {"FLUX_OWNER": "p/s", "MAX_TIME_WITH_NO_WORK_S": "300"}
    plain = state(credentials=fingerprint({}))
    assert with_drift(plain, group(environment=environment)) == plain
    assert with_drift(plain, group(environment={"FLUX_OWNER": "p/s"})) == plain
    own = state(
        variables="MAX_TIME_WITH_NO_WORK_S", credentials=fingerprint({"MAX_TIME_WITH_NO_WORK_S": "60"})
    )
    assert with_drift(own, group(environment=environment)) != own


def test_issued_keys_are_compared_separately() -> None:
    keys = {"accessKeyId": "k", "secretAccessKey": "s", "sessionToken": "t"}
    environment = {
        "FLUX_OWNER": "p/s",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "t",
        "A": "1",
    }
    stored = state(keys=keys, credentials=fingerprint({"A": "1"}))
    assert with_drift(stored, group(environment=environment)) == stored
    other = with_drift(stored, group(environment=environment | {"AWS_ACCESS_KEY_ID": "z"}))
    assert other == replace(stored, keys=keys | {"accessKeyId": "z"})
    assert issued_keys_in_group(group(environment={"AWS_ACCESS_KEY_ID": "k"})) == {"accessKeyId": "k"}
    assert issued_keys(keys) == {
        name: SecretStr(value) for name, value in environment.items() if name.startswith("AWS_")
    }
    assert issued_keys({"accessKeyId": "k"}) == {"AWS_ACCESS_KEY_ID": SecretStr("k")}


@pytest.mark.parametrize(
    ("found", "drifted"),
    [
        (group(resources={"cpu": 8}), {"cpu": 8}),
        (group(resources={"memory": 31 * 1024}), {"memory": 31}),
        (group(resources={"storage_amount": 60 * GIB}), {"storage": 60}),
        (group(resources={"storage_amount": None}), {}),
        (group(resources={"memory": 30 * 1024 + 512, "storage_amount": 50 * GIB + 1}), {}),
        (group(resources={"gpu_classes": ["a", "b"]}), {"gpu": "a,b"}),
        (group(resources={"gpu_classes": []}), {"gpu": ""}),
        (group(priority="low"), {"priority": "low"}),
        (group(priority=None), {}),
        (group(replicas=1), {"replicas": 1}),
        (group("stopped"), {"replicas": 0}),
        (group("pending"), {}),
        (group("pending", autostart_policy=False), {"replicas": 0}),
        (group(environment={}), {"owner": ""}),
        (group(environment={"FLUX_OWNER": "x/y"}), {"owner": "x/y"}),
    ],
)
def test_drift_of_a_group(found: ContainerGroup, drifted: dict[str, Any]) -> None:
    stored = state(credentials=fingerprint({}))
    before, after = to_props(stored), to_props(with_drift(stored, found))
    changed = {key: value for key, value in after.items() if value != before[key] and key != "gpuClass"}
    assert changed == drifted
    # With autoscaling Kelpie sets the replicas.
    assert with_drift(replace(stored, autoscale=True), found).replicas == stored.replicas


def test_the_owner_of_a_group() -> None:
    ours, theirs, nobodys = (
        group(environment=one) for one in ({"FLUX_OWNER": "p/s"}, {"FLUX_OWNER": "x/y"}, {})
    )
    found = [container_group.is_foreign(one, "p/s") for one in (ours, theirs, nobodys)]
    assert found == [False, True, True]
    assert [container_group.other_owner(one, "p/s") for one in (ours, theirs, nobodys)] == [None, "x/y", None]
    fix = "choose another cluster.name, delete that group, or set `p:adopt: true` under `config:` in Pulumi.s.yaml"
    why = "p/s must not change a group that it does not own"
    assert (
        foreign_group_error(theirs, "p/s").args
        == type(foreign_group_error(theirs, "p/s"))(
            "container group name exists already and belongs to x/y", why, fix
        ).args
    )
    assert str(foreign_group_error(nobodys, "p/s")).startswith(
        "container group name exists already and was not created by this project"
    )


def test_the_former_name_of_a_renamed_stack() -> None:
    former = group(environment={"FLUX_OWNER": "p/old"})
    assert f"; if this stack was renamed, {pulumi_command('stack rename old', 'new')} renames it back" in str(
        foreign_group_error(former, "p/new")
    )
    assert "renamed" not in str(foreign_group_error(former, "q/new"))


# ---- the nodes' environment


def test_the_environment_of_a_node() -> None:
    assert node_environment(connection(s3_region="eu-1")) == {
        "AWS_REGION": "eu-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        "SALAD_PROJECT": "p",
        "SALAD_PROJECT_NAME": "p",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:2",
    }
    assert "AWS_ENDPOINT_URL" not in node_environment(connection(s3_endpoint=None))
    assert secret_values({"A": "1"}) == {"A": SecretStr("1")}


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}),
        (
            {"s3_session_token": "t"},
            {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "t"},
        ),
        (
            {"node_access_key_id": "n", "node_secret_access_key": "ns", "s3_session_token": "t"},
            {"AWS_ACCESS_KEY_ID": "n", "AWS_SECRET_ACCESS_KEY": "ns"},
        ),
        ({"node_access_key_id": "n"}, {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}),
    ],
)
def test_which_keys_a_node_gets(given: dict[str, str], keys: dict[str, str]) -> None:
    assert configured_node_keys(connection(**given)) == {
        name: SecretStr(value) for name, value in keys.items()
    }


def test_fingerprints_and_token_names_never_change() -> None:
    # With another value, every existing container group would restart its replicas.
    assert fingerprint({"B": SecretStr("2"), "A": "1"}) == "3eda2f06741f"
    keys = NodeKeysArgs(
        home="",
        owner="p/s",
        bucket="b",
        prefixes="x/",
        credentials="token",
        end="",
        parent="",
        rotate=2,
    )
    assert token_name(keys) == "p/s nodes 41f0b4b6"


@pytest.mark.parametrize(
    ("name", "wanted_name", "tunnel"),
    [
        ("flux-dev", None, "flux-dev"),
        ("flux-dev", "mine", "mine"),
        ("abcd-efgh-ijkl-mnop-qrst", None, "efgh-ijkl-mnop-qrst"),
    ],
)
def test_a_tunnels_name_is_short(name: str, wanted_name: str | None, tunnel: str) -> None:
    assert tunnel_name(name, wanted_name) == tunnel


# ---- the job


JOB: dict[str, Any] = {
    "job": "cat",
    "runId": "0a",
    "digest": "d1",
    "bucket": "b",
    "prefix": "team/",
    "groupId": "g",
    "attempt": 2.0,
    "steps": 500.0,
}


def job(**changes: Any) -> TrainingJobArgs:
    return from_props(TrainingJobArgs, JOB | changes)


RUN = PreparedRun("cat", "0a", b"job: extension\n", b'{"images":{}}', 100, None)


def test_the_job_as_kelpie_gets_it() -> None:
    base, bundle = "team/runs/cat/0a/", launcher_bundle()
    request = job_request(job(), RUN)
    assert (request.container_group_id, request.command) == ("g", "python")
    assert request.arguments == bundle.arguments
    assert request.environment == {
        "FLUX_JOB": "cat",
        "FLUX_RUN_ID": "0a",
        "FLUX_ATTEMPT": "2",
        "FLUX_STEPS": "500",
        "FLUX_SAVE_EVERY": "100",
        "FLUX_BUCKET": "b",
        "FLUX_RUN_PREFIX": base,
        "FLUX_DATASET_PREFIX": "team/datasets/d1/",
        "FLUX_CONFIG_SHA256": config_digest(RUN.manifest, RUN.raw_config),
    }
    config, record = request.sync.before
    assert (config.prefix, config.local_path) == (f"{base}config/", "training-config/")
    assert (record.prefix, record.local_path) == (f"{base}output/", "upload/")
    assert request.sync.during == [rule(f"{base}output/", "upload/")]
    assert request.sync.after == [rule(f"{base}model/", "model/")]
    assert request.webhook is None
    assert job_request(job(webhook="https://x"), RUN).webhook == "https://x"


def rule(prefix: str, folder: str) -> SyncRule:
    return SyncRule(bucket="b", prefix=prefix, local_path=folder, direction="upload")


def test_a_nodes_job_downloads_only_the_named_files() -> None:
    """The worker would follow `../` in a key that a node has placed."""
    base, bundle = "team/runs/cat/0a/", launcher_bundle()
    config, record = (str(rule.pattern) for rule in job_request(job(), RUN).sync.before)
    for name in ("train.yml", "manifest.json", "launch.json", bundle.file_name):
        assert re.search(config, f"{base}config/{name}")
    for key in (f"{base}config/../run.py", f"{base}config/launch.py", f"x/{base}config/train.yml"):
        assert not re.search(config, key)
    assert re.search(record, f"{base}output/run.json")
    assert not re.search(record, f"{base}output/cat_000000100.safetensors")


def test_a_resumed_job_names_the_run_that_it_continues() -> None:
    environment = job_request(job(parent="0b"), RUN).environment
    assert environment["FLUX_PARENT_PREFIX"] == "team/runs/cat/0b/"


@pytest.mark.parametrize(("max_hours", "text"), [(2.5, "2.500000"), (1e6, "10000.000000"), (None, None)])
def test_nodes_cannot_raise_the_hours_of_a_queued_job(max_hours: float | None, text: str | None) -> None:
    """They can write launch.json, but not the job's environment."""
    assert (
        job_request(job(**({} if max_hours is None else {"maxHours": max_hours})), RUN).environment.get(
            "FLUX_MAX_HOURS"
        )
        == text
    )


@pytest.mark.parametrize(
    ("max_hours", "stall_minutes", "expected"),
    [
        (None, 30.0, {"max_hours": None, "stall_minutes": 30.0}),
        (2.5, 20.0, {"max_hours": 2.5, "stall_minutes": 20.0}),
        (1e6, 1e6, {"max_hours": 10_000, "stall_minutes": 1440}),
    ],
)
def test_the_limits_for_the_launcher(
    max_hours: float | None, stall_minutes: float, expected: dict[str, float | None]
) -> None:
    assert json.loads(launch_limits(max_hours, stall_minutes)) == expected


def test_new_limits_keep_the_settings_of_a_job_that_an_older_version_queued() -> None:
    limits = {"max_hours": 2.0, "stall_minutes": 20.0}
    old = {"contract": 1, "trainer": ["python", "run.py"], "max_hours": None, "stall_minutes": 30.0}
    assert json.loads(changed_limits(old, 2.0, 20.0)) == old | limits
    assert json.loads(changed_limits({"read_seconds": 300}, 2.0, 20.0)) == limits


def test_the_place_of_a_run_in_the_queue() -> None:
    found = job().place
    assert (found.job, found.run, found.bucket) == ("cat", "0a", "b")
    assert (found.output, found.runs_of_job) == ("team/runs/cat/0a/output/", "team/runs/cat/")


def test_the_next_step_after_a_failed_run() -> None:
    failed = from_props(TrainingJobState, JOB | {"status": "failed", "reason": "out of memory"})
    assert failed_run_advice(failed) == (
        "cat: run 0a failed: out of memory. It is not queued again automatically, because that costs money: fix the cause, "
        "or set `attempt: 3` for the job"
    )


def test_a_runs_record_is_deleted_last_and_other_objects_are_kept() -> None:
    keys = [
        "runs/cat/0a/claim.json",
        "runs/cat/0a/output/run.json",
        "runs/cat/0a/output/z",
        "runs/cat/notes.txt",
        "runs/cat/0b/model/x",
        "runs/readme",
        "runs/dog/0c/output/run.json",
        "runs/dog/0c/run.json",
    ]
    storage = as_storage(dict.fromkeys(keys, b""))
    assert list(objects_of(storage, Layout(""), {("cat", "0a"), ("dog", "0c"), ("owl", "0d")})) == [
        "runs/cat/0a/claim.json",
        "runs/cat/0a/output/z",
        "runs/cat/0a/output/run.json",
        "runs/dog/0c/run.json",
        "runs/dog/0c/output/run.json",
    ]


# ---- stacks and jobs

KEY = "canary-5d1e-secret-key"


def test_a_stack_is_not_mistaken_for_one_of_another_organization() -> None:
    provider = TrainingJobProvider()
    provider.connection = connection()
    olds = {"home": home(provider.connection), "bucket": "b", "prefix": "", "runId": "a", "reason": ""}
    provider.connection = connection(organization="another")
    for act in (
        lambda: provider.diff("id", olds, olds),
        lambda: provider.read("id", olds),
        lambda: provider.delete("id", olds),
    ):
        with pytest.raises(FluxError, match="this stack lives in o/p at"):
            act()


@pytest.mark.parametrize("field", ["bucket", "prefixes", "credentials", "rotate", "parent"])
def test_a_replaced_token_has_another_name(field: str) -> None:
    """With the same name, the old token would be deleted before the container group has the new one."""
    olds: dict[str, Any] = {"owner": "p/s", "bucket": "b", "prefixes": "a/, b/", "credentials": "token"}
    olds |= {"end": "", "rotate": 1.0, "parent": "0a", "keys": {}}
    news = olds | {field: 2.0 if field == "rotate" else "other"}
    provider = NodeKeysProvider()
    provider.connection = connection()
    place = {"home": home(provider.connection)}
    assert provider.diff("id", place | olds, place | news).replaces == [field]
    before, after = (from_props(NodeKeysArgs, place | props) for props in (olds, news))
    assert token_name(before) != token_name(after)


@pytest.mark.parametrize(
    ("found", "superseded"),
    [
        (queued_job("1", "pending", "older"), True),
        (queued_job("1", "running", "older"), True),
        (queued_job("1", "completed", "older"), False),
        (queued_job("1", "pending"), False),
        (queued_job("1", "pending", "older", prefix="elsewhere/"), False),
    ],
)
def test_which_jobs_a_new_run_supersedes(found: Job, superseded: bool) -> None:
    assert PLACE.is_superseded(found) == superseded


@pytest.mark.parametrize(
    ("jobs", "chosen"),
    [
        ([], None),
        ([queued_job("1", "pending", "other")], None),
        ([queued_job("1", "canceled")], None),
        ([queued_job("1", "completed"), queued_job("2", "running")], "2"),
        ([queued_job("1", "failed"), queued_job("2", "completed")], "2"),
        ([queued_job("1", "canceled"), queued_job("2", "pending")], "2"),
        ([queued_job("1", "completed", prefix="elsewhere/")], None),
        ([queued_job("2", "pending"), queued_job("1", "pending")], "1"),
    ],
)
def test_which_job_of_the_queue_a_run_adopts(jobs: list[Job], chosen: str | None) -> None:
    found = choose_own_job(jobs, PLACE)
    assert (found.id if found else None) == chosen


def test_the_salad_key_never_goes_to_a_node() -> None:
    secrets = connection(api_key="salad-key-canary", s3_secret_access_key=KEY)
    environment = {**node_environment(secrets), **configured_node_keys(secrets)}
    plain = [
        value.get_secret_value() if isinstance(value, SecretStr) else value for value in environment.values()
    ]
    assert KEY in plain
    assert "salad-key-canary" not in plain
    assert KEY not in repr(environment)
    assert all(1 <= len(value) <= 1000 for value in plain)


@pytest.mark.parametrize(
    ("job", "found"),
    [
        (queued_job("1", run="declared"), True),
        (queued_job("1", "running", "declared"), True),
        (queued_job("1", run="of another checkout"), False),
        (queued_job("1", "completed", "declared"), False),
        (queued_job("1", run="declared", prefix="other-stack/"), False),
        (queued_job("1", run="declared", environment={}), False),
    ],
)
def test_only_unfinished_jobs_of_declared_runs_are_canceled(job: Job, found: bool) -> None:
    declared = Layout("").run("cat", "declared")
    assert unfinished_jobs([job], [RunPlace.at("b", declared)]) == ([job] if found else [])
    assert unfinished_jobs([job], [RunPlace.at("another bucket", declared)]) == []


class ReturnedJobQueue:
    """A queue whose one job is pending again after the first request."""

    def __init__(self) -> None:
        self.requests = 0

    def list_jobs(self, status: str | None = None) -> list[Job]:
        self.requests += 1
        now = "running" if self.requests == 1 else "pending"
        rule = SyncRule(bucket="b", prefix="datasets/d/", local_path="dataset/", direction="download")
        job = Job(id="1", container_group_id="g", status=now, sync=Sync(before=[rule]))
        return [job] if status in (None, now) else []


def test_images_of_a_job_that_changes_its_status_are_in_use() -> None:
    queue = ReturnedJobQueue()
    provider = DatasetProvider()
    provider.connection = SimpleNamespace(kelpie=lambda: queue)  # type: ignore[assignment]  # all that is asked for
    assert provider._is_in_use("b", "datasets/d/")
    assert not provider._is_in_use("b", "datasets/other/")
