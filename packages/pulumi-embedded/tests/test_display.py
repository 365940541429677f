"""What is shown of outputs and changes: nested, line by line, as the CLI shows them (its own words were looked up by running it)."""

import contextlib
import io
import json
import os
import pty
import re

import pytest
from engine_stack import EngineStack
from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import ResourceStep
from pulumi_embedded.display import property_lines
from pulumi_embedded.display.lines import Display
from pulumi_embedded.display.lines import report_as_json as display_json
from pulumi_embedded.display.property_lines import DiffView
from pulumi_embedded.properties.values import UNKNOWN, Secret
from pulumi_embedded.state.serialization import Resource

OLD = {
    "jobs": {
        "cat": {"state": "done", "step": 1, "images": ["a", "b", "c"], "empty": {}, "el": []},
        "dog": {"state": "new"},
    },
    "js": '{"a": 1, "b": [1,2]}',
    "multi": "line1\nline2",
    "num": 3,
    "sec": Secret("hush"),
    "unk": 1,
    "same": {"k": "v"},
}
NEW = {
    "jobs": {
        "cat": {"state": "running", "step": 2, "images": ["a", "x", "c", "d"], "empty": {}, "el": [1]},
        "mouse": {"state": "new"},
    },
    "js": '{"a": 2, "b": [1,2,3]}',
    "multi": "line1\nline3",
    "num": "3",
    "sec": Secret("other"),
    "unk": UNKNOWN,
    "same": {"k": "v"},
    "unknest": {"u": UNKNOWN, "w": True},
}
# As `pulumi preview` 3.272.0 showed just this.
SHOWN = """\
  ~ jobs   : {
      ~ cat  : {
          ~ el    : [
              + [0]: 1
            ]
          ~ images: [
                [0]: "a"
              ~ [1]: "b" => "x"
                [2]: "c"
              + [3]: "d"
            ]
          ~ state : "done" => "running"
          ~ step  : 1 => 2
        }
      - dog  : {
          - state: "new"
        }
      + mouse: {
          + state: "new"
        }
    }
  ~ js     : (json) {
      ~ a: 1 => 2
      ~ b: [
            [0]: 1
            [1]: 2
          + [2]: 3
        ]
    }
  ~ multi  :{blank}
        line1
      - line2
      + line3
  ~ num    : 3 => "3"
  + unknest: {
      + u: [unknown]
      + w: true
    }""".replace("{blank}", " ")


def test_outputs_leaf_by_leaf() -> None:
    assert (
        "\n".join(property_lines.lines_of_outputs(OLD, NEW, 1, DiffView(preview=True), sames=False)) == SHOWN
    )


def test_unchanged_outputs_are_shown_after_an_update_only() -> None:
    lines = property_lines.lines_of_outputs(OLD, OLD, 1, DiffView(), sames=True)
    assert lines[:2] == ["    jobs : {", "        cat: {"]
    assert "    sec  : [secret]" in lines
    assert property_lines.lines_of_outputs(OLD, OLD, 1, DiffView(preview=True), sames=False) == []


def test_a_detailed_difference_has_only_what_differs() -> None:
    old = {"tags": {"a": {"deep": [1, 2, {"k": "v"}]}, "b": "x"}, "of": 1, "s": Secret("a"), "keep": 1}
    new = {
        "tags": {"a": {"deep": [1, 3, {"k": "w"}]}, "b": {"c": 1}},
        "of": UNKNOWN,
        "s": Secret("b"),
        "keep": 1,
    }
    assert property_lines.lines_of_changes(old, new, 1, DiffView(sames=False, secrets=True)) == [
        "  ~ of  : 1 => [unknown]",
        "  ~ s   : [secret] => [secret]",
        "  ~ tags: {",
        "      ~ a: {",
        "          ~ deep: [",
        "              ~ [1]: 2 => 3",
        "              ~ [2]: {",
        '                      ~ k: "v" => "w"',
        "                    }",
        "            ]",
        "        }",
        '      - b: "x"',
        "      + b: {",
        "          + c: 1",
        "        }",
        "    }",
    ]


def test_long_texts_are_cut_and_yaml_is_shown_as_an_object() -> None:
    lines = property_lines.lines_of(
        {"long": "x" * 200, "many": "a b\nc d\ne f\ng h", "yaml": "k: 1\nl: [2]\n"}, 1
    )
    assert lines[0] == f'    long: "{"x" * 150}..."'
    assert lines[1] == '    many: "a b\\nc d\\ne f\\n..."'
    assert lines[2:5] == ["    yaml: (yaml) {", "        k: 1", "        l: ["]


PEM = "-----BEGIN KEY-----\nAAAA-first\n\nBBBB-second\n}\n-----END KEY-----\n"


