"""What a registration comes to: create, same, update, replace, delete, and the options that steer it."""

import json
import time

from engine_stack import EngineStack, thing


def test_create_same_update_delete(stack: EngineStack) -> None:
    stack.spec(
        {"one": thing(), "two": thing(of={"$ref": ["one", "length"]})},
        exports={"n": {"$ref": ["two", "length"]}},
    )
    assert "+ 3 created" in stack.up()
    assert stack.calls() == ["create one", "create two"]
    assert stack.resources()["two"]["dependencies"] == [stack.resources()["one"]["urn"]]

    before = stack.resources()
    assert "3 unchanged" in stack.up("--expect-no-changes")
    assert stack.resources() == before

    stack.spec({"one": thing("bb"), "two": thing(of={"$ref": ["one", "length"]})})
    output = stack.up()
    assert "one updated" in output
    assert "[diff: ~text]" in output
    assert stack.calls() == ["update one", "update two"]
    assert stack.resources()["one"]["outputs"]["length"] == 2
    assert stack.resources()["one"]["created"] == before["one"]["created"]

    stack.spec()
    assert "- 2 deleted" in stack.up()
    assert stack.calls() == ["delete two", "delete one"]
    assert list(stack.resources()) == ["test-dev"]


def test_preview_shows_changes_without_making_them(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up()
    before = stack.state_file.read_bytes()
    stack.calls()
    stack.spec({"one": thing("bb", kind="other"), "two": thing(of={"$ref": ["one", "length"]})})
    content = json.loads(stack.run("preview", "--json"))
    assert content["changeSummary"] == {"same": 1, "create": 1, "replace": 1}
    why = next(step for step in content["steps"] if step["op"] == "replace")
    assert why["replaceReasons"] == ["kind"]
    assert why["detailedDiff"]["kind"]["kind"] == "add-replace"
    assert why["detailedDiff"]["text"]["kind"] == "update"
    shown = stack.run("preview", "--diff")
    assert '~ text: "a" => "bb"' in shown
    assert "of        : [unknown]" in shown
    assert stack.run("preview", "--expect-no-changes", code=7).count("no changes were expected") == 1
    assert stack.calls() == []
    assert stack.state_file.read_bytes() == before


def test_replace_creates_first_and_deletes_last(stack: EngineStack) -> None:
    stack.spec({"one": thing(kind="a"), "two": thing(of={"$ref": ["one", "kind"]})})
    stack.up()
    stack.calls()
    stack.spec({"one": thing(kind="b"), "two": thing(of={"$ref": ["one", "kind"]})})
    output = stack.up()
    assert stack.calls() == ["adopt one", "update two", "delete one"]
    assert "[diff: ~kind]" in output
    assert "+-1 replaced" in output
    assert list(stack.resources()) == ["test-dev", "default", "one", "two"]


def test_delete_before_replace_includes_dependents(stack: EngineStack) -> None:
    def spec(kind: str) -> None:
        stack.spec(
            {
                "one": thing(kind=kind, dbr=True),
                "on": thing(on={"$ref": ["one", "kind"]}, dbr=True),
                "beside": thing(of={"$ref": ["one", "kind"]}),
            }
        )

    spec("a")
    stack.up()
    stack.calls()
    spec("b")
    assert "+-2 to replace" in stack.run("preview")
    output = stack.up()
    calls = stack.calls()
    assert calls[:3] == ["delete on", "delete one", "create one"]
    assert sorted(calls[3:]) == ["create on", "update beside"]
    assert "+-2 replaced" in output
    assert not any("pendingReplacement" in item for item in stack.resources().values())


def test_a_resource_is_recreated_only_after_its_cascade(stack: EngineStack) -> None:
    """`dependent` no longer depends on `root`: it is registered while it is being deleted for `root`'s sake."""
    gates = {"gate_of_delete": "delete"}
    stack.spec(
        {"root": thing(kind="a", dbr=True), "dependent": thing(on={"$ref": ["root", "kind"]}, **gates)}
    )
    stack.up()
    stack.calls()
    stack.spec(
        {
            "root": thing(kind="b", dbr=True),
            "beside": thing(gate="make"),
            "dependent": thing(of={"$ref": ["beside", "length"]}, **gates),
        }
    )
    process = stack.start_up()
    stack.until_called("wait delete")
    stack.open("make")
    stack.until_called("create beside")
    time.sleep(0.5)  # time to go wrong
    stack.open("delete")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    calls = stack.calls()
    assert calls.index("wait delete") < calls.index("create dependent")
    assert (stack.cloud / "dependent.json").exists()
    assert [item["urn"].rsplit("::", 1)[-1] for item in stack.latest()["resources"]].count("dependent") == 1
    assert "4 unchanged" in stack.up("--expect-no-changes")


def test_a_resource_in_two_cascades_is_deleted_once(stack: EngineStack) -> None:
    def spec(kind: str) -> None:
        on = {"on": {"$ref": ["one", "kind"]}, "kind": {"$ref": ["two", "kind"]}}
        roots = {name: thing(kind=kind, dbr=True) for name in ("one", "two")}
        stack.spec({**roots, "both": thing(**on, gate_of_delete="delete")})

    spec("a")
    stack.up()
    stack.calls()
    spec("b")
    process = stack.start_up()
    stack.until_called("wait delete")
    time.sleep(0.5)  # time for the second
    stack.open("delete")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    calls = stack.calls()
    assert calls[0] == "delete both"
    assert sorted(calls) == sorted(
        [f"{verb} {name}" for verb in ("delete", "create") for name in ("one", "two", "both")]
        + ["wait delete"]
    )


def test_a_replacement_that_fails_is_finished_by_the_next_up(stack: EngineStack) -> None:
    stack.spec({"one": thing(kind="a", dbr=True)})
    stack.up()
    stack.spec({"one": thing("refuse", kind="b", dbr=True)})
    stack.up(code=1)
    assert stack.resources()["one"]["pendingReplacement"] is True
    stack.calls()
    stack.spec({"one": thing(kind="b", dbr=True)})
    stack.up()
    assert stack.calls() == ["create one"]
    assert "pendingReplacement" not in stack.resources()["one"]


def test_an_original_that_could_not_be_deleted_is_deleted_by_the_next_up(stack: EngineStack) -> None:
    stack.spec({"one": thing(kind="a", sticky=True)})
    stack.up()
    stack.spec({"one": thing(kind="b")})
    assert "it sticks" in stack.up(code=1)
    originals = [item for item in stack.latest()["resources"] if item.get("delete")]
    assert [item["inputs"]["kind"] for item in originals] == ["a"]
    stack.state_file.write_text(stack.state_file.read_text().replace('"sticky":true', '"sticky":false'))
    stack.calls()
    stack.up()
    assert stack.calls() == ["delete one"]


def test_aliases_rename_without_replacing(stack: EngineStack) -> None:
    stack.spec(
        {
            "old": {"group": True},
            "old-child": thing(options={"parent": "old"}),
            "user": thing(options={"depends_on": ["old-child"]}),
        }
    )
    stack.up()
    stack.calls()
    stack.spec(
        {
            "new": {"group": True, "options": {"aliases": [{"name": "old"}]}},
            "new-child": {**thing(), "name": "old-child", "options": {"parent": "new"}},
            "user": thing(options={"depends_on": ["new-child"]}),
        }
    )
    assert "4 unchanged" in stack.up()
    assert stack.calls() == []
    found = stack.resources()
    assert found["new-child"]["parent"] == found["new"]["urn"]
    assert found["user"]["dependencies"] == [found["new-child"]["urn"]]
    assert "old" not in found


def test_ignore_changes_and_replace_on_changes(stack: EngineStack) -> None:
    options = {"ignore_changes": ["deep.a"], "replace_on_changes": ["deep.b"]}
    stack.spec({"one": thing(deep={"a": 1, "b": 1}, options=options)})
    stack.up()
    stack.spec({"one": thing(deep={"a": 2, "b": 1}, options=options)})
    assert "2 unchanged" in stack.up()
    stack.spec({"one": thing(deep={"a": 2, "b": 2}, options=options)})
    assert "+-1 replaced" in stack.up()
    assert stack.resources()["one"]["inputs"]["deep"] == {"a": 2, "b": 2}


def test_a_resource_is_replaced_on_request(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing()})
    stack.up()
    shown = stack.up("--replace", "**::one", "--json")
    last = [json.loads(line) for line in shown.splitlines()][-2]
    assert last["summaryEvent"]["resourceChanges"] == {"same": 2, "replace": 1}


