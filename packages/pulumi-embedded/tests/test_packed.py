"""`PULUMI_DIY_BACKEND_GZIP` packs the state, and a stack in one form is taken over in the other."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, cli, essence, for_both
from engine_stack import EngineStack, thing

PACK = {"PULUMI_DIY_BACKEND_GZIP": "true"}
OFF = {"PULUMI_DIY_BACKEND_GZIP": "false"}


def folder_of(stack: EngineStack) -> Path:
    return stack.folder / ".pulumi/stacks/test"


def files(stack: EngineStack) -> set[str]:
    return {path.name for path in folder_of(stack).iterdir() if not path.name.endswith(".attrs")}


def packed(stack: EngineStack) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress((folder_of(stack) / "dev.json.gz").read_bytes()))
    latest: dict[str, Any] = content["checkpoint"]["latest"]
    return latest


def test_a_compressed_stack_from_creation_to_removal(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up(**PACK)
    assert "dev.json" not in files(stack)
    assert any(item["urn"].endswith("::one") for item in packed(stack)["resources"])
    for way in (PACK, OFF):
        stack.run("preview", "--expect-no-changes", **way)
        assert [row["name"] for row in json.loads(stack.run("stack", "ls", "--json", **way))] == ["dev"]
        assert '"urn:' in stack.run("stack", "export", **way)
    history = sorted(
        path.name.partition(".")[2] for path in (stack.folder / ".pulumi/history/test/dev").iterdir()
    )
    assert history == ["checkpoint.json.gz", "history.json.gz"]
    assert [path.name[-8:] for path in (stack.folder / ".pulumi/backups/test/dev").iterdir()] == [".json.gz"]
    stack.destroy(**PACK)
    stack.run("stack", "rm", "--yes", **PACK)
    assert "dev.json.gz.bak" in files(stack)
    assert not {"dev.json", "dev.json.gz"} & files(stack)


def test_a_stack_changes_between_plain_and_compressed(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up(**OFF)
    assert "dev.json" in files(stack)
    stack.spec({"one": thing(), "two": thing()})
    assert "1 created" in stack.up(**PACK)
    assert {"dev.json.gz", "dev.json.bak"} <= files(stack)
    assert "dev.json" not in files(stack)
    stack.spec({"one": thing()})
    assert "1 deleted" in stack.up(**OFF)
    assert {"dev.json", "dev.json.gz.bak"} <= files(stack)
    assert "dev.json.gz" not in files(stack)


@pytest.mark.parametrize(("later", "there"), [("dev.json", "2 unchanged"), ("dev.json.gz", "1 to create")])
def test_the_newer_of_two_checkpoints_is_used(stack: EngineStack, later: str, there: str) -> None:
    stack.spec({})
    stack.up(**PACK)
    without = (folder_of(stack) / "dev.json.gz").read_bytes()
    stack.spec({"one": thing()})
    stack.up(**OFF)
    (folder_of(stack) / "dev.json.gz").write_bytes(without)
    for name in ("dev.json", "dev.json.gz"):
        moment = 2_000_000_000 if name == later else 1_900_000_000
        os.utime(folder_of(stack) / name, (moment, moment))
    assert there in stack.run("preview", **OFF)
    stack.up(**PACK)
    assert "dev.json" not in files(stack)


def test_a_journal_is_added_to_a_compressed_state(stack: EngineStack) -> None:
    stack.up(**PACK)
    stack.environment.update(PACK)
    stack.spec({"one": thing(), "slow": thing(gate="go", of={"$ref": ["one", "length"]})})
    stack.kill_up_at("go")
    stack.open("go")
    stack.environment.update(OFF)
    stack.up()
    assert set(stack.resources()) >= {"one", "slow"}
    calls = stack.calls()
    assert (calls.count("create one"), calls.count("adopt one")) == (1, 0)


def test_a_truncated_compressed_state_is_reported(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up(**PACK)
    file = folder_of(stack) / "dev.json.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert "the state file is damaged" in stack.run("preview", code=None, **PACK)


def test_zstd_is_refused_by_name(stack: EngineStack) -> None:
    stack.spec({})
    told = stack.run("preview", code=None, PULUMI_DIY_BACKEND_ZSTD="1")
    assert "PULUMI_DIY_BACKEND_ZSTD needs the Pulumi CLI" in told
    stack.up(**OFF)
    (folder_of(stack) / "dev.json").rename(folder_of(stack) / "dev.json.zst")
    assert "the compressed state stacks/test/dev.json.zst needs the Pulumi CLI" in stack.run(
        "preview", code=None
    )


@pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")
@pytest.mark.parametrize(("ours", "theirs"), [(PACK, PACK), (PACK, OFF), (OFF, PACK)])
def test_alternating_with_the_cli(stack: EngineStack, ours: dict[str, str], theirs: dict[str, str]) -> None:
    for_both(stack)
    stack.spec({"one": thing()})
    stack.up(**ours)
    before = essence(packed(stack) if ours is PACK else stack.latest())
    shown = cli(stack, "up", "--yes", "--skip-preview", "--expect-no-changes", **theirs)
    assert "unchanged" in shown
    assert essence(packed(stack) if theirs is PACK else stack.latest()) == before
    stack.spec({"one": thing("bb"), "two": thing()})
    cli(stack, "up", "--yes", "--skip-preview", **theirs)
    stack.run("preview", "--expect-no-changes", **ours)
    assert "unchanged" in stack.up("--expect-no-changes", **ours)
    assert len(cli(stack, "stack", "history", **theirs).split("Updated")) >= 3
