"""A stack whose state lies in an S3-compatible bucket: its whole life, kills, and hand-over with the real CLI."""

import gzip
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from engine_cli import CLI, cli, essence, for_both
from engine_stack import new_stack
from s3_server import NanioServer, running_s3_server

Things = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NanioServer]:
    with running_s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


class BucketStack:
    """A stack in a bucket of its own."""

    def __init__(self, folder: Path, server: NanioServer, virtualenv: Path) -> None:
        self.s3 = server.client()
        self.bucket = f"state-{uuid.uuid4().hex[:12]}"
        self.s3.create_bucket(Bucket=self.bucket)
        query = {"endpoint": server.url, "region": server.region, "s3ForcePathStyle": "true"}
        self.stack = new_stack(
            folder,
            virtualenv,
            PULUMI_BACKEND_URL=f"s3://{self.bucket}/states?{urlencode(query)}",
            AWS_ACCESS_KEY_ID=server.access_key,
            AWS_SECRET_ACCESS_KEY=server.secret_key,
        )

    def list_keys(self, below: str = "") -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"states/.pulumi/{below}")
        return [item["Key"].removeprefix("states/.pulumi/") for item in listed.get("Contents", [])]

    def latest(self) -> dict[str, Any]:
        key = "states/.pulumi/stacks/test/dev.json"
        content = json.loads(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        latest: dict[str, Any] = content["checkpoint"]["latest"]
        return latest

    def put(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)

    def names(self) -> set[str]:
        return {item["urn"].rsplit("::", 1)[-1] for item in self.latest().get("resources", [])}


@pytest.fixture
def bucket(tmp_path: Path, server: NanioServer, virtualenv: Path) -> Iterator[BucketStack]:
    made = BucketStack(tmp_path, server, virtualenv)
    yield made
    made.stack.clean_up()


def things(text: str = "a") -> Things:
    return {"one": {"text": text}, "two": {"text": "b", "of": {"$ref": ["one", "length"]}}}


def test_a_stack_in_a_bucket_from_creation_to_removal(bucket: BucketStack) -> None:
    stack = bucket.stack
    stack.spec(things(), exports={"length": {"$ref": ["one", "length"]}})
    assert "3 created" in stack.up()
    assert bucket.names() == {"test-dev", "default", "one", "two"}
    assert "3 unchanged" in stack.run("preview", "--expect-no-changes")
    assert json.loads(stack.run("stack", "output", "--json")) == {"length": 1}
    assert [row["name"] for row in json.loads(stack.run("stack", "ls", "--json"))] == ["dev"]
    stack.spec(things("bb"))
    assert "2 updated" in stack.up()
    assert "stacks/test/dev.json.bak" in bucket.list_keys("stacks")
    assert bucket.list_keys("locks") == bucket.list_keys("journals") == []
    assert not (stack.folder / ".pulumi").exists()
    assert "3 deleted" in stack.destroy()
    stack.run("stack", "rm", "--yes")
    assert bucket.list_keys("stacks") == ["stacks/test/dev.json.bak"]


def test_a_compressed_state_in_a_bucket(bucket: BucketStack) -> None:
    stack = bucket.stack
    stack.spec(things())
    stack.up(PULUMI_DIY_BACKEND_GZIP="true")
    assert set(bucket.list_keys("stacks")) == {"stacks/test/dev.json.bak", "stacks/test/dev.json.gz"}
    assert "3 unchanged" in stack.run("preview", "--expect-no-changes")
    stack.spec(things("bb"))
    assert "2 updated" in stack.up()
    assert set(bucket.list_keys("stacks")) == {
        f"stacks/test/dev.json{ending}" for ending in ("", ".bak", ".gz.bak")
    }


def test_the_newer_of_two_checkpoints_in_a_bucket_is_used(bucket: BucketStack) -> None:
    stack, key = bucket.stack, "states/.pulumi/stacks/test/dev.json"
    stack.spec(things())
    stack.up()
    now = bucket.s3.get_object(Bucket=bucket.bucket, Key=key)["Body"].read()
    empty = bucket.s3.get_object(Bucket=bucket.bucket, Key=f"{key}.bak")["Body"].read()
    bucket.put(key, empty)
    # Buckets keep whole seconds: of two objects from one second the packed one counts, as with the CLI.
    bucket.put(f"{key}.gz", gzip.compress(now))
    assert "3 unchanged" in stack.run("preview", "--expect-no-changes")


def test_bucket_errors_and_unsupported_parameters_are_reported(bucket: BucketStack) -> None:
    url = bucket.stack.environment["PULUMI_BACKEND_URL"]
    stack = bucket.stack
    shown = stack.run("up", "--yes", code=1, PULUMI_BACKEND_URL=url.replace("state-", "nope-"))
    assert "the bucket nope-" in shown
    shown = stack.run("up", "--yes", code=1, PULUMI_BACKEND_URL=url + "&ssetype=aws:kms")
    assert "the parameter 'ssetype' of the backend" in shown


def kill_in_create(bucket: BucketStack) -> None:
    """A finished step and one without an outcome."""
    stack = bucket.stack
    stack.spec({"one": {"text": "a"}, "slow": {"text": "a", "gate": "go", "of": {"$ref": ["one", "length"]}}})
    stack.kill_up_at("go")
    stack.open("go")
    stack.until(lambda: (stack.cloud / "slow.json").exists())
    stack.calls()


def test_a_kill_loses_no_finished_step_and_keeps_the_lock(bucket: BucketStack, tmp_path: Path) -> None:
    kill_in_create(bucket)
    stack = bucket.stack
    assert len(bucket.list_keys("locks")) == 1
    assert bucket.list_keys("journals")
    if CLI:
        for_both(stack)
        # The CLI knows nothing of the journal: the lock keeps it off a checkpoint that lacks steps.
        assert "currently locked" in cli(stack, "up", "--yes", "--skip-preview", code=1)
    # The journal is where the state is: who has nothing else of the run that was killed finds it.
    stack.environment["PULUMI_HOME"] = str(tmp_path / "another home")
    output = stack.up("--stack", "dev")
    assert "took over the lock" in output
    assert stack.calls() == ["wait go", "adopt slow"]
    assert bucket.list_keys("locks") == bucket.list_keys("journals") == []
    assert "pending_operations" not in bucket.latest()


def test_cancel_adds_the_steps_of_a_killed_update(bucket: BucketStack) -> None:
    kill_in_create(bucket)
    assert re.search(r"^\d+ steps of the update were added", bucket.stack.run("cancel"), re.MULTILINE)
    assert bucket.list_keys("locks") == bucket.list_keys("journals") == []
    assert "one" in bucket.names()


@pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")
def test_alternating_with_the_cli_in_a_bucket(bucket: BucketStack) -> None:
    stack = bucket.stack
    for_both(stack)
    turns = [things(), things("bb"), {**things("bb"), "three": {"text": {"$config": "token"}}}]
    for turn, declared in enumerate(turns):
        stack.spec(declared, exports={"length": {"$ref": ["one", "length"]}})
        hands = [lambda *given: stack.run(*given), lambda *given: cli(stack, *given)]
        one, other = hands if turn % 2 else hands[::-1]
        one("up", "--yes", "--skip-preview")
        before = essence(bucket.latest())
        other("up", "--yes", "--expect-no-changes")
        assert essence(bucket.latest()) == before