def test_dependents_of_targets_and_excluded_resources(stack: EngineStack) -> None:
    def declare(text: str) -> None:
        user = thing({"$ref": ["one", "text"]})
        stack.spec({"one": thing(text), "user": user, "other": thing(text)})

    declare("a")
    stack.up()
    declare("b")
    assert "~ 2 to update" in stack.run("preview", "--target", "**::one", "--target-dependents")
    assert "~ 2 to update" in stack.run("preview", "--exclude", "**::other")
    assert "~ 1 to update" in stack.run("preview", "--exclude", "**::one", "--exclude-dependents")
    assert "cannot be used together" in stack.run("preview", "--target", "a", "--exclude", "b", code=2)


def test_protect_and_retain(stack: EngineStack) -> None:
    stack.spec(
        {
            "kept": thing(options={"protect": True}),
            "left": thing(options={"retain_on_delete": True}),
            "plain": thing(),
        }
    )
    stack.up()
    stack.calls()
    stack.spec({"plain": thing()})
    assert "protected" in stack.up(code=1)
    assert stack.calls() == []
    stack.spec(
        {
            "kept": thing(kind="b", options={"protect": True}),
            "left": thing(options={"retain_on_delete": True}),
            "plain": thing(),
        }
    )
    assert "unable to replace" in stack.up(code=1)
    stack.spec({"kept": thing(), "left": thing(options={"retain_on_delete": True}), "plain": thing()})
    stack.up()
    stack.run("destroy", "--yes")
    assert sorted(stack.calls()) == ["delete kept", "delete plain"]
    assert (stack.cloud / "left.json").exists()


