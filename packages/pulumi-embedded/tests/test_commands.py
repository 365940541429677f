"""The commands on stacks and configuration, and what the engine does not do."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from engine_stack import PASSPHRASE, EngineStack, thing
from pulumi_embedded.__main__ import main as start_of_process
from pulumi_embedded.cli import main as cli_main
from pulumi_embedded.cli.main import run_command
from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.config import StackConfig, find_project
from pulumi_embedded.project.secrets import Crypter, Passphrase


def test_stacks_are_created_selected_listed_and_removed(stack: EngineStack) -> None:
    assert "already exists" in stack.run("stack", "init", "dev", code=1)
    stack.run("stack", "init", "second")
    listed = json.loads(stack.run("stack", "ls", "--json"))
    assert [(row["name"], row["current"]) for row in listed] == [("dev", False), ("second", True)]
    assert "no stack named" in stack.run("stack", "select", "third", code=6)
    stack.run("stack", "select", "organization/test/dev")
    listed = stack.run("stack", "ls").splitlines()
    assert listed[0].split("  ")[0] == "NAME"
    assert re.search(r"^dev\* +(now|\d+ seconds? ago) +0$", listed[1])
    stack.run("stack", "rm", "second", "--yes")
    assert not (stack.folder / "Pulumi.second.yaml").exists()
    assert "no stack named 'gone'" in stack.run("up", "--stack", "gone", "--yes", code=6)
    stack.spec({"one": {"text": "a"}})
    stack.up()
    assert "still has resources" in stack.run("stack", "rm", "--yes", code=1)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("organization/test/dev", 0, ""),
        ("organization/dev", 0, ""),
        ("me/test/dev", 1, "organization name must be 'organization'; write organization/test/dev"),
        ("test/dev", 1, "organization name must be 'organization'"),
        ("organization/other/dev", 6, "no stack named 'organization/other/dev' found: this is project test"),
        ("a/organization/test/dev", 1, "organization name must be 'organization'"),
    ],
)
def test_a_stack_of_another_project_is_never_this_one(
    stack: EngineStack, name: str, code: int, said: str
) -> None:
    for command in (("stack", "--stack", name), ("stack", "select", name)):
        assert said in stack.run(*command, code=code)
    if code:
        for command in (("stack", "init", name), ("stack", "rm", name, "--yes"), ("stack", "rename", name)):
            assert said in stack.run(*command, code=code)
        assert stack.state_file.exists()


def test_only_an_empty_stack_is_removed_after_destroy(stack: EngineStack) -> None:
    stack.spec({"one": {"text": "a"}, "two": {"text": "b"}})
    stack.up()
    target = stack.resources()["one"]["urn"]
    shown = stack.destroy("--remove", "--target", target)
    assert "The stack was not removed" in shown
    assert "two" in stack.resources()
    stack.spec({"one": {"text": "die"}})
    stack.up("--target", target, code=1)
    refused = stack.destroy("--remove", code=1)
    assert f"while it was creating {target}, which may therefore exist" in refused
    assert stack.latest()["pending_operations"]
    stack.run("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    stack.destroy("--remove")
    assert not stack.state_file.exists()
    assert not (stack.folder / "Pulumi.dev.yaml").exists()


def test_export_and_import(stack: EngineStack) -> None:
    stack.spec({"one": {"text": {"$secret": "hidden-text"}}}, exports={"it": {"$ref": ["one", "text"]}})
    stack.up()
    plain = stack.run("stack", "export", "--show-secrets")
    assert "hidden-text" in plain
    assert "hidden-text" not in stack.run("stack", "export")
    (stack.folder / "export.json").write_text(plain)
    stack.run("stack", "import", "--file", "export.json")
    assert "hidden-text" not in stack.state_file.read_text()
    assert "2 unchanged" in stack.up("--expect-no-changes")
    assert stack.run("stack", "output", "it", "--show-secrets") == "hidden-text\n"
    assert "does not have output property" in stack.run("stack", "output", "nothing", code=1)


def test_pending_operations_are_not_imported(stack: EngineStack) -> None:
    """Their secrets are of the exporter's key, and nobody here knows what came of them."""
    stack.spec({"one": {"text": {"$secret": "hush"}, "dies": True}, "two": {"text": "b"}})
    stack.up(code=1)
    assert stack.latest()["pending_operations"]
    exported = stack.run("stack", "export", "--show-secrets")
    assert exported.count("hush") == 1  # only the pending one holds it
    (stack.folder / "export.json").write_text(stack.run("stack", "export"))
    (stack.folder / "Pulumi.dev.yaml").write_text(
        f"encryptionsalt: {Crypter.new(Passphrase(PASSPHRASE, 'a test', 'dev')).salt}\n"
    )
    shown = stack.run("stack", "import", "--file", "export.json")
    assert "removing pending operation 'creating' on 'urn:pulumi:dev::test::" in shown
    assert "pending_operations" not in stack.latest()
    stack.run("stack", "output")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "this is not an exported stack"),
        ({"resources": ["x"]}, "this is not an exported stack"),
        ({"resources": [{"urn": "x", "type": "t"}]}, "state file contains errors: 'x' is not a URN"),
    ],
)
def test_an_invalid_export_is_not_imported(stack: EngineStack, content: Any, said: str) -> None:
    (stack.folder / "export.json").write_text(json.dumps({"version": 3, "deployment": content}))
    before = stack.state_file.read_bytes()
    assert said in stack.run("stack", "import", "--file", "export.json", code=1)
    assert stack.state_file.read_bytes() == before


