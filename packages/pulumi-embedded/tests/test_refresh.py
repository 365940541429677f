"""Drift: what refresh finds, and what the next update does about it."""

import json

from engine_stack import EngineStack, thing


def drift(stack: EngineStack) -> None:
    (stack.cloud / "one.json").write_text(json.dumps({"text": "drifted"}))
    (stack.cloud / "two.json").unlink()
    stack.calls()


def test_refresh_updates_the_state(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing(), "three": thing(options={"depends_on": ["two"]})})
    stack.up()
    drift(stack)
    output = stack.run("refresh", "--yes")
    assert "one updated" in output
    assert "two deleted" in output
    found = stack.resources()
    assert "two" not in found
    assert found["one"]["inputs"]["text"] == "drifted"
    assert "dependencies" not in found["three"]
    preview = stack.run("preview", "--diff")
    assert '~ text: "drifted" => "a"' in preview
    assert "+ 1 to create" in preview
    stack.up()
    assert sorted(stack.calls()) == ["create two", "update one"]
    assert "unchanged" in stack.run("refresh", "--yes", "--expect-no-changes")


def test_children_of_a_missing_resource_get_its_parent(stack: EngineStack) -> None:
    stack.spec(
        {
            "group": {"group": True},
            "two": thing(options={"parent": "group"}),
            "child": thing(options={"parent": "two"}),
        }
    )
    stack.up()
    (stack.cloud / "two.json").unlink()
    stack.run("refresh", "--yes", "--skip-preview")
    found = stack.resources()
    assert found["child"]["parent"] == found["group"]["urn"]
    stack.calls()
    stack.up()
    assert stack.calls() == ["create two"]


def test_up_and_preview_refresh_first(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing()})
    stack.up()
    drift(stack)
    before = stack.state_file.read_bytes()
    output = stack.run("preview", "--refresh")
    assert "[has drifted]" in output
    assert "[gone]" in output
    assert "+ 1 to create" in output
    assert "~ 1 to update" in output
    assert stack.state_file.read_bytes() == before
    stack.up("--refresh")
    assert sorted(stack.calls()) == ["create two", "update one"]


def test_only_targets_are_refreshed(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing()}, exports={"o": 1})
    stack.up()
    drift(stack)
    urn = "urn:pulumi:dev::test::pulumi-python:dynamic/test:Thing::"
    assert f"no resource named '{urn}nope' found" in stack.run(
        "refresh", "--yes", "--target", f"{urn}nope", code=1
    )
    shown = stack.run("refresh", "--yes", "--skip-preview", "--target", "**::one")
    assert "one updated" in shown
    assert "Outputs:" not in shown
    assert stack.resources()["one"]["inputs"]["text"] == "drifted"
    assert "two" in stack.resources()
    stack.calls()
    stack.destroy("--refresh")
    assert stack.calls() == ["delete one"]


def test_refresh_can_clear_pending_creates(stack: EngineStack) -> None:
    stack.spec({"one": thing("die")})
    stack.up(code=1)
    assert "may therefore exist" in stack.run("refresh", "--yes")
    stack.run("refresh", "--yes", "--clear-pending-creates")
    assert "pending_operations" not in stack.latest()


def test_refresh_with_run_program_only_changes_outputs(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing()}, exports={"length": {"$ref": ["one", "length"]}})
    stack.up()
    drift(stack)
    stack.spec(
        {"one": thing("another"), "three": thing()}, exports={"length": {"$ref": ["one", "length"]}, "new": 1}
    )
    stack.run("refresh", "--yes", "--skip-preview", "--run-program")
    assert json.loads(stack.run("stack", "output", "--json")) == {"length": len("drifted"), "new": 1}
    assert list(stack.resources()) == ["test-dev", "default", "one"]
    assert stack.calls() == []
