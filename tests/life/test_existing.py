"""Existing groups and buckets, adoption, expiry of objects, and the dev container group."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from localcloud.storage.lifecycle_rules import SECONDS_A_DAY, delete_expired
from localcloud.storage.objects import ObjectStorage

from flux_training.clients.salad import ContainerGroup, GroupSpec
from flux_training.clients.storage import Storage
from flux_training.training.environment import REFRESH_VARIABLE
from tests.life.stacks import Stack, new_stack

SECRET = "canary-theirs-3c10"


@pytest.fixture
def stack(cloud: Path, tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> Stack:
    name = request.function.__name__.removeprefix("test_").replace("_", "-")[:30].strip("-")
    return new_stack(tmp_path / "a", cloud, name, {"cat": 1}, engine)


def bucket_of(stack: Stack, name: str = "life") -> Storage:
    return stack.connection.storage(name)


def somebodys_group(stack: Stack) -> ContainerGroup:
    salad = stack.connection.salad()
    return salad.create_group(
        GroupSpec(
            name=stack.place,
            image="somebody/thing:1",
            environment={"THEIRS": SECRET},
            gpu_classes=[salad.gpu_class_id("RTX 5090")],
            cpu=2,
            autostart=False,
        )
    )


def group_of(stack: Stack, name: str = "") -> ContainerGroup | None:
    return stack.connection.salad().get_group(name or stack.place)


def test_a_foreign_group_of_that_name_is_refused_before_anything_is_created(stack: Stack) -> None:
    somebodys_group(stack)
    bucket_of(stack).ensure()
    bucket_of(stack).put_bytes(f"{stack.place}/theirs", b"x")
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        printed = stack.run(*command, code=1)
        assert f"container group {stack.place} exists already and was not created by this project" in printed
        assert f"bucket life/{stack.place}/ holds objects of other programs" in printed
        assert printed.count(":adopt: true` under `config:` in Pulumi.") >= 2
    assert [item.key for item in bucket_of(stack).list(f"{stack.place}/")] == [f"{stack.place}/theirs"]


def test_a_refresh_does_not_repeat_the_warnings_of_lint(stack: Stack) -> None:
    caption = stack.root / "jobs/cat/dataset/00001.txt"
    caption.write_text("tr1gger, a\u200b hill\n", encoding="utf-8")
    warning = "contains the character U+200B"
    assert warning in stack.run("preview")
    assert warning not in replace(stack, variables={REFRESH_VARIABLE: "1"}).run("preview")


def test_an_adopted_group_is_announced_and_survives_destroy(stack: Stack) -> None:
    theirs = somebodys_group(stack)
    bucket_of(stack).ensure()
    bucket_of(stack).put_bytes(f"{stack.place}/theirs", b"x")
    stack.configure({"cat": {}}, {"adopt": True})
    printed = stack.run("preview")
    assert "image: somebody/thing:1 -> saladtechnologies/ai-toolkit" in printed
    assert "cpu: 2 -> 4" in printed
    assert "environment: THEIRS removed or replaced" in printed
    assert "`destroy` does not delete it" in printed
    assert SECRET not in printed
    stack.up()
    ours = group_of(stack)
    assert ours is not None
    assert ours.id == theirs.id
    assert ours.environment_value("FLUX_OWNER") == "flux-training/dev"
    assert stack.live_runs() == stack.declared_runs()
    assert "is adopted" not in stack.up()
    destroyed = stack.destroy()
    left = group_of(stack)
    assert left is not None
    assert left.id == theirs.id
    assert left.current_state.status == "stopped"
    assert not [name for name in left.container.environment_variables if name.startswith(("AWS_", "FLUX_"))]
    assert f"container group {stack.place} existed before this stack and is not deleted" in destroyed
    assert bucket_of(stack).get_bytes(f"{stack.place}/theirs") == b"x"


@pytest.mark.long
def test_an_adopted_group_survives_a_lost_state(stack: Stack) -> None:
    """The second `create` recognises the group by its `FLUX_OWNER`."""
    somebodys_group(stack)
    stack.configure({"cat": {}}, {"adopt": True})
    stack.up()
    for path in (stack.root / ".pulumi/stacks").rglob("dev.json*"):
        path.unlink()
    stack.run("stack", "select", "--create", "dev")
    stack.up()
    stack.destroy()
    assert group_of(stack) is not None


def test_destroy_deletes_a_group_of_its_own(stack: Stack) -> None:
    stack.configure({"cat": {}}, {"adopt": True})
    stack.up()
    stack.destroy()
    assert group_of(stack) is None


def test_checkpoints_and_images_expire_but_results_do_not(stack: Stack, cloud: Path) -> None:
    storage = {"bucket": f"{stack.place}-b", "prefix": stack.place}
    stack.configure({"cat": {}}, {"storage": storage, "keep": {"checkpointsDays": 14, "datasetsDays": 60}})
    shown = stack.run("preview", "--diff")
    assert "retention" in shown
    assert f"{stack.place}/datasets/" in shown
    stack.up()
    bucket, run = bucket_of(stack, storage["bucket"]), stack.outputs()["jobs"]["cat"]
    output = f"{run['folder']}output/"
    kept = ["samples/1.jpg", "progress.json", "loss.csv", "cat.safetensors"]
    expiring = ["cat_000000010.safetensors", "optimizer.pt"]
    for name in kept + expiring:
        bucket.put_bytes(output + name, b"x")
    bucket.put_bytes(f"{run['folder']}model/cat.safetensors", b"x")
    before = {item.key for item in bucket.list("")}
    objects = ObjectStorage((cloud / "s3").resolve())
    gone = {
        key.removeprefix(f"{storage['bucket']}/")
        for key in delete_expired(objects, time.time() + 15 * SECONDS_A_DAY)
    }
    assert gone == {output + name for name in expiring}
    gone |= {
        key.removeprefix(f"{storage['bucket']}/")
        for key in delete_expired(objects, time.time() + 9000 * SECONDS_A_DAY)
    }
    left = {item.key for item in bucket.list("")}
    assert before - left == gone
    assert {key for key in left if key.startswith(f"{stack.place}/datasets/")} == set()
    assert {output + name for name in kept} | {f"{run['folder']}model/cat.safetensors"} <= left


@pytest.mark.long
def test_lifecycle_rules_of_others_stay(stack: Stack) -> None:
    name = f"{stack.place}-b"
    bucket = bucket_of(stack, name)
    bucket.ensure()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    bucket.put_lifecycle_rules([theirs])
    storage = {"bucket": name, "prefix": stack.place}
    for keep, prefixes in (({"datasetsDays": 5}, 2), ({"datasetsDays": 6}, 2), ({}, 1)):
        stack.configure({"cat": {}}, {"storage": storage, "keep": keep})
        stack.up()
        rules = bucket.lifecycle_rules()
        assert theirs in rules
        assert len(rules) == prefixes
    assert "updated" not in stack.up()


@pytest.mark.long
def test_lifecycle_rules_changed_by_hand_are_restored(stack: Stack) -> None:
    name = f"{stack.place}-b"
    stack.configure({"cat": {}}, {"storage": {"bucket": name, "prefix": "p"}, "keep": {"datasetsDays": 5}})
    stack.up()
    bucket = bucket_of(stack, name)
    before = bucket.lifecycle_rules()
    ours = [rule | {"Status": "Disabled"} for rule in before if rule["ID"].startswith("flux ")]
    assert len(ours) == 1
    bucket.put_lifecycle_rules([*(rule for rule in before if not rule["ID"].startswith("flux ")), *ours])
    stack.refresh()
    stack.up()
    assert bucket.lifecycle_rules() == before


def test_a_dev_group_takes_no_jobs_and_is_deleted_when_disabled(stack: Stack) -> None:
    dev = {"enabled": True, "image": "me/dev@sha256:" + "a" * 64, "tunnel": "my-gpu"}
    stack.configure({"cat": {}}, {"dev": dev})
    stack.up()
    told = stack.outputs()["dev"]
    group = group_of(stack, f"{stack.place}-dev")
    assert group is not None
    assert told == {
        "id": group.id,
        "name": f"{stack.place}-dev",
        "tunnel": "my-gpu",
        "page": "https://vscode.dev/tunnel/my-gpu",
    }
    assert group.replicas == 1
    assert group.current_state.status != "stopped"
    assert set(group.container.environment_variables) == {"FLUX_OWNER", "FLUX_TUNNEL_NAME"}
    assert stack.connection.kelpie().get_rule(group.id) is None
    assert {job.container_group_id for job in stack.jobs()} == {stack.outputs()["containerGroup"]["id"]}
    assert stack.outputs()["clusterSize"]["max"] == 1
    stack.refresh()
    assert "updated" not in stack.up()
    stack.configure({"cat": {}}, {"dev": {**dev, "enabled": False}})
    stack.up()
    assert group_of(stack, f"{stack.place}-dev") is None
    assert "dev" not in stack.outputs()


@pytest.mark.long
def test_an_r2_bucket_is_created_in_its_location(stack: Stack) -> None:
    name = f"{stack.place}-b"
    storage = {"kind": "r2", "bucket": name, "prefix": stack.place, "location": "apac"}
    stack.configure({"cat": {}}, {"storage": storage, "results": "delete"})
    stack.up()
    made = stack.connection.cloudflare().get_bucket(name)
    assert made is not None
    assert made.location == "APAC"
    stack.configure({"cat": {}}, {"storage": {**storage, "location": "weur"}, "results": "delete"})
    assert "is not moved" in stack.up()
    stack.destroy()
    assert stack.connection.cloudflare().get_bucket(name) is None


def test_a_changed_prefix_deletes_no_results_and_cancels_nothing(stack: Stack) -> None:
    stack.configure({"cat": {}}, {"results": "delete"})
    stack.up()
    weights = f"{stack.place}/runs/cat/{stack.declared_runs()[0]}/model/cat.safetensors"
    bucket_of(stack).put_bytes(weights, b"x")
    queued = stack.live_runs()
    moved = {"storage": {"bucket": "life", "prefix": f"{stack.place}/2"}, "results": "delete"}
    stack.configure({"cat": {}}, moved)
    assert f"results are in s3://life/{stack.place}/runs/" in stack.up(code=1)
    assert bucket_of(stack).get_bytes(weights) == b"x"
    assert stack.live_runs() == queued == stack.declared_runs()