def test_an_inconsistent_state_is_only_imported_with_force(stack: EngineStack) -> None:
    item = {"urn": "urn:pulumi:dev::test::t::a", "type": "t", "parent": "urn:pulumi:dev::test::t::b"}
    (stack.folder / "export.json").write_text(json.dumps({"version": 3, "deployment": {"resources": [item]}}))
    assert "rerun with --force" in stack.run("stack", "import", "--file", "export.json", code=1)
    shown = stack.run("stack", "import", "--file", "export.json", "--force")
    assert "warning: state file contains errors" in shown
    assert item["urn"] in stack.state_file.read_text()


def test_configuration_is_set_read_and_removed(stack: EngineStack) -> None:
    file = stack.folder / "Pulumi.dev.yaml"
    file.write_text(file.read_text().replace("config:", "# a comment that stays\nconfig:"))
    stack.run("config", "set", "name", "yes")
    stack.run("config", "set", "--secret", "key", "s3cret-value")
    stack.run("config", "set", "--path", "deep.list[0].n", "4")
    stack.run("config", "set", "other:thing", "1")
    text = file.read_text()
    assert "# a comment that stays" in text
    assert "s3cret-value" not in text
    assert stack.run("config", "get", "name") == "yes\n"
    assert stack.run("config", "get", "key") == "s3cret-value\n"
    assert stack.run("config", "get", "--path", "deep.list[0].n") == "4\n"
    assert json.loads(stack.run("config", "get", "deep")) == {"list": [{"n": 4}]}
    shown = stack.run("config")
    assert "[secret]" in shown
    assert "s3cret-value" not in shown
    shown = json.loads(stack.run("config", "--json"))
    assert shown["test:key"] == {"secret": True}
    assert shown["test:deep"]["objectValue"] == {"list": [{"n": 4}]}
    assert "cannot be used together" in stack.run(
        "config", "set", "--secret", "--plaintext", "a", "b", code=1
    )
    stack.run("config", "rm", "--path", "deep.list[0]")
    assert json.loads(stack.run("config", "get", "deep")) == {"list": []}
    stack.run("config", "rm", "--path", "deep.none.below")
    stack.run("config", "rm", "none")
    stack.run("config", "rm", "name")
    assert "not found" in stack.run("config", "get", "name", code=1)


@pytest.mark.parametrize(("options", "is_shown"), [((), True), (("--secret",), False)])
def test_a_terminal_is_asked_for_a_value_and_does_not_show_a_secret(
    stack: EngineStack, options: tuple[str, ...], is_shown: bool
) -> None:
    code, shown = in_terminal(stack, ["config", "set", *options, "key"], b"s3cret-value\n")
    assert (code, shown.startswith("value: "), "s3cret-value" in shown) == (0, True, is_shown)
    assert stack.run("config", "get", "key") == "s3cret-value\n"
    code, shown = in_terminal(stack, ["config", "set", *options, "key"], b"\x04")
    assert (code, "error: no value was given" in shown) == (1, True)


