"""Provider plugins, stack references, look-ups and targets: with a home-made plugin in Python on the PATH."""

import os
from pathlib import Path

import pytest
from engine_cli import CLI, cli, essence, for_both
from engine_stack import HERE, EngineStack

PROGRAM = """
import pulumi
{body}
"""
SHELF = """
class Jar(pulumi.CustomResource):
    size: pulumi.Output[int]
    def __init__(self, name, version="1.2.3", opts=None, **props):
        opts = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(version=version))
        super().__init__("shelf:index:Jar", name, {**props, "size": None}, opts)

timeouts = pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="90s"))
one = Jar("one", label="LABEL", hidden=pulumi.Output.secret("hush"), opts=timeouts)
mine = pulumi.ProviderResource("shelf", "mine", {"prefix": "other"}, pulumi.ResourceOptions(version="1.2.3"))
two = Jar("two", opts=pulumi.ResourceOptions(provider=mine), label=one.size)
pulumi.export("size", two.size)
pulumi.export("counted", pulumi.runtime.invoke("shelf:index:count", {"of": "abc"}).value)
"""


def write(stack: EngineStack, body: str) -> None:
    (stack.folder / "__main__.py").write_text(PROGRAM.format(body=body))


def install(folder: Path, python: str) -> None:
    """The plugin as a program in this folder, run by this interpreter."""
    folder.mkdir(parents=True)
    plugin = folder / "pulumi-resource-shelf"
    plugin.write_text(f"#!{python}\n" + (HERE / "shelf_plugin.py").read_text())
    plugin.chmod(0o755)


@pytest.mark.parametrize("place", ["home", pytest.param("path", marks=pytest.mark.long)])
def test_a_plugin_is_found_and_used(stack: EngineStack, tmp_path: Path, place: str) -> None:
    if place == "path":
        install(tmp_path / "bin", stack.python)
        stack.environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    else:
        install(tmp_path / "home/plugins/resource-shelf-v1.2.3", stack.python)
    stack.run("config", "set", "shelf:prefix", "hello")
    write(stack, SHELF.replace("LABEL", "x"))
    assert "4 created" in stack.up()
    resources = stack.resources()
    assert resources["one"]["outputs"]["where"] == "hello"
    assert resources["one"]["outputs"]["seconds"] == 90
    assert resources["two"]["outputs"]["where"] == "other"
    assert "ciphertext" in resources["one"]["outputs"]["hidden"]
    # As the CLI 3.272.0 wrote it for this plugin and program.
    default = resources["default_1_2_3"]
    assert default["inputs"] == {"__internal": {}, "prefix": "hello", "version": "1.2.3"}
    assert default["outputs"] == {"prefix": "hello", "version": "1.2.3"}
    assert "4 unchanged" in stack.run("preview", "--expect-no-changes")
    write(stack, SHELF.replace("LABEL", "yyy"))
    shown = stack.run("up", "--yes", "--diff")
    assert '~ label: "x" => "yyy"' in shown
    assert "~ label: 1 => 3" in shown  # the plugin foresees its outputs in a preview
    assert "4 unchanged" in stack.run("refresh", "--yes", "--skip-preview") + stack.up()
    assert "4 deleted" in stack.destroy()


CRACKED = SHELF.partition("timeouts = ")[0] + 'Jar("one", label="LABEL", hidden=pulumi.Output.secret("hush"))'


def test_a_partially_created_resource_is_kept_and_updated(stack: EngineStack, tmp_path: Path) -> None:
    for_both(stack)
    install(tmp_path / "bin", stack.python)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    stack.environment["PATH"] = path
    write(stack, CRACKED.replace("LABEL", "cracked"))
    for before in ("the create", "the update"):
        shown = stack.up(code=1)
        assert "2 errors occurred:" in shown, before
        assert "* the jar is cracked" in shown
        jar = stack.resources()["one"]
        assert (jar["id"], jar["initErrors"]) == ("jar-one", ["the jar is cracked", "it leaks"])
        assert jar["outputs"]["size"] == 7
        assert "ciphertext" in jar["outputs"]["hidden"]
        assert "pending_operations" not in stack.latest()
    ours = essence(stack.latest())
    if CLI:
        cli(stack, "up", "--yes", "--skip-preview", code=1, PATH=path)
        assert essence(stack.latest()) == ours
    write(stack, CRACKED.replace("LABEL", "whole"))
    assert "1 updated" in stack.up()
    assert "initErrors" not in stack.resources()["one"]


