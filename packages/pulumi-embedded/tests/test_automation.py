"""The unmodified Automation API (`pulumi.automation`) with this engine as its `pulumi` command, and with the CLI if it is here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine_cli import CLI, for_both
from engine_stack import EngineStack, new_stack, thing
from pulumi import automation

SCRIPT = f"#!{sys.executable}\nimport sys\nfrom pulumi_embedded.launcher import main\nsys.exit(main())\n"
ENGINES = [
    "embedded",
    pytest.param("cli", marks=pytest.mark.skipif(not CLI, reason="the Pulumi CLI is not on the PATH")),
]


@dataclass
class AutomatedStack:
    """What one stack's life through the Automation API returned."""

    stack: EngineStack
    automated: automation.Stack
    preview: automation.PreviewResult
    preview_events: list[automation.EngineEvent]
    up: automation.UpResult
    up_events: list[automation.EngineEvent] = field(default_factory=list)
    up_lines: list[str] = field(default_factory=list)


def put_command(folder: Path, engine: str) -> str:
    """A folder with the command `pulumi` that runs the engine, as the first of a PATH."""
    folder.mkdir()
    if engine == "cli":
        (folder / "pulumi").symlink_to(CLI or "")
        return os.pathsep.join([str(folder), str(Path(CLI or "").parent), os.environ["PATH"]])
    (folder / "pulumi").write_text(SCRIPT)
    (folder / "pulumi").chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


@pytest.fixture(scope="module", params=ENGINES)
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AutomatedStack]:
    """One stack, created, configured, previewed and updated; the tests go on from there, in any order."""
    folder = tmp_path_factory.mktemp(request.param)
    stack = new_stack(folder)
    for_both(stack)
    path = put_command(folder / "bin", request.param)
    stack.spec(
        {"a": thing("{$config}"), "b": thing({"$ref": ["a", "text"]})},
        exports={"text": {"$ref": ["a", "text"]}, "token": {"$config": "password"}},
    )
    own = {key: stack.environment[key] for key in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_HOME", "PYTHONPATH")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", path)
        patched.setenv("ENGINE", request.param)
        options = automation.LocalWorkspaceOptions(env_vars={**own, "PULUMI_BACKEND_URL": "file://."})
        automated = automation.create_or_select_stack("made", work_dir=str(stack.folder), opts=options)
        automated.set_config("size", automation.ConfigValue("-2"))
        automated.set_all_config({"password": automation.ConfigValue("hunter2", secret=True)})
        preview_events: list[automation.EngineEvent] = []
        preview = automated.preview(on_event=preview_events.append)
        events: list[automation.EngineEvent] = []
        lines: list[str] = []
        up = automated.up(message="first", on_event=events.append, on_output=lines.append)
        yield AutomatedStack(stack, automated, preview, preview_events, up, events, lines)
    stack.clean_up()


def kinds(events: list[automation.EngineEvent]) -> list[str]:
    """The kinds of the events, without diagnostics."""
    named = [
        next(name for name, value in vars(event).items() if name.endswith("_event") and value)
        for event in events
    ]
    return [name for name in named if name != "diagnostic_event"]


@contextmanager
def declared(stack: EngineStack, things: dict[str, Any], **more: Any) -> Iterator[None]:
    """Another program for a while: the tests share the folder."""
    file = stack.folder / "spec.json"
    before = file.read_text()
    stack.spec(things, **more)
    try:
        yield
    finally:
        file.write_text(before)


def test_a_preview_counts_changes(seen: AutomatedStack) -> None:
    assert seen.preview.change_summary == {"create": 3}


def test_a_preview_has_events(seen: AutomatedStack) -> None:
    assert kinds(seen.preview_events)[0] == "prelude_event"
    assert kinds(seen.preview_events)[-2:] == ["summary_event", "cancel_event"]


def test_an_update_has_its_outputs(seen: AutomatedStack) -> None:
    assert seen.up.summary.result == "succeeded"
    assert seen.up.summary.resource_changes == {"create": 3}
    assert seen.up.outputs["text"].value == "{$config}"


def test_each_step_of_an_update_is_announced_and_ended(seen: AutomatedStack) -> None:
    started = [event.resource_pre_event.metadata for event in seen.up_events if event.resource_pre_event]
    ended = [event.res_outputs_event.metadata for event in seen.up_events if event.res_outputs_event]
    assert {step.urn for step in started} == {step.urn for step in ended}
    made = {step.urn.rsplit("::", 1)[1]: step for step in ended}
    assert made["a"].op == "create"
    assert made["a"].new is not None
    assert made["a"].new.outputs is not None
    assert made["a"].new.outputs["text"] == "{$config}"