def test_deleted_with(stack: EngineStack) -> None:
    stack.spec({"house": thing(), "room": thing(options={"deleted_with": "house"})})
    stack.up()
    stack.calls()
    stack.destroy()
    assert stack.calls() == ["delete house"]
    assert stack.resources() == {}


def test_secrets_stay_secret(stack: EngineStack) -> None:
    stack.spec(
        {
            "one": thing(
                {"$config": "token"},
                deep={"x": {"$secret": "s3cret-in-it"}},
                tell_token=True,
                options={"additional_secret_outputs": ["length", "token"]},
            )
        },
        exports={"token": {"$ref": ["one", "text"]}, "plain": "p"},
        prints=["the token is canary-7f3a"],
    )
    output = stack.run("up", "--yes", "--diff") + stack.run("preview", "--json")
    for text in ("canary-7f3a", "s3cret-in-it"):
        assert text not in output
        assert text not in stack.state_file.read_text()
    assert json.loads(stack.run("stack", "output", "--json")) == {"plain": "p", "token": "[secret]"}
    assert json.loads(stack.run("stack", "output", "--json", "--show-secrets"))["token"] == "canary-7f3a"
    outputs = stack.resources()["one"]["outputs"]
    assert "ciphertext" in outputs["length"]
    assert "ciphertext" in outputs["token"]
    assert "ciphertext" in outputs["deep"]["x"]
    before = stack.state_file.read_text().split('"resources"')[1]
    stack.up()
    assert stack.state_file.read_text().split('"resources"')[1] == before


def test_an_explicit_provider_limits_the_stored_configuration(stack: EngineStack) -> None:
    stack.spec({"one": thing(tell_token=True, options={"provider": {"test:token": {"$secret": "its-own"}}})})
    assert "+ 3 created" in stack.up()
    found = stack.resources()
    assert found["one"]["provider"] == f"{found['mine']['urn']}::{found['mine']['id']}"
    assert found["one"]["outputs"]["token"] == "its-own"
    assert list(found["mine"]["inputs"]) == ["test:token"]
    assert "default" not in found
    stack.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    stack.spec({"one": thing(tell_token=True, options={"provider": {"test:token": {"$secret": "new"}}})})
    assert "mine updated" in stack.up()