def test_secrets_are_masked_in_every_form() -> None:
    display = Display("dev")
    display.set_secrets(['quo"te\\d', PEM, "true", "42"])
    for shown in ("it is AAAA-first", "  BBBB-second", json.dumps({"a": 'quo"te\\d'}), json.dumps(PEM)):
        assert "[secret]" in display.masked(shown)
    assert not re.search("AAAA|BBBB", display.masked(PEM) + display.masked(json.dumps(PEM)))
    assert "quo" not in display.masked(json.dumps('quo"te\\d'))
    assert display.masked('{ "it is": true, "and": 42 }') == '{ "it is": true, "and": 42 }'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_diagnostics_are_wrapped_on_a_terminal_after_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown, piped = Terminal(), io.StringIO()
    for stream in (shown, piped):
        display = Display("dev", stream=stream)
        display.set_secrets(["a b c d e f"])
        display.on_message(events.WARNING, "", f"{'word ' * 5}a b c d e f {'word ' * 9}".strip())
        display.finish_run()
    assert max(map(len, shown.getvalue().splitlines())) <= 40
    assert shown.getvalue().split() == piped.getvalue().split()
    assert "[secret]" in shown.getvalue()


def test_masked_json_stays_json() -> None:
    display = Display("dev")
    display.set_secrets(["100", 'quo"te'])
    display.on_message(events.ERROR, "", 'the 100 of quo"te')
    step = ResourceStep(
        events.CREATE, "urn:pulumi:dev::p::t::n", "t", None, Resource("u", "t", inputs={"n": 100100})
    )
    display.report.steps.append(step)
    found = json.loads(display_json(display.report, {}, display.masked))
    assert found["diagnostics"][0]["message"] == "the [secret] of [secret]\n"
    assert found["steps"][0]["newState"]["inputs"] == {"n": 100100}


def test_a_secret_inside_an_object_is_masked(stack: EngineStack) -> None:
    stack.run("config", "set", "--path", "--secret", "cluster.environment.TOKEN", "inner-token")
    stack.run("config", "set", "--path", "cluster.list[0]", "shown")
    stack.spec(prints=["it is inner-token", "shown is shown"])
    shown = stack.run("preview")
    assert "it is [secret]" in shown
    assert "shown is shown" in shown


def test_outputs_and_details_of_a_run(stack: EngineStack) -> None:
    thing = {"text": "a", "tags": {"a": 1, "b": ["x"]}}
    stack.spec({"one": thing}, exports={"o": {"x": 1, "y": {"$secret": "z"}}})
    stack.up()
    changed = {"text": "bb", "tags": {"a": 2, "b": ["x", "y"]}}
    stack.spec({"one": changed}, exports={"o": {"x": 2, "y": {"$secret": "z"}}})
    shown = stack.run("preview", "--diff")
    assert (
        """\
  pulumi:pulumi:Stack: (same)
    [urn=urn:pulumi:dev::test::pulumi:pulumi:Stack::test-dev]
    ~ pulumi-python:dynamic/test:Thing: (update)
        [id=id-one]
        [urn=urn:pulumi:dev::test::pulumi-python:dynamic/test:Thing::one]
      ~ tags: {
          ~ a: 1 => 2
          ~ b: [
              + [1]: "y"
            ]
        }
      ~ text: "a" => "bb"
    --outputs:--
  ~ o: {
      ~ x: 1 => 2
        y: [secret]
    }
"""
        in shown
    )
    assert "      ~ length: 1 => 2\n" in stack.up("--diff")
    assert "\nOutputs:\n    o: {\n        x: 2\n        y: [secret]\n    }\n" in stack.up()
    assert stack.run("stack", "output", "o", "--json") == '{\n  "x": 2,\n  "y": "[secret]"\n}\n'
    assert "Outputs:" not in stack.run("preview")
    assert "Outputs:" not in stack.run("destroy", "--yes")


def on_terminal(stack: EngineStack, *arguments: str, answer: bytes = b"") -> tuple[int, bytes]:
    """Run the engine on a terminal; exit code and what it showed.  `answer`: what is typed at the question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(stack.folder)
        command = stack.command(*arguments)
        os.execvpe(command[0], command, {**stack.environment, "TERM": "xterm"})  # noqa: S606 - the engine
    shown = b""
    with contextlib.suppress(OSError):  # it has ended
        while part := os.read(terminal, 65536):
            shown += part
            if answer and b"[yes/no]" in shown:
                os.write(terminal, answer)
                answer = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_the_end_of_input_declines(stack: EngineStack) -> None:
    code, shown = on_terminal(stack, "up", answer=b"\x04")
    assert code == 8
    assert b"confirmation declined" in shown
    assert b"Traceback" not in shown


@pytest.mark.parametrize("command", [("destroy", "--yes"), ("refresh", "--yes")])
def test_the_terminal_is_restored_after_an_error(stack: EngineStack, command: tuple[str, ...]) -> None:
    code, shown = on_terminal(stack, *command, "--target", "urn:nope")
    assert code == 1
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
