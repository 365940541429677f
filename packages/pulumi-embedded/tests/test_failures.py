"""What happens when something goes wrong: in a provider, in the program, in the inputs."""

import json
import re

import pytest
from engine_stack import EngineStack, thing


def test_a_failed_create_saves_the_other_resources(stack: EngineStack) -> None:
    stack.spec(
        {"one": thing(), "bad": thing("refuse"), "after": thing(of={"$ref": ["bad", "length"]})},
        exports={"a": 1},
    )
    stack.up(code=1)
    stack.spec(
        {"one": thing("bb"), "bad": thing("refuse"), "after": thing(of={"$ref": ["bad", "length"]})},
        exports={"a": {"$ref": ["bad", "length"]}, "b": 2},
    )
    output = stack.up("--continue-on-error", code=1)
    assert "error: the cloud said no" in output
    assert output.count("the cloud said no") == 1
    assert "    1 errored\n" in output
    assert stack.resources()["one"]["inputs"]["text"] == "bb"
    assert "after" not in stack.resources()
    assert "pending_operations" not in stack.latest()
    # What could be known is taken over, the rest stays as it was.
    assert json.loads(stack.run("stack", "output", "--json")) == {"a": 1, "b": 2}


def test_the_stack_keeps_its_outputs_if_a_step_fails(stack: EngineStack) -> None:
    stack.spec({"one": thing()}, exports={"a": 1})
    stack.up()
    stack.spec({"one": thing(), "bad": thing("refuse")}, exports={"a": 2, "b": {"$ref": ["bad", "length"]}})
    stack.up(code=1)
    assert json.loads(stack.run("stack", "output", "--json")) == {"a": 1}
    stack.spec({"one": thing()}, exports={"b": 3}, **{"raise": "out of ideas"})
    stack.up(code=1)
    assert json.loads(stack.run("stack", "output", "--json")) == {"a": 1, "b": 3}


def test_an_output_that_fails_in_the_sdk_says_where(stack: EngineStack) -> None:
    stack.spec(exports={"x": {"$concat": ["w=", 1.5]}})
    output = stack.up(code=1)
    assert re.search(r'File ".*pulumi/output\.py", line \d+, in run\n', output)
    assert "TypeError: sequence item 1: expected str instance, float found" in output
    assert "runner.py" not in output


def test_no_step_starts_after_a_failure(stack: EngineStack) -> None:
    stack.spec(
        {
            "bad": thing("refuse", gate="fail"),
            "slow": thing(gate="go"),
            "after": thing(of={"$ref": ["slow", "length"]}),
        }
    )
    process = stack.start_up()
    stack.until_called("wait go")
    stack.open("fail")
    stack.until(lambda: any("failed" in line for line in iter(process.stdout.readline, "")))
    stack.open("go")
    assert process.wait(30) == 1
    assert "slow" in stack.resources()
    assert "after" not in stack.resources()


def test_all_check_failures_of_all_resources_are_shown(stack: EngineStack) -> None:
    stack.spec({"one": thing("wrong"), "two": thing("wrong"), "three": thing(of={"$ref": ["one", "length"]})})
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        output = stack.run(*command, code=1)
        assert output.count("must not be wrong") == 2
        assert output.count("is bad as a whole") == 2
    assert stack.calls() == []


def test_a_bug_in_a_provider_says_where(stack: EngineStack) -> None:
    stack.spec({"one": thing("bug")})
    output = stack.up(code=1)
    assert "error: KeyError: 'nothing'" in output
    assert "things.py:" in output


def test_a_provider_that_dies_leaves_its_operation_pending(stack: EngineStack) -> None:
    stack.spec({"one": thing("die")})
    assert "ended during Create" in stack.up(code=1)
    assert [op["type"] for op in stack.latest()["pending_operations"]] == ["creating"]
    assert stack.calls() == ["create one"]
    stack.spec({"one": thing()})
    output = stack.up()
    assert output.count("ended while it was creating") == 1
    assert stack.calls() == ["adopt one"]
    assert "pending_operations" not in stack.latest()


def test_log_error_then_exit_32_shows_just_these_errors(stack: EngineStack) -> None:
    stack.spec(errors=["first finding", "second finding"], exit=32)
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        output = stack.run(*command, code=1)
        assert output.count("error: first finding") == 1
        assert output.count("error: second finding") == 1
        assert output.count("error:") == 2


def test_nothing_is_deleted_when_the_program_fails(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up()
    stack.calls()
    stack.spec(**{"raise": "out of ideas"})
    output = stack.up(code=1)
    assert "ValueError: out of ideas" in output
    assert "pulumi_embedded/program/runner.py" not in output
    assert stack.calls() == []
    assert "one" in stack.resources()


def test_the_exit_code_of_the_program_is_reported(stack: EngineStack) -> None:
    stack.spec(exit=7)
    assert "non-zero exit code: 7" in stack.up(code=1)


def test_a_failed_delete_keeps_its_dependencies(stack: EngineStack) -> None:
    stack.spec({"one": thing(), "two": thing(sticky=True, of={"$ref": ["one", "length"]}), "free": thing()})
    stack.up()
    stack.calls()
    assert "it sticks" in stack.destroy("--continue-on-error", code=1)
    assert {"one", "two"} <= set(stack.resources())
    assert "free" not in stack.resources()
    assert "delete one" not in stack.calls()


@pytest.mark.parametrize(
    ("options", "what"),
    [({"import_": "x"}, "import_"), ({"hide_diffs": ["text"]}, "hide_diffs")],
)
def test_unsupported_options_are_refused_by_name(
    stack: EngineStack, options: dict[str, object], what: str
) -> None:
    stack.spec({"one": thing(options=options)})
    output = stack.run("preview", code=1)
    assert f"error: `{what}` on pulumi-python:dynamic/test:Thing 'one' needs the Pulumi CLI" in output
    assert output.count("needs the Pulumi CLI") == 1


def test_timeouts_are_stored_and_configuration_is_checked(stack: EngineStack) -> None:
    stack.spec({"one": thing(options={"custom_timeouts": {"create": "500ms", "delete": "5m"}})})
    stack.up()
    assert stack.resources()["one"]["customTimeouts"] == {"create": 0.5, "delete": 300}
    project = stack.folder / "Pulumi.yaml"
    project.write_text(project.read_text() + "config:\n  need: {type: string}\n")
    assert "Stack 'dev' is missing configuration value 'need'" in stack.run("preview", code=1)
    stack.destroy()  # as in the CLI, only the program needs it