def in_terminal(stack: EngineStack, arguments: list[str], typed: bytes) -> tuple[int, str]:
    """Run a command in a terminal, and type this once it asks. Its exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        stack.command(*arguments),
        cwd=stack.folder,
        env=stack.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO once the command has ended
        while part := os.read(ours, 1000):
            if not shown:
                os.write(ours, typed)
            shown += part
    os.close(ours)
    return process.wait(timeout=30), shown.decode()


def test_a_new_salt_in_the_configuration_reencrypts_the_state(stack: EngineStack) -> None:
    """As where the file was copied from another stack of the same passphrase."""
    stack.spec({"one": {"text": {"$secret": "hush"}}}, exports={"text": {"$ref": ["one", "text"]}})
    stack.up()
    salt = Crypter.new(Passphrase(PASSPHRASE, "a test", "dev")).salt
    (stack.folder / "Pulumi.dev.yaml").write_text(f"encryptionsalt: {salt}\n")
    stack.run("refresh", "--yes", "--skip-preview")
    assert stack.latest()["secrets_providers"]["state"]["salt"] == salt
    assert stack.run("stack", "output", "text", "--show-secrets") == "hush\n"


@pytest.mark.parametrize("give", ["variable", "file"])
def test_the_passphrase_is_required_and_checked(stack: EngineStack, give: str) -> None:
    del stack.environment["PULUMI_CONFIG_PASSPHRASE"]
    missing = stack.run("preview", code=1)
    assert "stack dev needs a passphrase, but neither PULUMI_CONFIG_PASSPHRASE nor" in missing
    wrong = stack.folder / "wrong.txt"
    wrong.write_text("wrong\n")
    variable = "PULUMI_CONFIG_PASSPHRASE" if give == "variable" else "PULUMI_CONFIG_PASSPHRASE_FILE"
    refused = stack.run("preview", code=1, **{variable: str(wrong)})
    source = variable if give == "variable" else f"{variable} ({wrong})"
    assert f"incorrect passphrase for stack dev: the one from {source} does not decrypt" in refused
    assert "`read -rs PULUMI_CONFIG_PASSPHRASE && export PULUMI_CONFIG_PASSPHRASE`" in refused
    empty = stack.run("preview", code=1, PULUMI_CONFIG_PASSPHRASE="")
    assert "the one from PULUMI_CONFIG_PASSPHRASE (it is set, but empty)" in empty
    wrong.write_text("fixture\n")
    stack.run("preview", **{variable: "fixture" if give == "variable" else str(wrong)})


def test_the_only_stack_needs_neither_selection_nor_an_empty_passphrase(stack: EngineStack) -> None:
    del stack.environment["PULUMI_CONFIG_PASSPHRASE"]
    stack.run("stack", "rm", "--yes")
    salt = Crypter.new(Passphrase("", "a test", "sole")).salt
    (stack.folder / "Pulumi.sole.yaml").write_text(f"encryptionsalt: {salt}\n")
    stack.spec({"one": {"text": {"$secret": "hidden-text"}}})
    refused = stack.run("destroy", "--yes", code=1)
    assert "no stack selected: use --stack NAME or `" in refused
    assert "pulumi stack select NAME` (known: sole)" in refused
    assert "No stack was selected: using sole, the only one" in stack.up()
    assert "No stack was selected" not in stack.run("preview")
    stack.run("stack", "select", "--create", "other", PULUMI_CONFIG_PASSPHRASE="")
    stack.run("stack", "rm", "--yes", "--preserve-config")
    assert "(known: other, sole)" in stack.up(code=1)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("policy ls", "command of `pulumi`: `policy`"),
        ("watch --anything", "command of `pulumi`: `watch`"),
        ("don't", "command of `pulumi`: `don't` (did you mean `down`?)"),
        ("stack tag ls", "command of `pulumi stack`: `tag`"),
        ("stack innit", "command of `pulumi stack`: `innit` (did you mean `init`?)"),
        ("up --target-replace urn", "option of `pulumi up`: `--target-replace` (did you mean `--replace`?)"),
        (
            "up --tragets=x --yess --yes",
            "options of `pulumi up`: `--tragets` (did you mean `--target`?), `--yess` (did you mean `--yes`?)",
        ),
        ("--stak=dev", "option of `pulumi`: `--stak` (did you mean `--stack`?)"),
        ("--stak dev up", "option of `pulumi`: `--stak` (did you mean `--stack`?)"),
        ("-x dev --stack dev up", "option of `pulumi`: `-x`"),
        ("-sdev --non-interactive upp", "command of `pulumi`: `upp` (did you mean `up`?)"),
        ("stack --jsn x ls", "option of `pulumi stack`: `--jsn`"),
        ("up template", "argument of `pulumi up`: `template`"),
    ],
)
def test_unknown_commands_and_options_are_named_with_the_nearest_known_one(
    arguments: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        run_command(arguments.split())
    command = what.split("`")[1]
    assert capsys.readouterr().err == (
        f"error: unknown {what}. `{command} --help` lists what the embedded engine has; anything else needs the Pulumi CLI\n"
    )


def test_a_wrong_value_of_an_option_is_no_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        run_command(["up", "--color", "pink"])
    assert "error: argument --color: invalid choice: 'pink'" in capsys.readouterr().err


def test_other_backends_and_runtimes_are_refused(stack: EngineStack) -> None:
    assert "the backend gs://b needs the Pulumi CLI" in stack.run(
        "preview", code=1, PULUMI_BACKEND_URL="gs://b"
    )
    (stack.folder / "Pulumi.yaml").write_text("name: test\nruntime: nodejs\nbackend: {url: 'file://.'}\n")
    assert "the runtime 'nodejs'" in stack.run("preview", code=1)


@pytest.mark.parametrize(
    "arguments",
    [("size", "5", "--plaintext"), ("size", "--plaintext", "5"), ("--plaintext", "size", "--", "5")],
)
def test_a_value_may_come_after_options(stack: EngineStack, arguments: tuple[str, ...]) -> None:
    stack.run("config", "set", *arguments)
    assert stack.run("config", "get", "size") == "5\n"


def test_flags_may_have_a_value(stack: EngineStack) -> None:
    stack.spec({"one": {"text": "a"}})
    assert "--yes or --skip-preview or --preview-only must be passed" in stack.run(
        "up", "--yes=false", code=2
    )
    stack.run("up", "--yes=true", "--skip-preview=true", "--refresh=false")
    stack.run("config", "set", "flag", "--", "--yes=true")
    assert stack.run("config", "get", "flag") == "--yes=true\n"


def test_a_key_has_one_namespace(stack: EngineStack) -> None:
    assert "invalid configuration key 'a:b:c'" in stack.run("config", "set", "a:b:c", "1", code=1)
    assert "no stack named 'gone' found" in stack.run("config", "set", "a", "1", "-s", "gone", code=6)


def test_history_has_pages(stack: EngineStack) -> None:
    for message in ("first", "second", "third"):
        stack.up("--message", message)
    shown = json.loads(stack.run("stack", "history", "--json", "--page-size", "2", "--page", "2"))
    assert [update["message"] for update in shown] == ["first"]


def test_events_are_logged_in_a_file(stack: EngineStack) -> None:
    stack.spec({"one": thing()})
    stack.up("--event-log", "events.jsonl")
    events = [json.loads(line) for line in (stack.folder / "events.jsonl").read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert "preludeEvent" in events[0]
    assert "cancelEvent" in events[-1]
    assert "No such file" in stack.up("--event-log", "missing/events.jsonl", code=1)


def test_up_needs_confirmation(stack: EngineStack) -> None:
    assert "--yes or --skip-preview" in stack.run("up", code=2)


def test_expect_no_changes_has_its_own_exit_code(stack: EngineStack) -> None:
    stack.spec({"one": {"text": "a"}})
    shown = stack.run("preview", "--expect-no-changes", code=7)
    assert "no changes were expected for preview but changes were proposed" in shown
    stack.up("--expect-no-changes", code=7)
    stack.up("--expect-no-changes")


def test_each_update_is_recorded_in_the_history(stack: EngineStack) -> None:
    stack.run("config", "set", "--secret", "key", "s3cret-value")
    stack.spec({"one": {"text": "a"}, "two": {"text": "b"}})
    stack.up("--message", "the first one")
    stack.spec({"one": {"text": "bb"}, "two": {"text": "refuse"}})
    stack.up("--continue-on-error", code=1)
    stack.run("refresh", "--yes", "--skip-preview")
    stack.destroy()
    folder = stack.folder / ".pulumi/history/test/dev"
    texts = [path.read_text() for path in sorted(folder.glob("dev-*.history.json"))]
    found = [json.loads(text) for text in texts]
    assert [(entry["kind"], entry["result"]) for entry in found] == [
        ("update", "succeeded"),
        ("update", "failed"),
        ("refresh", "succeeded"),
        ("destroy", "succeeded"),
    ]
    assert found[0]["message"] == "the first one"
    assert found[0]["resourceChanges"] == {"create": 3}
    assert found[1]["resourceChanges"] == {"update": 1, "same": 1}
    assert found[3]["resourceChanges"] == {"delete": 3}
    assert list(found[0]["config"]["test:key"]) == ["secure"]
    assert "s3cret-value" not in "".join(texts)
    checkpoints = sorted(folder.glob("dev-*.checkpoint.json"))
    assert len(checkpoints) == len(list((stack.folder / ".pulumi/backups/test/dev").glob("dev.*.json"))) == 4
    assert "resources" in json.loads(checkpoints[0].read_text())["checkpoint"]["latest"]
    assert checkpoints[-1].read_bytes() == stack.state_file.read_bytes()
    stack.run("stack", "rm", "--yes")
    assert not list(folder.iterdir())


def test_the_project_is_found_from_a_subfolder_and_with_cwd(stack: EngineStack) -> None:
    below = stack.folder / "a" / "b"
    below.mkdir(parents=True)
    stack.environment["PULUMI_BACKEND_URL"] = f"file://{stack.folder}"
    for arguments in (("-C", str(below), "about"), ("about", "--cwd", os.fspath(below))):
        assert "Project           test" in stack.run(*arguments)


def test_a_relative_cwd_finds_the_same_state(stack: EngineStack) -> None:
    above = EngineStack(stack.folder.parent, stack.environment)
    assert json.loads(above.run("-C", "project", "stack", "ls", "--json"))[0]["name"] == "dev"
    above.run("stack", "init", "second", "--cwd", "project")
    assert (stack.folder / ".pulumi/stacks/test/second.json").exists()
    assert not (stack.folder / "project").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("Pulumi.yaml", "name: test\nruntime: python\nbackend: file://.\n", "`backend` must contain keys"),
        (
            "Pulumi.yaml",
            "name: test\nruntime: {name: python, options: x}\nbackend: {url: 'file://.'}\n",
            "`options` must",
        ),
        (
            "Pulumi.dev.yaml",
            "config:\n<<<<<<< HEAD\n  test:a: b\n=======\n  test:a: c\n>>>>>>> main\n",
            "Pulumi.dev.yaml:2: contains the markers of a merge conflict; keep one version",
        ),
        ("Pulumi.dev.yaml", "config: [a]\n", "Pulumi.dev.yaml: `config` must contain keys with values"),
        ("Pulumi.dev.yaml", "config:\n  test:a: !!bool 1\n", "a value that does not match its YAML tag"),
        ("Pulumi.dev.yaml", f"config:\n  test:a: {'[' * 5000}\n", "nested too deeply"),
    ],
)
def test_invalid_project_and_configuration_files_are_reported(
    stack: EngineStack, file: str, content: str, said: str
) -> None:
    (stack.folder / file).write_text(content)
    with pytest.raises(EngineError, match=re.escape(said)):
        StackConfig(find_project(stack.folder).stack_config_file("dev"))


def test_missing_files_and_folders_are_reported(stack: EngineStack) -> None:
    assert "No such file" in stack.run("stack", "import", "--file", "nowhere.json", code=1)
    assert "Not a directory" in stack.run(
        "up", "--yes", code=1, PULUMI_BACKEND_URL="file:///dev/null/x", PULUMI_STACK="dev"
    )


@pytest.mark.parametrize("replacement", [None, ValueError("unprintable")])
def test_ctrl_c_during_the_import_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replacement: Exception | None
) -> None:
    """Compiled modules raise errors of their own in place of KeyboardInterrupt."""

    def interrupted(_name: str) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if replacement:
                raise replacement from None
            raise

    monkeypatch.setattr(cli_main, "__getattr__", interrupted, raising=False)
    monkeypatch.delattr(cli_main, "run_command")
    before = signal.getsignal(signal.SIGINT)
    try:
        assert (start_of_process(), capsys.readouterr().err) == (1, "error: canceled\n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_the_caller_has_blocked_is_caught() -> None:
    command = [sys.executable, "-m", "pulumi_embedded", "version"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process.send_signal(signal.SIGINT)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "error: canceled\n", 1)
