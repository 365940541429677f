"""The nodes' keys: they allow only what nodes do, and are replaced without losing a job."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from localcloud.testing import running_cloud, wait_until

from components.container_group import configured_node_keys, fingerprint, node_environment, secret_values
from flux_training.clients.errors import ServiceError
from flux_training.clients.salad import ContainerGroup
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.life.stacks import Stack, as_real, new_stack

BUCKET = "nodes-keys"


def storage_settings(stack: Stack, **more: object) -> dict[str, object]:
    return {"storage": {"kind": "r2", "bucket": BUCKET, "prefix": stack.place, **more}}


def group_of(stack: Stack) -> ContainerGroup:
    group = stack.connection.salad().get_group(stack.place)
    assert group is not None
    return group


def as_node(stack: Stack, bucket: str = BUCKET, group: ContainerGroup | None = None) -> Storage:
    """The bucket with the keys and the address in the container group's environment."""
    told = (group or group_of(stack)).container.environment_variables
    return Storage(
        told["AWS_ENDPOINT_URL"].get_secret_value(),
        told["AWS_REGION"].get_secret_value(),
        told["AWS_ACCESS_KEY_ID"].get_secret_value(),
        told["AWS_SECRET_ACCESS_KEY"],
        told.get("AWS_SESSION_TOKEN"),
        bucket,
        retries=0,
    )


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except ServiceError as error:
        return type(error).__name__
    return "allowed"


