"""Commands that change only the state, and commands that need no stack."""

import json
from pathlib import Path

import pytest
from engine_cli import CLI, cli, essence, for_both
from engine_stack import EngineStack, thing


def deployed(stack: EngineStack) -> dict[str, str]:
    """`two` depends on `one`; the URNs by name."""
    stack.spec({"one": thing(), "two": thing(of={"$ref": ["one", "length"]})})
    stack.up()
    return {name: item["urn"] for name, item in stack.resources().items()}


def test_only_resources_without_dependents_are_deleted(stack: EngineStack) -> None:
    urns = deployed(stack)
    refused = stack.run("state", "delete", urns["one"], code=1)
    assert f" * {urns['two']}" in refused
    assert "Resource deleted" in stack.run("state", "delete", urns["two"])
    assert "two" not in stack.resources()
    stack.run("state", "delete", "--all", "--yes")
    assert stack.resources() == {}


def test_dependents_are_deleted_when_asked_for(stack: EngineStack) -> None:
    urns = deployed(stack)
    stack.run("state", "delete", urns["one"], "--target-dependents")
    assert not {"one", "two"} & stack.resources().keys()


def test_protected_resources_are_only_deleted_with_force(stack: EngineStack) -> None:
    two = deployed(stack)["two"]
    assert "1 resources protected" in stack.run("state", "protect", two)
    assert "--force" in stack.run("state", "delete", two, code=1)
    assert f"pulumi state unprotect '{two}'" in stack.run("destroy", "--yes", "--skip-preview", code=1)
    stack.run("state", "unprotect", two)
    stack.run("state", "protect", "--all")
    stack.run("state", "delete", two, "--force")
    assert stack.resources()["one"]["protect"] is True


def test_a_renamed_resource_keeps_its_dependents(stack: EngineStack) -> None:
    one = deployed(stack)["one"]
    stack.run("state", "rename", one, "first")
    renamed = stack.resources()["first"]["urn"]
    assert stack.resources()["two"]["dependencies"] == [renamed]
    assert "already" in stack.run("state", "rename", renamed, "first", code=1)
    stack.spec({"first": thing(), "two": thing(of={"$ref": ["first", "length"]})})
    assert "1 updated" in stack.up()  # the provider's input `name`, and nothing is created


def test_an_unknown_resource_is_reported_with_those_that_exist(stack: EngineStack) -> None:
    one = deployed(stack)["one"]
    before = stack.state_file.read_bytes()
    for command in (["delete"], ["protect"], ["unprotect"]):
        assert one in stack.run("state", *command, one + "x", code=1)
        assert "--show-urns" in stack.run("state", *command, code=1)
    assert one in stack.run("stack", "--show-urns")
    assert stack.state_file.read_bytes() == before


def test_a_renamed_stack_has_its_resources_history_and_configuration(stack: EngineStack) -> None:
    deployed(stack)
    stack.run("config", "set", "k", "v")
    stack.run("stack", "rename", "live")
    assert "no stack named" in stack.run("stack", "select", "dev", code=6)
    assert [row["name"] for row in json.loads(stack.run("stack", "ls", "--json"))] == ["live"]
    assert stack.run("config", "get", "k") == "v\n"
    assert [update["kind"] for update in json.loads(stack.run("stack", "history", "--json"))] == ["update"]
    stack.up("--expect-no-changes")
    stack.run("stack", "init", "other", "--no-select")
    assert "already exists" in stack.run("stack", "rename", "other", code=1)


def test_the_history_lists_the_newest_update_first_without_secrets(stack: EngineStack) -> None:
    assert "never been updated" in stack.run("stack", "history")
    stack.run("config", "set", "--secret", "key", "hush-hush")
    deployed(stack)
    stack.run("destroy", "--yes", "--skip-preview", "-m", "gone")
    updates = json.loads(stack.run("stack", "history", "--json"))
    assert [(update["kind"], update["message"]) for update in updates] == [
        ("destroy", "gone"),
        ("update", ""),
    ]
    assert updates[0]["config"]["test:key"] == {"secret": True}
    shown = json.loads(stack.run("stack", "history", "--json", "--show-secrets"))[0]["config"]["test:key"]
    assert shown == {"value": "hush-hush", "secret": True}
    assert "Message: gone" in stack.run("stack", "history", "--full-dates")


def test_several_values_are_set_at_once(stack: EngineStack) -> None:
    stack.run("config", "set-all", "--plaintext", "a=1", "--secret", "b=x=y", "--plaintext", "c=")
    shown = json.loads(stack.run("config", "--json", "--show-secrets"))
    assert [(shown[f"test:{key}"]["value"], shown[f"test:{key}"]["secret"]) for key in "abc"] == [
        ("1", False),
        ("x=y", True),
        ("", False),
    ]
    stack.run("config", "set-all", "--path", "--plaintext", "list[0]=one")
    stack.run("config", "set-all", "--json", json.dumps({"test:a": {"value": "2"}}))
    assert stack.run("config", "get", "a") == "2\n"
    assert "KEY=VALUE" in stack.run("config", "set-all", "--plaintext", "a", code=1)
    assert "as `config --json` prints it" in stack.run("config", "set-all", "--json", "[1]", code=1)


def test_a_backend_is_chosen_by_login(stack: EngineStack, tmp_path: Path) -> None:
    project = (stack.folder / "Pulumi.yaml").read_text()
    (stack.folder / "Pulumi.yaml").write_text(project.partition("backend:")[0])
    assert "pulumi login file://FOLDER" in stack.run("stack", "ls", code=1)
    assert "Pulumi Cloud needs the Pulumi CLI" in stack.run("login", code=1)
    url = f"file://{tmp_path}/states"
    assert "there is no folder" in stack.run("login", url, code=1)
    (tmp_path / "states").mkdir()
    stack.run("login", url)
    assert json.loads(stack.run("whoami", "--json"))["url"] == url
    stack.run("stack", "init", "here")
    assert (tmp_path / "states/.pulumi/stacks/test/here.json").is_file()
    stack.run("logout")
    assert "not logged in" in stack.run("whoami", code=1)


def test_plugins_in_the_home_folder_are_listed(stack: EngineStack) -> None:
    assert stack.run("plugin", "ls", "--json") == "[]\n"
    (Path(stack.environment["PULUMI_HOME"]) / "plugins/resource-command-v1.2.1").mkdir(parents=True)
    assert stack.run("plugin", "ls").splitlines()[1].split() == ["command", "resource", "1.2.1"]


@pytest.mark.skipif(CLI is None, reason="the Pulumi CLI is not on the PATH")
def test_the_cli_makes_the_same_state_edits(stack: EngineStack) -> None:
    for_both(stack)
    two = deployed(stack)["two"]
    exported = stack.run("stack", "export")
    edits = [("protect", two), ("rename", two, "other"), ("unprotect", "--all")]
    for edit in edits:
        stack.run("state", *edit, "--yes")
    ours = essence(stack.latest())
    (stack.folder / "before.json").write_text(exported)
    stack.run("stack", "import", "--file", "before.json")
    for edit in edits:
        cli(stack, "state", *edit, "--yes")
    assert essence(stack.latest()) == ours