def test_the_message_for_a_missing_plugin_says_how_to_install_it(stack: EngineStack) -> None:
    write(stack, SHELF.replace("LABEL", "x"))
    shown = stack.run("preview", code=1)
    assert (
        "resource 'one' of type shelf:index:Jar needs the provider plugin pulumi-resource-shelf v1.2.3"
        in shown
    )
    assert "`pulumi plugin install resource shelf v1.2.3`" in shown


def test_a_stack_reference_reads_another_stack(stack: EngineStack, tmp_path: Path) -> None:
    stack.spec({}, exports={"plain": {"a": 1}, "hidden": {"$secret": "hush"}})
    stack.up()
    other = tmp_path / "other"
    other.mkdir()
    (other / "Pulumi.yaml").write_text("name: other\nruntime: python\n")
    (other / "__main__.py").write_text(
        "import pulumi\n"
        "found = pulumi.StackReference('organization/test/dev')\n"
        "for name in ('plain', 'hidden'):\n    pulumi.export(name, found.require_output(name))\n"
    )
    reader = EngineStack(other, {**stack.environment, "PULUMI_BACKEND_URL": f"file://{stack.folder}"})
    reader.run("stack", "select", "--create", "dev")
    assert "+ 1 created" in reader.up()
    assert '"hidden": "[secret]"' in reader.run("stack", "output", "--json")
    assert '"hidden": "hush"' in reader.run("stack", "output", "--json", "--show-secrets")
    assert "1 unchanged" in reader.run("preview", "--expect-no-changes")
    program = (other / "__main__.py").read_text()
    (other / "__main__.py").write_text(program.replace("test/dev", "test/nope"))
    assert 'unknown stack "organization/test/nope"' in reader.run("preview", code=1)


def test_get_reads_resources_that_are_not_managed(stack: EngineStack) -> None:
    write(
        stack,
        "from things import FileThing\n"
        "found = FileThing('x', {'text': 'a', 'hidden': pulumi.Output.secret('hush-hush')}, pulumi.ResourceOptions(id='id-x'))\n"
        "pulumi.export('length', found.length)",
    )
    assert "does not exist" in stack.up(code=1)
    stack.cloud.mkdir()
    (stack.cloud / "x.json").write_text('{"text": "abc"}')
    assert "length: 3" in stack.up()
    assert stack.resources()["x"]["external"] is True
    assert "hush-hush" not in stack.state_file.read_text()
    assert "1 deleted" in stack.destroy()
    assert (stack.cloud / "x.json").exists()


def test_other_resources_refer_to_a_renamed_target_by_its_new_urn(stack: EngineStack) -> None:
    stack.spec({"one": {"text": "a"}, "two": {"text": "b", "options": {"depends_on": ["one"]}}})
    stack.up()
    stack.spec(
        {
            "new": {"text": "a", "options": {"aliases": [{"name": "one"}]}},
            "two": {"text": "b", "options": {"depends_on": ["new"]}},
        }
    )
    stack.up("--target", "**::new")
    found = stack.resources()
    assert found["two"]["dependencies"] == [found["new"]["urn"]]


def test_only_targets_are_changed(stack: EngineStack) -> None:
    urn = "urn:pulumi:dev::test::pulumi-python:dynamic/test:Thing::"
    length = {"$ref": ["one", "length"]}
    stack.spec({"one": {"text": "a"}, "two": {"text": "b", "of": length}, "three": {"text": "c"}})
    stack.up()
    stack.calls()
    stack.spec({"one": {"text": "aa"}, "two": {"text": "bb", "of": length}, "four": {"text": "d"}})
    stack.up("--target", urn + "one")
    assert stack.calls() == ["update one"]
    assert "could not be found in the stack" in stack.up("--target", urn + "nope", code=1)
    refused = stack.destroy("--target", urn + "one", code=1)
    assert f"'{urn}two' will be destroyed but was not specified" in refused
    stack.destroy("--target", urn + "one", "--target-dependents")
    assert stack.calls() == ["delete two", "delete one"]
    assert set(stack.resources()) == {"test-dev", "default", "three"}