def test_a_nodes_keys_open_only_its_own_folders(cloud: Path, tmp_path: Path) -> None:
    stack = new_stack(tmp_path / "a", cloud, "scoped", {"cat": 1})
    stack.configure({"cat": {}}, storage_settings(stack))
    stack.up()
    own = stack.connection.storage(BUCKET)
    own.put_bytes("beside/runs/x", b"x")
    other = stack.connection.storage("another-bucket")
    other.ensure()
    other.put_bytes(f"{stack.place}/runs/x", b"x")

    node, elsewhere = as_node(stack), as_node(stack, "another-bucket")
    layout = Layout(f"{stack.place}/")
    keys = layout.run("cat", stack.declared_runs()[0])
    attempts: dict[str, Callable[[], object]] = {
        "read its images": lambda: list(node.list(f"{stack.place}/datasets/")),
        "write a result": lambda: node.put_bytes(f"{stack.place}/runs/cat/r/output/a", b"1"),
        "delete a result": lambda: node.delete_many([f"{stack.place}/runs/cat/r/output/a"]),
        "read another prefix": lambda: node.get_bytes("beside/runs/x"),
        "list another prefix": lambda: list(node.list("beside/")),
        "list the bucket": lambda: list(node.list("")),
        "write another prefix": lambda: node.put_bytes("beside/runs/y", b"1"),
        "delete in another prefix": lambda: node.delete_many(["beside/runs/x"]),
        "copy out of another prefix": lambda: node.copy_many(
            [("beside/runs/x", f"{stack.place}/runs/cat/r/output/b")]
        ),
        "write whose the bucket is": lambda: node.put_bytes(f"{stack.place}/.flux/owner.json", b"{}"),
        "write who may queue a run": lambda: node.put_bytes(keys.claim, b"{}"),
        "write which job was queued": lambda: node.put_bytes(keys.posted, b"{}"),
        "write which weights are right": lambda: node.put_bytes(keys.results, b"{}"),
        "copy over which weights are right": lambda: node.copy_many([(keys.done, keys.results)]),
        "write what a dataset has": lambda: node.put_bytes(layout.dataset_index("d"), b"{}"),
        "read the records": lambda: list(node.list(layout.own)),
        "read another bucket": lambda: elsewhere.get_bytes(f"{stack.place}/runs/x"),
        "write another bucket": lambda: elsewhere.put_bytes(f"{stack.place}/runs/y", b"1"),
        "make a bucket": as_node(stack, "a-third-bucket").create_bucket,
        "delete the bucket": node.delete_bucket,
        "delete another bucket": elsewhere.delete_bucket,
        "see what expires": node.lifecycle_rules,
        "change what expires": lambda: node.put_lifecycle_rules(
            [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
        ),
    }
    allowed = {"read its images", "write a result", "delete a result"}
    assert {what: outcome(act) for what, act in attempts.items()} == {
        what: "allowed" if what in allowed else "Unauthorized" for what in attempts
    }
    assert own.get_bytes("beside/runs/x") == b"x"
    assert other.exists()
    assert_no_key_of_the_stack_is_in(group_of(stack), stack)


def assert_no_key_of_the_stack_is_in(group: ContainerGroup, stack: Stack) -> None:
    connection = stack.connection
    values = [value.get_secret_value() for value in group.container.environment_variables.values()]
    secrets = [connection.api_key, connection.cloudflare_api_token, connection.s3_secret_access_key]
    assert [secret for secret in secrets if secret and secret.get_secret_value() in "\n".join(values)] == []
    assert connection.s3_access_key_id not in values


@pytest.mark.long
def test_an_up_without_a_change_issues_no_keys(cloud: Path, tmp_path: Path) -> None:
    """New keys would restart every replica."""
    stack = new_stack(tmp_path / "a", cloud, "calm", {"cat": 1})
    stack.configure({"cat": {}}, storage_settings(stack))
    stack.up()
    # The autoscaler's first replica is a new version of the group.
    wait_until(lambda: group_of(stack).replicas == 1)
    before = group_of(stack)
    printed = stack.up()
    stack.refresh()
    assert "unchanged" in printed
    assert "updated" not in printed + stack.up()
    assert group_of(stack).container.environment_variables == before.container.environment_variables
    assert group_of(stack).version == before.version


def test_a_warning_while_runs_outlast_the_keys(cloud: Path, tmp_path: Path) -> None:
    """A canceled run that is still declared counts: a node that trains it again with expired keys gets no images."""
    warning = "the unfinished runs need about 300 h, but the nodes' keys expire at"
    stack = new_stack(tmp_path / "a", cloud, "long", {"cat": 1})
    stack.configure({"cat": {"maxHours": 300}}, storage_settings(stack))
    assert warning in stack.up()
    (job,) = stack.jobs()
    stack.connection.kelpie().cancel_job(job.id)
    assert warning in stack.run("preview")
    stack.configure({"cat": {"maxHours": 2}}, storage_settings(stack))
    assert "the nodes' keys expire at" not in stack.run("preview")


@pytest.mark.long
def test_a_key_changed_by_hand_is_restored(cloud: Path, tmp_path: Path, engine: str) -> None:
    stack = new_stack(tmp_path / "a", cloud, "drift", {"cat": 1}, engine)
    stack.configure({"cat": {}}, storage_settings(stack))
    stack.up()
    salad, secret = stack.connection.salad(), "canary-drift-91c4"
    patch = {"container": {"environment_variables": {"AWS_SECRET_ACCESS_KEY": secret}}}
    before = group_of(stack).container.environment_variables
    salad.patch_group(stack.place, patch)
    printed = stack.refresh() + stack.up()
    assert group_of(stack).container.environment_variables == before
    assert secret not in printed
    assert secret not in json.dumps(stack.state())


@pytest.fixture
def busy_cloud(tmp_path: Path) -> Iterator[Path]:
    """A local cloud whose nodes train slowly, so that a test can act meanwhile."""
    with running_cloud(
        tmp_path / "cloud", autoscaler_seconds=0.2, step_seconds=0.4, heartbeat_seconds=0.5, nodes=2
    ):
        yield tmp_path / "cloud"


def statuses(stack: Stack) -> dict[str, str]:
    return {job.environment["FLUX_RUN_ID"]: job.status for job in stack.jobs()}


def old_keys_of(stack: Stack, credentials: str) -> tuple[ContainerGroup, dict[str, object]]:
    settings = storage_settings(stack, credentials=credentials)
    stack.configure({"cat": {}, "dog": {}}, settings)
    stack.up()
    wait_until(lambda: set(statuses(stack).values()) == {"running"}, 60)
    return group_of(stack), storage_settings(stack, credentials=credentials, rotate=2)


@pytest.mark.long
@pytest.mark.parametrize("credentials", ["token", pytest.param("temporary", marks=pytest.mark.long)])
def test_new_keys_while_jobs_run_lose_and_duplicate_no_job(
    credentials: str, busy_cloud: Path, tmp_path: Path, engine: str
) -> None:
    stack = new_stack(tmp_path / "a", busy_cloud, "rotate", {"cat": 1, "dog": 2}, engine)
    before, rotated = old_keys_of(stack, credentials)
    jobs = {job.id for job in stack.jobs()}
    assert outcome(lambda: list(as_node(stack, group=before).list(f"{stack.place}/runs/"))) == "allowed"
    stack.configure({"cat": {}, "dog": {}}, rotated)
    stack.up()
    after = group_of(stack)
    assert after.id == before.id
    changed = {
        name
        for name, value in after.container.environment_variables.items()
        if before.container.environment_variables.get(name) != value
    }
    assert "AWS_SECRET_ACCESS_KEY" in changed
    # Old tokens are revoked (temporary keys expire by themselves), and the new keys work.
    revoked = "Unauthorized" if credentials == "token" else "allowed"
    assert outcome(lambda: list(as_node(stack, group=before).list(f"{stack.place}/runs/"))) == revoked
    assert outcome(lambda: list(as_node(stack).list(f"{stack.place}/runs/"))) == "allowed"
    wait_until(lambda: set(statuses(stack).values()) == {"completed"}, 120)
    assert {job.id for job in stack.jobs()} == jobs
    assert len(jobs) == 2
    stack.refresh()
    assert {job["status"] for job in stack.outputs()["jobs"].values()} == {RunState.COMPLETED}


@pytest.mark.long
def test_old_keys_stay_valid_until_the_group_has_new_ones(cloud: Path, tmp_path: Path, engine: str) -> None:
    stack = new_stack(tmp_path / "a", cloud, "order", {"cat": 1}, engine)
    stack.configure({"cat": {}}, storage_settings(stack, credentials="token"))
    stack.up()
    before = group_of(stack)
    # No such GPU: new keys are created, then the update of the group fails.
    stack.configure({"cat": {}}, storage_settings(stack, credentials="token", rotate=2), gpu="RTX 9999")
    stack.up(code=1)
    assert outcome(lambda: list(as_node(stack, group=before).list(f"{stack.place}/runs/"))) == "allowed"
    stack.configure({"cat": {}}, storage_settings(stack, credentials="token", rotate=2))
    stack.up()
    assert outcome(lambda: list(as_node(stack, group=before).list(f"{stack.place}/runs/"))) == "Unauthorized"
    assert outcome(lambda: list(as_node(stack).list(f"{stack.place}/runs/"))) == "allowed"
    tokens = [token for token in names(stack) if token.startswith("flux-training/dev nodes ")]
    stack.destroy()
    assert len(tokens) > len([token for token in names(stack) if token in tokens])


def names(stack: Stack) -> list[str]:
    connection = stack.connection
    answer: Any = connection.cloudflare()._http.request(
        "GET", f"accounts/{connection.cloudflare_account_id}/tokens?per_page=50"
    )
    return [token["name"] for token in answer.json()["result"]]


@pytest.mark.long
def test_a_changed_key_from_the_environment_reaches_the_nodes_and_keeps_the_jobs(
    cloud: Path, tmp_path: Path
) -> None:
    """storage.kind s3 on SaladCloud: the keys come from the environment."""
    stack = new_stack(tmp_path / "a", cloud, "given", {"cat": 1})
    local = stack.connection
    storage = {"bucket": "given-bucket", "prefix": stack.place}
    local.storage("given-bucket").ensure()
    keys = [local.cloudflare().replace_tokens(f"given {number}", "given-bucket") for number in (1, 2)]
    stack.configure({"cat": {}}, {"cloud": "salad", "storage": storage})

    def up_with(number: int) -> str:
        variables = as_real(local) | {
            "FLUX_NODE_ACCESS_KEY_ID": keys[number].access_key_id,
            "FLUX_NODE_SECRET_ACCESS_KEY": keys[number].secret_access_key.get_secret_value(),
        }
        return replace(stack, variables=variables).up()

    up_with(0)
    jobs, group = {job.id for job in stack.jobs()}, group_of(stack)
    up_with(1)
    assert {job.id for job in stack.jobs()} == jobs
    assert group_of(stack).id == group.id
    told = group_of(stack).container.environment_variables
    assert told["AWS_SECRET_ACCESS_KEY"] == keys[1].secret_access_key


def test_the_fingerprint_of_the_environment_is_not_stored_in_plain_text(
    cloud: Path, tmp_path: Path, engine: str
) -> None:
    stack = new_stack(tmp_path / "a", cloud, "mark", {"cat": 1}, engine)
    environment = {"PASSWORD": "1234"}
    stack.configure({"cat": {}}, environment=environment)
    stack.up()
    told = {
        **secret_values(environment),
        **node_environment(stack.connection),
        **configured_node_keys(stack.connection),
    }
    mark = fingerprint(told)
    (path,) = (stack.root / ".pulumi/stacks").rglob("dev.json")
    assert mark not in path.read_text(encoding="utf-8")
    stack.refresh()
    assert mark not in path.read_text(encoding="utf-8")
    stack.configure({"cat": {}}, environment={"PASSWORD": "5678"})
    shown = stack.run("preview", "--diff")
    assert "credentials" in shown
    assert mark not in shown

    # Older states store it in plain text; that alone is no change.
    state = stack.state()
    (group,) = (
        one for one in state["checkpoint"]["latest"]["resources"] if one["type"].endswith(":ContainerGroup")
    )
    group["inputs"]["credentials"] = group["outputs"]["credentials"] = mark
    path.write_text(json.dumps(state), encoding="utf-8")
    stack.configure({"cat": {}}, environment=environment)
    assert "updated" not in stack.up()


def test_a_warning_when_nodes_get_the_stacks_own_keys(cloud: Path, tmp_path: Path) -> None:
    stack = new_stack(tmp_path / "a", cloud, "own", {"cat": 1})
    stack.configure({"cat": {}}, {"cloud": "salad"})
    printed = replace(stack, variables=as_real(stack.connection)).run("preview")
    assert "set FLUX_NODE_ACCESS_KEY_ID and FLUX_NODE_SECRET_ACCESS_KEY" in printed
