"""The state while it is changed: what is on the disk at each moment."""

import json
from pathlib import Path
from typing import Any

import pytest
from pulumi_embedded.errors import EngineError
from pulumi_embedded.state import serialization, snapshot
from pulumi_embedded.state.backend import Backend, StackId
from pulumi_embedded.state.serialization import Resource
from pulumi_embedded.state.snapshot import Checkpoint, StateSnapshot, checkpoint_of

STACK = StackId("p", "dev")


def resource(name: str, *needs: str) -> Resource:
    return Resource(urn(name), "t", dependencies=[urn(need) for need in needs])


def urn(name: str) -> str:
    return f"urn:pulumi:dev::p::t::{name}"


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    made = Backend.open(f"file://{tmp_path}", tmp_path)
    items = [{"urn": urn(name), "custom": False, "type": "t"} for name in ("a", "b")]
    made.write(STACK, checkpoint_of(STACK, {"resources": items, "metadata": {}}))
    return made


def opened(backend: Backend) -> StateSnapshot:
    shot = StateSnapshot(backend, STACK, None, Checkpoint.read(backend, STACK))
    shot.open(serialization.load_state(Checkpoint.read(backend, STACK).deployment, None))
    return shot


def names(backend: Backend) -> list[str]:
    latest = snapshot.current_deployment(backend, STACK)
    pending = [f"{op['type']} {op['resource']['urn'][-1]}" for op in latest.get("pending_operations", [])]
    return [item["urn"][-1] for item in latest.get("resources", [])] + pending


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_renaming_changes_stored_rows_and_not_loaded_resources(backend: Backend) -> None:
    """The run renames what it has in memory itself, and compares it with what was there."""

    def row(name: str) -> dict[str, Any]:
        refers = {"parent": urn("a"), "dependencies": [urn("a")], "propertyDependencies": {"x": [urn("a")]}}
        return {"urn": urn(name), "custom": False, "type": "t", **refers}

    items = [{"urn": urn("a"), "custom": False, "type": "t"}, row("b")]
    begun = [{"resource": row("c"), "type": "creating"}]
    latest = {"resources": items, "pending_operations": begun, "metadata": {}}
    backend.write(STACK, checkpoint_of(STACK, latest))
    checkpoint = Checkpoint.read(backend, STACK)
    loaded = serialization.load_state(checkpoint.deployment, None)
    shot = StateSnapshot(backend, STACK, None, checkpoint)
    shot.open(loaded)
    shot.record_step(put=[resource("z")], drop=[loaded.resources[0]], alias=(urn("a"), urn("z")))
    shot.close()
    after = snapshot.current_deployment(backend, STACK)
    assert [item["urn"] for item in after["resources"]] == [urn("z"), urn("b")]
    for item in (after["resources"][1], after["pending_operations"][0]["resource"]):
        assert (item["parent"], item["dependencies"]) == (urn("z"), [urn("z")])
        assert item["propertyDependencies"] == {"x": [urn("z")]}
    for old in (loaded.resources[1], loaded.pending[0].resource):
        assert (old.parent, old.dependencies) == (urn("a"), [urn("a")])
        assert old.property_dependencies == {"x": [urn("a")]}


def test_each_step_is_durable_before_and_after_it(backend: Backend) -> None:
    shot = opened(backend)
    operation = shot.begin_operation("creating", resource("c"))
    assert names(backend) == ["a", "b", "creating c"]
    shot.record_step(put=[resource("c")], end=[operation])
    assert names(backend) == ["c", "a", "b"]
    file = json.loads(backend.read(STACK))["checkpoint"]["latest"]
    assert len(file["resources"]) == 2  # the steps are in the journal, the checkpoint is as it was
    shot.close()
    assert backend.journal(STACK).read() == b""
    assert names(backend) == ["c", "a", "b"]


def test_folding_during_a_run_keeps_the_order(backend: Backend) -> None:
    shot = opened(backend)
    first = resource("c")
    shot.record_step(put=[first])
    shot.begin_operation("creating", resource("e"))
    shot.write_checkpoint()
    shot.record_step(put=[resource("d", "c")])
    assert names(backend) == ["c", "d", "a", "b", "creating e"]
    first.protect = True
    shot.record_step(put=[first])
    assert snapshot.recover_journal(backend, STACK)[0] == 2
    assert names(backend) == ["c", "d", "a", "b", "creating e"]
    assert snapshot.current_deployment(backend, STACK)["resources"][0]["protect"] is True


def test_a_full_disk_leaves_the_old_state_and_the_journal(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = opened(backend)
    shot.record_step(put=[resource("c")])
    before = backend.read(STACK)

    with monkeypatch.context() as patched:
        patched.setattr("pulumi_embedded.state.stores.replace_file", full)
        with pytest.raises(EngineError, match="No space left"):
            shot.close()
    assert backend.read(STACK) == before
    assert names(backend) == ["c", "a", "b"]
    assert snapshot.recover_journal(backend, STACK)[0] == 1
    assert json.loads(backend.read(STACK))["checkpoint"]["latest"]["resources"][0]["urn"] == urn("c")


def test_no_operation_begins_after_a_failed_write(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    shot = opened(backend)

    with monkeypatch.context() as patched:
        patched.setattr("pulumi_embedded.state.stores.os.fsync", full)
        with pytest.raises(EngineError, match="cannot be saved"):
            shot.record_step(put=[resource("c")])
    with pytest.raises(EngineError, match="cannot be saved"):
        shot.begin_operation("creating", resource("d"))
    shot.close()
    assert names(backend) == ["c", "a", "b"]


def test_a_damaged_state_is_reported(backend: Backend) -> None:
    backend.store.write("stacks/p/dev.json", b'{"version": 3, "checkp')
    with pytest.raises(EngineError, match=r"damaged.*\.bak"):
        snapshot.current_deployment(backend, STACK)
    assert backend.store.read("stacks/p/dev.json.bak") is None


def test_the_previous_checkpoint_is_kept(backend: Backend) -> None:
    before = backend.read(STACK)
    backend.write(STACK, b"{}")
    assert backend.store.read("stacks/p/dev.json.bak") == before