def test_lines_are_passed_on_while_an_update_runs(seen: AutomatedStack) -> None:
    assert any("Updating (made)" in line for line in seen.up_lines)
    assert "hunter2" not in "".join(seen.up_lines)


def test_secrets_stay_secret_but_can_be_read(seen: AutomatedStack) -> None:
    outputs = seen.automated.outputs()
    assert (outputs["token"].value, outputs["token"].secret) == ("hunter2", True)
    shown = [event.res_outputs_event.metadata for event in seen.up_events if event.res_outputs_event]
    assert "hunter2" not in repr([vars(step.new) for step in shown if step.new])


def test_configuration_is_read_back(seen: AutomatedStack) -> None:
    values = seen.automated.get_all_config()
    assert (values["test:size"].value, values["test:size"].secret) == ("-2", False)
    assert (values["test:password"].value, values["test:password"].secret) == ("hunter2", True)
    seen.automated.set_config("gone", automation.ConfigValue("x"))
    seen.automated.remove_config("gone")
    assert "test:gone" not in seen.automated.get_all_config()


def test_a_refresh_finds_nothing_new(seen: AutomatedStack) -> None:
    events: list[automation.EngineEvent] = []
    assert seen.automated.refresh(on_event=events.append).summary.result == "succeeded"
    assert set(seen.automated.preview_refresh().change_summary) == {"same"}
    assert kinds(events)[-1] == "cancel_event"


def test_a_state_can_be_exported_and_imported(seen: AutomatedStack) -> None:
    exported = seen.automated.export_stack()
    seen.automated.import_stack(exported)
    assert seen.automated.export_stack().deployment["resources"] == exported.deployment["resources"]


def test_the_history_has_the_update(seen: AutomatedStack) -> None:
    first = seen.automated.history()[-1]
    assert (first.kind, first.message, first.result) == ("update", "first", "succeeded")
    assert first.environment["exec.kind"] == "auto.local"
    newest = seen.automated.info()
    assert newest is not None
    assert newest.start_time >= first.start_time


def test_the_workspace_lists_its_stacks(seen: AutomatedStack) -> None:
    assert "made" in {stack.name for stack in seen.automated.workspace.list_stacks()}
    assert seen.automated.workspace.who_am_i().user


def test_a_failed_update_raises_and_says_why(seen: AutomatedStack) -> None:
    events: list[automation.EngineEvent] = []
    program = declared(seen.stack, {}, **{"raise": "no such luck"})
    with program, pytest.raises(automation.CommandError, match="no such luck"):
        seen.automated.up(on_event=events.append)
    assert any("no such luck" in event.diagnostic_event.message for event in events if event.diagnostic_event)


def test_options_are_passed_on(seen: AutomatedStack) -> None:
    options: dict[str, Any] = {"target": ["**::a"], "target_dependents": True, "parallel": 2, "diff": True}
    updated = seen.automated.up(expect_no_changes=True, suppress_progress=True, color="never", **options)
    assert updated.summary.result == "succeeded"


def test_a_stack_is_destroyed_and_removed(seen: AutomatedStack) -> None:
    workspace = seen.automated.workspace
    options = automation.LocalWorkspaceOptions(env_vars=dict(workspace.env_vars))
    other = automation.create_or_select_stack("other", work_dir=str(seen.stack.folder), opts=options)
    events: list[automation.EngineEvent] = []
    with declared(seen.stack, {"c": thing()}):
        other.up()
        assert other.preview_destroy().change_summary == {"delete": 2}
        assert other.destroy(on_event=events.append).summary.resource_changes == {"delete": 2}
    assert kinds(events)[-1] == "cancel_event"
    workspace.remove_stack("other")
    assert "other" not in {stack.name for stack in workspace.list_stacks()}


def test_an_inline_program_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", put_command(tmp_path / "bin", "embedded"))
    monkeypatch.setenv("ENGINE", "embedded")
    settings = automation.ProjectSettings(
        "inline", "python", backend=automation.ProjectBackend(f"file://{tmp_path}")
    )
    environment = {"PULUMI_CONFIG_PASSPHRASE": "x", "PULUMI_HOME": str(tmp_path / "home")}
    options = automation.LocalWorkspaceOptions(str(tmp_path), env_vars=environment, project_settings=settings)
    stack = automation.create_stack("made", project_name="inline", program=lambda: None, opts=options)
    with pytest.raises(
        automation.CommandError, match="an inline program of the Automation API needs the Pulumi CLI"
    ):
        stack.up()
