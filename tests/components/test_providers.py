"""The requests of the providers of a container group, its scaling rule and the nodes' keys."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from components import container_group, declared_runs
from components.container_group import ContainerGroupArgs, ContainerGroupProvider
from components.declared_runs import DeclaredRunsProvider
from components.node_keys import NodeKeysProvider
from components.properties import from_props
from components.provider import FluxProvider
from components.scaling_rule import ScalingRuleProvider
from flux_training.clients.cloudflare import MAX_KEY_SECONDS, Keys
from flux_training.clients.errors import Conflict, Unavailable, UncertainOutcome
from flux_training.clients.kelpie import Job, Sync, SyncRule
from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.training.errors import FluxError
from tests.components.groups import GROUP, group

HOME = "the cloud on this machine"
OURS, THEIRS = "p/s", "x/y"


class FakeServices:
    """SaladCloud, Kelpie and Cloudflare in memory; `changes` has all requests that change something."""

    def __init__(self, group: ContainerGroup | None = None) -> None:
        self.group = group
        self.changes: list[Any] = []
        self.rule: Any = None
        self.create_error: Exception | None = None
        self.appears: ContainerGroup | None = None
        self.token_there = True
        self.session = "session"

    def connect(self, provider: FluxProvider) -> Any:
        client = lambda: self  # noqa: E731 - three clients, one object
        provider.connection = cast(
            Any,
            SimpleNamespace(
                cloud="local",
                salad=client,
                kelpie=client,
                cloudflare=client,
                s3_access_key_id="parent",
                s3_secret_access_key=SecretStr("secret"),
                s3_session_token=None,
                s3_region="auto",
                s3_endpoint=None,
                project="p",
                node_access_key_id=None,
                node_secret_access_key=None,
            ),
        )
        provider.cluster_environments = {"": {"MINE": "1"}}
        return provider

    def gpu_class_id(self, name: str) -> str:
        return f"id of {name}"

    def get_group(self, name: str) -> ContainerGroup | None:
        assert name == "name"
        return self.group

    def create_group(self, spec: GroupSpec) -> ContainerGroup:
        self.changes.append("create")
        if self.create_error is not None:
            self.group = self.appears
            raise self.create_error
        self.group = made(spec.environment, name=spec.name)
        return self.group

    def patch_group(self, name: str, patch: Any, secrets: Any) -> ContainerGroup:
        assert all(isinstance(one, SecretStr) for one in secrets)
        assert name == "name"
        self.changes.append(("patch", patch))
        assert self.group is not None
        return self.group

    def prepared(self, group: ContainerGroup) -> ContainerGroup:
        return group

    def start_group(self, name: str) -> None:
        self.changes.append(("start", name))

    def stop_group(self, name: str) -> None:
        self.changes.append(("stop", name))

    def delete_group(self, name: str) -> None:
        self.changes.append(("delete", name))

    def get_rule(self, group_id: str) -> Any:
        assert group_id == "g"
        return self.rule

    def put_rule(self, *rule: Any) -> None:
        self.changes.append(("rule", *rule))

    def delete_rule(self, group_id: str) -> None:
        self.changes.append(("no rule", group_id))

    def replace_tokens(self, name: str, bucket: str) -> Keys:
        self.changes.append(("token", name[:10], bucket))
        return Keys(access_key_id="token-id", secret_access_key=SecretStr("token-secret"))

    def has_token(self, token: str) -> bool:
        assert token == "token-id"
        return self.token_there

    def delete_token(self, token: str) -> None:
        self.changes.append(("no token", token))

    def temporary_keys(self, parent: str, bucket: str, prefixes: list[str], seconds: float) -> Keys:
        self.changes.append(("keys", parent, bucket, prefixes, round(seconds)))
        return Keys(
            access_key_id="id", secret_access_key=SecretStr("secret"), session_token=SecretStr(self.session)
        )


def made(environment: Any, status: str = "stopped", **changes: Any) -> ContainerGroup:
    values: dict[str, Any] = {"resources": {"gpu_classes": ["id of RTX 5090"]}} | changes
    return group(status, replicas=values.pop("replicas", 0), environment=environment, **values)


def marked(owner: str, **more: str) -> ContainerGroup:
    return made({"FLUX_OWNER": owner, **more})


PROPS = GROUP | {
    "home": HOME,
    "name": "name",
    "image": "image",
    "priority": "high",
    "cpu": 4,
    "memory": 30,
    "storage": 50,
    "variables": "MINE, YOURS",
    "owner": OURS,
    "gpuClass": None,
}


def args(**changes: Any) -> ContainerGroupArgs:
    return from_props(ContainerGroupArgs, PROPS | changes)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    for module in (container_group, declared_runs):
        monkeypatch.setattr(module, "inform", shown.append)
    return shown


# ---- the container group


def test_a_group_is_created() -> None:
    cloud = FakeServices()
    found = cloud.connect(ContainerGroupProvider()).create(PROPS)
    assert cloud.changes == ["create"]
    assert found.id == "g"
    assert found.outs == {name: value for name, value in PROPS.items() if name != "gpuClass"} | {
        "gpuClass": "id of RTX 5090"
    }
    assert cloud.group is not None
    told = {
        name: value.get_secret_value() for name, value in cloud.group.container.environment_variables.items()
    }
    assert told == {
        "MINE": "1",
        "FLUX_OWNER": OURS,
        "AWS_ACCESS_KEY_ID": "parent",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "auto",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        "SALAD_PROJECT": "p",
        "SALAD_PROJECT_NAME": "p",
        "MAX_TIME_WITH_NO_WORK_S": "300",
    }


def test_the_state_has_all_gpu_classes_of_a_group() -> None:
    group = marked(OURS)
    group.container.resources.gpu_classes.append("another")
    found = FakeServices(group).connect(ContainerGroupProvider()).read("g", PROPS | {"gpuClass": ""})
    assert found.outs["gpuClass"] == "id of RTX 5090,another"


def test_nodes_get_issued_keys_instead_of_the_stacks_own() -> None:
    provider = FakeServices().connect(ContainerGroupProvider())
    keys = {"accessKeyId": "node", "secretAccessKey": "hidden"}
    told = provider.environment(args(keys=keys, keysEnd="2026"))
    assert (told["AWS_ACCESS_KEY_ID"], told["FLUX_KEYS_END"]) == (SecretStr("node"), "2026")
    assert "parent" not in str([value for value in told.values() if not isinstance(value, SecretStr)])
    assert "FLUX_KEYS_END" not in provider.environment(args(keys=keys))


@pytest.mark.parametrize("error", [Conflict("there"), UncertainOutcome("no answer")])
def test_a_group_created_by_another_update_meanwhile_is_checked(error: Exception) -> None:
    cloud = FakeServices()
    cloud.create_error, cloud.appears = error, marked(THEIRS)
    with pytest.raises(FluxError, match="belongs to x/y"):
        cloud.connect(ContainerGroupProvider()).create(PROPS)
    cloud = FakeServices()
    cloud.create_error = error
    with pytest.raises(type(error)):
        cloud.connect(ContainerGroupProvider()).create(PROPS)
    cloud = FakeServices()
    cloud.create_error, cloud.appears = Unavailable("down"), marked(OURS)
    with pytest.raises(Unavailable):
        cloud.connect(ContainerGroupProvider()).create(PROPS)


@pytest.mark.parametrize("owner", [THEIRS, ""])
def test_a_foreign_group_is_adopted_only_with_adopt(owner: str) -> None:
    environment = {"FLUX_OWNER": owner} if owner else {}
    cloud = FakeServices(made(environment))
    provider = cloud.connect(ContainerGroupProvider())
    with pytest.raises(FluxError, match=f"{OURS} must not change a group that it does not own"):
        provider.create(PROPS)
    assert cloud.changes == []
    provider.create(PROPS | {"adopt": True})
    ((what, patch),) = cloud.changes
    assert what == "patch"
    sent = patch["container"]["environment_variables"]
    assert (sent["FLUX_OWNER"], sent["FLUX_ADOPTED"]) == (OURS, "yes")


@pytest.mark.parametrize("autoscale", [True, False])
def test_an_existing_group_is_started_only_without_autoscaling(autoscale: bool) -> None:
    cloud = FakeServices(marked(OURS))
    cloud.connect(ContainerGroupProvider()).create(PROPS | {"replicas": 1, "autoscale": autoscale})
    assert (("start", "name") in cloud.changes) is not autoscale
    assert ("replicas" in cloud.changes[0][1]) is not autoscale


def test_our_own_group_is_not_marked_as_adopted() -> None:
    cloud = FakeServices(marked(OURS))
    cloud.connect(ContainerGroupProvider()).create(PROPS | {"adopt": True})
    ((_, patch),) = cloud.changes
    assert "FLUX_ADOPTED" not in patch["container"]["environment_variables"]


def test_refresh_drops_a_group_that_is_gone_or_foreign() -> None:
    def seen(group: ContainerGroup | None, id_: str = "g") -> Any:
        return (
            FakeServices(group)
            .connect(ContainerGroupProvider())
            .read(id_, PROPS | {"gpuClass": "id of RTX 5090"})
        )

    for gone in (seen(None), seen(marked(OURS), "other"), seen(marked(THEIRS))):
        assert (gone.id, gone.outs) == ("", {})
    found = seen(marked(OURS))
    assert found.id == "g"
    assert found.inputs["owner"] == OURS
    assert found.outs == found.inputs | {"gpuClass": "id of RTX 5090"}
    # A removed mark is drift, which `up` repairs.
    assert seen(made({})).inputs["owner"] == ""


def test_a_group_that_is_gone_is_not_updated() -> None:
    for there, id_ in ((None, "g"), (marked(OURS), "other")):
        cloud = FakeServices(there)
        with pytest.raises(FluxError) as caught:
            cloud.connect(ContainerGroupProvider()).update(id_, PROPS, PROPS)
        assert str(caught.value) == (
            "container group name was deleted or replaced outside this stack; run `make refresh STACK=s`"
        )
        assert cloud.changes == []
    cloud = FakeServices(marked(OURS))
    found = cloud.connect(ContainerGroupProvider()).update(
        "g", PROPS, PROPS | {"replicas": 1, "autoscale": False}
    )
    assert [what[0] for what in cloud.changes] == ["patch", "start"]
    assert found.outs["replicas"] == 1
    # With a scaling rule, Kelpie starts and stops the group and sets its replicas.
    cloud = FakeServices(marked(OURS))
    cloud.connect(ContainerGroupProvider()).update("g", PROPS, PROPS | {"replicas": 1})
    ((what, patch),) = cloud.changes
    assert (what, "replicas" in patch) == ("patch", False)


@pytest.mark.parametrize(
    ("group", "id_", "changes", "message"),
    [
        (marked(OURS), "g", [("no rule", "g"), ("delete", "name")], ""),
        (None, "g", [("no rule", "g")], ""),
        # Another group with the same name: only the rule of the old id is deleted.
        (marked(OURS), "old", [("no rule", "old")], ""),
        (marked(THEIRS), "old", [("no rule", "old")], ""),
        (marked(THEIRS), "g", [], "container group name is not deleted: x/y has adopted it"),
        (
            made({}),
            "g",
            [("no rule", "g")],
            "container group name is not deleted: its owner mark no longer names this stack",
        ),
        (
            made(
                {
                    "FLUX_OWNER": OURS,
                    "FLUX_ADOPTED": "yes",
                    "AWS_REGION": "auto",
                    "MINE": "1",
                    "YOURS": "1",
                    "OTHER": "1",
                }
            ),
            "g",
            [
                ("no rule", "g"),
                ("stop", "name"),
                (
                    "patch",
                    {
                        "container": {
                            "environment_variables": dict.fromkeys(
                                ["FLUX_OWNER", "FLUX_ADOPTED", "AWS_REGION", "MINE", "YOURS"]
                            )
                        }
                    },
                ),
            ],
            "container group name existed before this stack and is not deleted: it is stopped, and keeps this stack's image but not its environment",
        ),
    ],
)
def test_what_destroy_deletes(
    group: ContainerGroup | None, id_: str, changes: list[Any], message: str, messages: list[str]
) -> None:
    cloud = FakeServices(group)
    cloud.connect(ContainerGroupProvider()).delete(id_, PROPS)
    assert cloud.changes == changes
    assert messages == ([message] if message else [])


# ---- its rule


RULE: dict[str, Any] = {
    "home": HOME,
    "groupId": "g",
    "groupName": "name",
    "owner": OURS,
    "minReplicas": 0.0,
    "maxReplicas": 2.0,
    "idleThresholdSeconds": 300.0,
}


def test_a_rule_is_created_read_and_updated() -> None:
    cloud = FakeServices()
    provider = cloud.connect(ScalingRuleProvider())
    found = provider.create(RULE | {"other": 1})
    assert (found.id, found.outs, cloud.changes) == ("g", RULE, [("rule", "g", 0, 2, 300)])
    assert (provider.read("g", RULE).id, provider.read("g", RULE).outs) == ("", {})
    cloud.rule = SimpleNamespace(min_replicas=1, max_replicas=5, idle_threshold_seconds=60)
    seen = provider.read("g", RULE)
    drifted = RULE | {"minReplicas": 1, "maxReplicas": 5, "idleThresholdSeconds": 60}
    assert (seen.id, seen.outs, seen.inputs) == ("g", drifted, drifted)
    assert provider.update("g", RULE, RULE | {"maxReplicas": 3}).outs == RULE | {"maxReplicas": 3}
    assert cloud.changes[-1] == ("rule", "g", 0, 3, 300)


@pytest.mark.parametrize(
    ("group", "props", "goes"),
    [
        (marked(OURS), {}, True),
        (None, {}, True),
        (made({}), {}, True),
        (marked(THEIRS), {}, False),
        (marked(THEIRS), {"groupId": "old"}, True),
        (marked(THEIRS), {"groupName": None}, True),
    ],
)
def test_the_rule_of_a_stack_that_adopted_the_group_is_kept(
    group: ContainerGroup | None, props: dict[str, Any], goes: bool
) -> None:
    cloud = FakeServices(group)
    cloud.connect(ScalingRuleProvider()).delete("g", RULE | props)
    assert cloud.changes == ([("no rule", props.get("groupId", "g"))] if goes else [])


# ---- the nodes' keys


KEYS: dict[str, Any] = {
    "home": HOME,
    "bucket": "b",
    "prefixes": "p/datasets/, p/runs/",
    "credentials": "temporary",
    "end": "",
    "rotate": 1.0,
    "parent": "0a",
    "owner": OURS,
}


@pytest.mark.parametrize(
    ("hours", "seconds"), [(2, 7200), (-5, 60), (0.001, 60), (24 * 30, MAX_KEY_SECONDS), (None, 60)]
)
def test_the_duration_of_temporary_keys(hours: float | None, seconds: float) -> None:
    cloud = FakeServices()
    end = "" if hours is None else (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    found = cloud.connect(NodeKeysProvider()).create(KEYS | {"end": end})
    ((what, parent, bucket, prefixes, given),) = cloud.changes
    assert (what, parent, bucket, prefixes) == ("keys", "parent", "b", ["p/datasets/", "p/runs/"])
    assert given == pytest.approx(seconds, abs=2)
    keys = {"accessKeyId": "id", "secretAccessKey": "secret", "sessionToken": "session"}
    assert (found.id, found.outs) == (end, KEYS | {"end": end, "keys": keys})


def test_a_session_token_that_is_too_long_is_an_error() -> None:
    cloud = FakeServices()
    cloud.session = "x" * 1000
    provider = cloud.connect(NodeKeysProvider())
    provider.create(KEYS)
    cloud.session = "x" * 1001
    with pytest.raises(FluxError, match="the session token from Cloudflare has 1001 characters") as caught:
        provider.create(KEYS)
    assert "SaladCloud accepts environment values of at most 1000" in str(caught.value)
    assert "set `storage.credentials: token`" in str(caught.value)


def test_a_token_is_created_read_and_deleted() -> None:
    cloud = FakeServices()
    provider = cloud.connect(NodeKeysProvider())
    props = KEYS | {"credentials": "token"}
    found = provider.create(props)
    keys = {"accessKeyId": "token-id", "secretAccessKey": "token-secret"}
    assert (found.id, found.outs) == ("token-id", props | {"keys": keys})
    outputs = props | {"keys": keys}
    seen = provider.read("token-id", outputs)
    assert (seen.id, seen.outs, seen.inputs) == ("token-id", outputs, props)
    cloud.token_there = False
    assert (provider.read("token-id", outputs).id, provider.read("token-id", outputs).outs) == ("", {})
    assert provider.read("end", KEYS | {"keys": keys}).id == "end"
    provider.delete("token-id", props)
    assert cloud.changes == [("token", "p/s nodes ", "b"), ("no token", "token-id")]
    provider.delete("end", KEYS)
    assert len(cloud.changes) == 2


# ---- declared runs


def test_jobs_of_runs_that_are_no_longer_declared_are_canceled(
    monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    def job(name: str, run: str, **environment: str) -> Job:
        rule = SyncRule(
            bucket="b", prefix=f"p/runs/{name}/{run}/output/", local_path="o/", direction="upload"
        )
        environment = {"FLUX_RUN_ID": run, **environment}
        return Job(
            id=f"job-{run}",
            container_group_id="g",
            status="running",
            environment=environment,
            sync=Sync(during=[rule]),
        )

    jobs = [job("a", "1", FLUX_JOB="a"), job("b", "2"), job("c", "3")]
    canceled: list[str] = []
    dropped: list[str] = []
    kelpie = SimpleNamespace(cancel_job=canceled.append)
    monkeypatch.setattr(
        declared_runs,
        "shared_queue",
        lambda at, group: (
            at is provider.connection
            and SimpleNamespace(jobs=lambda: jobs, kelpie=kelpie, forget=lambda: dropped.append(group))
        ),
    )
    provider = FakeServices().connect(DeclaredRunsProvider())
    olds = {"home": HOME, "groupId": "g", "bucket": "b", "prefix": "p/", "runs": {"a": "1", "b": "2"}}
    created = provider.create(olds | {"x": 1})
    assert (created.id, created.outs) == ("g", olds)
    seen = provider.read("g", olds)
    assert (seen.id, seen.outs, seen.inputs) == ("g", olds, olds)
    news = olds | {"runs": {"b": "2", "d": "9"}}
    assert provider.update("g", olds, news).outs == news
    assert (canceled, dropped) == (["job-1"], ["g"])
    assert messages == [
        "a: canceled the job of run 1: the stack no longer declares the job, or the job has `skip: true`"
    ]
    provider.update("g", news, news)
    assert provider.update("g", news, olds).outs == olds  # run 9 has no job
    assert (canceled, dropped) == (["job-1"], ["g"])
    provider.delete("g", news)
    assert (canceled, dropped) == (["job-1", "job-2"], ["g", "g"])
    assert messages[-1] == "?: canceled the job of run 2: the stack or its container group is removed"
    assert declared_runs.why_canceled("a", {"a": "3"}).endswith("have changed, and run 3 replaces it")


class FinishedRuns:
    """A bucket with the done.json of some runs."""

    def __init__(self, *done: str) -> None:
        self._done = done

    def head(self, key: str) -> object:
        return key if key in self._done else None


@pytest.mark.parametrize(
    ("there", "here", "left"),
    [
        (["cat", "dog"], [], "cat, dog"),
        (["cat", "dog"], ["cat"], "dog"),
        (["cat"], ["cat", "dog"], ""),
        ([], [], ""),
        # Another run is declared now: it has to be trained.
        (["cat", "changed", "gone"], ["cat"], ""),
    ],
)
@pytest.mark.parametrize("moved", ["bucket", "prefix"])
def test_finished_runs_are_not_trained_again_in_another_place(
    there: list[str], here: list[str], left: str, moved: str
) -> None:
    runs = {"cat": "1", "dog": "2", "changed": "3", "gone": "4"}
    olds = {"home": HOME, "groupId": "g", "bucket": "b", "prefix": "p/", "runs": runs}
    news = olds | {moved: "new/", "runs": {"cat": "1", "dog": "2", "changed": "9", "come": "4"}}
    buckets: dict[str, list[str]] = {}
    for props, done in ((olds, there), (news, here)):
        keys = [f"{props['prefix']}runs/{job}/{runs[job]}/model/done.json" for job in done]
        buckets.setdefault(str(props["bucket"]), []).extend(keys)
    provider = FakeServices().connect(DeclaredRunsProvider())
    provider.connection.storage = lambda name: FinishedRuns(*buckets[name])
    if not left:
        assert provider.diff("g", olds, news).replaces == [moved]
        return
    with pytest.raises(FluxError) as caught:
        provider.diff("g", olds, news)
    assert str(caught.value) == (
        f"{left}: the results are in s3://b/p/runs/; with another storage.bucket or storage.prefix these jobs would be trained again; "
        "to keep the results, first copy runs/ and .flux/runs/ to the new bucket or prefix; to train again, change `attempt` of these jobs"
    )
    # Another group does not move the results.
    assert provider.diff("g", olds, olds | {"groupId": "h"}).replaces == ["groupId"]


def test_keys_for_another_place_are_refused() -> None:
    with pytest.raises(FluxError) as caught:
        FakeServices().connect(NodeKeysProvider()).read("end", KEYS | {"home": "o/p at x"})
    assert str(caught.value) == (
        f"this stack lives in o/p at x, but the given keys are for {HOME}; a stack cannot move to another cloud, organization, project or storage; "
        "use the keys for o/p at x, or create another stack"
    )
