"""status, logs, cancel, retry, fetch, report, doctor and plan with a trained stack: in a terminal, in a pipe, without colours."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from flux_training.commands.main import main
from tests.e2e.checkout import Checkout, new_checkout
from tests.support.flux import (
    BAR,
    COLOUR,
    ESCAPE,
    FinishedCommand,
    environment,
    in_pipe,
    in_terminal,
    line_of,
)

COMMANDS = {
    "status": ["status"],
    "status --watch": ["status", "--watch"],
    "logs": ["logs", "cat", "-n", "5"],
    "logs --follow": ["logs", "cat", "--follow"],
    "cancel": ["cancel", "cat", "--dry-run"],
    "retry": ["retry", "cat", "--force", "--dry-run"],
    "fetch": ["fetch"],
    "report": ["report"],
    "doctor": ["doctor"],
    "plan": ["plan"],
}
COLOURED = {"status", "cancel", "doctor"}
SHORT = {"status", "logs --follow"}


def env(checkout: Checkout, **more: str) -> dict[str, str]:
    return {**environment(), **checkout.environment, "TERM": "xterm-256color", "COLUMNS": "120", **more}


def pipe(checkout: Checkout, *arguments: str) -> FinishedCommand:
    return in_pipe(checkout.root, *arguments, env=env(checkout))


@pytest.mark.long
def test_up_writes_and_names_a_report_of_each_run(first_up: tuple[Checkout, str], trained: Checkout) -> None:
    pages = [trained.root / name for name in re.findall(r"outputs/\S+/report\.html(?=:)", first_up[1])]
    assert [page.parts[-3] for page in pages] == ["cat", "dog"]
    assert all(f"<h1>{page.parts[-3]}" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in COMMANDS]
)
def test_colours_appear_only_in_a_terminal(trained: Checkout, name: str) -> None:
    """With NO_COLOR there are none, and in a pipe there are no escape codes at all."""
    coloured = name in COLOURED
    shown = in_terminal(
        trained.root, *COMMANDS[name], env=env(trained, **({} if coloured else {"NO_COLOR": "1"}))
    )
    piped = pipe(trained, *COMMANDS[name])
    assert (shown.code, piped.code) == (0, 0), shown.output + piped.output
    assert bool(COLOUR.search(shown.output)) == coloured
    assert ESCAPE not in piped.output
    assert BAR not in piped.output
    assert "\r" not in piped.output


@pytest.mark.long
def test_no_color_disables_colours(trained: Checkout) -> None:
    shown = in_terminal(trained.root, "status", env=env(trained, NO_COLOR="1"))
    assert (shown.code, COLOUR.search(shown.output), "cat" in shown.output) == (0, None, True)


@pytest.mark.parametrize(
    "name",
    ["status", "logs", "cancel", "retry", "fetch", "report", "doctor", "plan", "webhook", "webhook serve"],
)
def test_every_command_has_a_help_text(name: str) -> None:
    printed = CliRunner().invoke(main, [*name.split(), "--help"], prog_name="flux")
    assert (printed.exit_code, f"Usage: flux {name}" in printed.output, ESCAPE in printed.output) == (
        0,
        True,
        False,
    )


@pytest.mark.long
def test_a_plan_has_the_same_words_in_a_narrow_terminal_and_in_a_pipe(trained: Checkout) -> None:
    caption = next((trained.root / "jobs/cat/dataset").glob("*.txt"))
    kept = caption.read_bytes()
    caption.write_text("tr1gger, edited\n", encoding="utf-8")
    try:
        shown = in_terminal(trained.root, "plan", env=env(trained, COLUMNS="40"))
        piped = pipe(trained, "plan")
    finally:
        caption.write_bytes(kept)
    assert (shown.code, piped.code) == (0, 0)
    assert ESCAPE not in shown.output
    assert shown.output.split() == piped.output.split()
    plan = shown.output[shown.output.index("Plan for dev") :]
    assert max(map(len, plan.splitlines())) <= 40
    lines = piped.output.splitlines()
    assert any(line.startswith("Plan for dev: 1 trained again") for line in lines)
    assert any(line.split() == ["again", "cat", "1", "caption", "changed"] for line in lines)
    assert any("total" in line and "$" in line for line in lines)


def test_status_as_json(trained: Checkout) -> None:
    facts = json.loads(pipe(trained, "status", "--json").output)
    assert (facts["deployed"], facts["well"], facts["ended"]) == (True, True, True)
    assert [(job["name"], job["state"], job["step"], job["steps"]) for job in facts["jobs"]] == [
        ("cat", "completed", 20, 20),
        ("dog", "completed", 20, 20),
    ]


def test_status_of_a_stack_that_was_never_deployed(trained: Checkout) -> None:
    (trained.root / "Pulumi.new.yaml").write_bytes((trained.root / "Pulumi.dev.yaml").read_bytes())
    printed = pipe(trained, "status", "--stack", "new")
    assert (printed.code, "Nothing is deployed in stack new" in printed.output) == (0, True)
    facts = json.loads(pipe(trained, "status", "--stack", "new", "--json").output)
    assert (facts["deployed"], facts["jobs"]) == (False, [])


@pytest.mark.long
def test_lost_weights_make_the_exit_code_1_and_can_be_trained_again(trained: Checkout) -> None:
    outputs = trained.outputs()["jobs"]["dog"]
    weights = trained.bucket / outputs["folder"] / "model" / "dog.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    try:
        printed = pipe(trained, "status")
        assert (printed.code, "dog: the weights that were verified first" in printed.output) == (1, True)
        retried = pipe(trained, "retry", "dog", "--force", "--dry-run")
        assert (retried.code, "+  flux-training" in retried.output or "attempt: 2" in retried.output) == (
            0,
            True,
        )
    finally:
        weights.write_bytes(kept)


@pytest.mark.long
def test_cancel_and_retry_edit_the_stack_file_once(trained: Checkout) -> None:
    path = trained.root / "Pulumi.dev.yaml"
    before = path.read_bytes()
    try:
        refused = pipe(trained, "retry", "cat")
        assert (refused.code, "its weights are sound" in refused.output, path.read_bytes()) == (
            1,
            True,
            before,
        )
        assert pipe(trained, "retry", "cat", "--force").code == 0
        raised = path.read_bytes()
        again = pipe(trained, "retry", "cat")
        assert (again.code, "is declared already" in again.output, path.read_bytes()) == (0, True, raised)
        assert b"attempt: 2" in raised
        assert pipe(trained, "cancel", "cat").code == 0
        canceled = path.read_bytes()
        assert b"skip: true" in canceled
        assert (pipe(trained, "cancel", "cat").code, path.read_bytes()) == (0, canceled)
        assert "did you mean `cat`" in pipe(trained, "cancel", "cta").output
    finally:
        path.write_bytes(before)


def test_logs_show_only_lines_of_the_job(trained: Checkout) -> None:
    kelpie_id = trained.outputs()["jobs"]["cat"]["kelpieId"]
    printed = pipe(trained, "logs", "cat", "-n", "10000")
    assert f"received job {kelpie_id}" in printed.output
    assert printed.output.count("received job ") == 1
    assert pipe(trained, "logs", "owl").code == 1


@pytest.mark.long
def test_fetch_copies_to_another_folder_and_keeps_changed_files(trained: Checkout, tmp_path: Path) -> None:
    assert pipe(trained, "fetch", "cat", "--to", str(tmp_path)).code == 0
    config = next(tmp_path.glob("cat/*/train.yml"))
    config.write_text("mine")
    printed = pipe(trained, "fetch", "cat", "--to", str(tmp_path))
    assert (printed.code, "kept: " in printed.output, config.read_text()) == (1, True, "mine")
    forced = pipe(trained, "fetch", "cat", "--run", config.parent.name[:4], "--to", str(tmp_path), "--force")
    assert (forced.code, config.read_text() == "mine") == (0, False)
    assert "did you mean `cat`" in pipe(trained, "fetch", "cta").output


def test_a_comparison_of_runs_is_written(trained: Checkout) -> None:
    printed = pipe(trained, "report", "--compare")
    assert printed.code == 0
    assert "2 runs side by side" in (trained.root / printed.output.splitlines()[-1]).read_text(
        encoding="utf-8"
    )
    assert pipe(trained, "report", "--compare", "cat").code == 1


@pytest.mark.parametrize(
    "content",
    [
        "config: [",
        "config: {}\n",
        "a" * 3,
        "config:\n  flux-training:cloud: salad\n  flux-training:jobs: 3\n",
    ],
)
def test_the_doctor_reports_an_incomplete_configuration_without_traceback(
    trained: Checkout, content: str
) -> None:
    (trained.root / "Pulumi.half.yaml").write_text(content)
    printed = pipe(trained, "doctor", "--stack", "half")
    assert (printed.code, "Traceback" in printed.output) == (1, False)
    assert "\nbad " in printed.output


def test_a_stopped_local_cloud_is_reported_with_the_command_that_starts_it(trained: Checkout) -> None:
    elsewhere = {**env(trained), "FLUX_LOCAL_CLOUD": "nowhere/connection.json"}
    for command in ("status", "doctor", "logs"):
        printed = in_pipe(trained.root, command, *(["cat"] if command == "logs" else []), env=elsewhere)
        assert (printed.code, "make cloud" in printed.output, "Traceback" in printed.output) == (
            1,
            True,
            False,
        )


@pytest.mark.long
def test_ctrl_c_stops_the_watching_and_not_the_training(tmp_path: Path) -> None:
    """The queue holds a job that no node takes: there are none."""
    with new_checkout(tmp_path / "checkout", cloud="--port 0 --nodes 0 --boot-seconds 0") as checkout:
        checkout.make("cloud")
        checkout.run_engine("stack", "init", "dev")
        checkout.engine("up", "--yes", "--skip-preview")
        ended = interrupted(checkout, "status", "--watch", once="pending")
    assert (ended.code, "pending" in ended.output) == (130, True)


def test_the_webhook_accepts_calls_until_ctrl_c(trained: Checkout) -> None:
    answers = []

    def call(printed: str) -> None:
        url = re.findall(r"http://127\.0\.0\.1:\d+/", printed)[-1]
        answers.extend(
            httpx.post(url, content=body, trust_env=False).status_code for body in (b"{", b'{"job_id": "x"}')
        )

    ended = interrupted(trained, "webhook", "serve", "--port", "0", once="Ctrl-C stops it", then=call)
    assert (ended.code, answers) == (130, [400, 202])
    assert "for stack dev" in ended.output
    assert "Traceback" not in ended.output


def interrupted(
    checkout: Checkout, *arguments: str, once: str, then: Callable[[str], None] = lambda _: None
) -> FinishedCommand:
    """Run a command in a terminal; when it prints `once`, call `then` and send Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line_of(arguments),
        cwd=checkout.root,
        env=env(checkout),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # A background shell makes this process, and so its children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    output = b""
    try:
        deadline = time.monotonic() + 60
        while once.encode() not in output and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                output += os.read(ours, 65536)
        then(output.decode())
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        with suppress(OSError):  # Linux: the other end is closed
            while part := os.read(ours, 65536):
                output += part
        return FinishedCommand(code, output.decode())
    finally:
        process.kill()
        os.close(ours)
