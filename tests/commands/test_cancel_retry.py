"""`flux cancel` and `retry`: how they edit the stack file, and when they refuse."""

import re
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flux_training.clients.kelpie import Job
from flux_training.commands.jobs import cancel_retry
from flux_training.commands.jobs.cancel_retry import LastRun, attempt_of, next_attempt, refuse_unless_failed
from flux_training.commands.stack.edit import edit_job, unified_diff
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import choose_jobs
from flux_training.training.jobs.folder import read_config, read_images
from flux_training.training.runs.changes import Inputs
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import JobSettings
from flux_training.training.values import MAX_ATTEMPT
from tests.support.flux import make_checkout
from tests.training.job_folders import make_job

JOBS = "flux-training:jobs"
STACK = """\
# What trains.
encryptionsalt: v1:abc=:v1:x+y
config:
  flux-training:cloud: local
  # Each is a folder below jobs/.
  flux-training:jobs:
    cat: {}   # my cat
    dog:
      attempt: 3  # the third time
      maxHours: 2
    "sweep-*": {maxHours: 1, attempt: 2}
  # The cluster.
  flux-training:cluster:
    gpu: "RTX 5090"
"""


def changed(before: str, after: str) -> list[str]:
    """The lines that a diff removes and adds."""
    lines = unified_diff(before, after, "x").splitlines()[2:]
    return [line for line in lines if line.startswith(("+", "-"))]


@pytest.mark.parametrize(
    ("name", "settings", "lines"),
    [
        ("cat", {"attempt": 2}, ["-    cat: {}   # my cat", "+    cat: {attempt: 2}   # my cat"]),
        (
            "dog",
            {"attempt": 4},
            ["-      attempt: 3  # the third time", "+      attempt: 4  # the third time"],
        ),
        ("sweep-1", {"attempt": 3}, ["+    sweep-1: {maxHours: 1, attempt: 3}"]),
        ("dog", {"skip": True}, ["+      skip: true"]),
    ],
)
def test_only_the_lines_of_the_job_change(name: str, settings: dict[str, object], lines: list[str]) -> None:
    assert changed(STACK, edit_job(STACK, JOBS, name, **settings)) == lines


def test_skip_can_be_set_and_removed_again() -> None:
    out = edit_job(STACK, JOBS, "dog", skip=True)
    assert edit_job(out, JOBS, "dog", skip=None) == STACK


def test_windows_line_endings_are_kept() -> None:
    text = STACK.replace("\n", "\r\n")
    edited = edit_job(text, JOBS, "cat", attempt=2)
    assert edited.count("\r\n") == edited.count("\n") == text.count("\n")


@pytest.mark.parametrize("text", ["", "config: {}", "config:\n  flux-training:jobs: [a]\n", "config: ["])
def test_a_file_without_jobs_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        edit_job(text, JOBS, "cat", attempt=2)


# The prefix avoids words such as `null` and `yes`, which YAML does not read as text.
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=6).map("job-".__add__)
COMMENTS = st.text(string.ascii_letters + " ", max_size=10).map(lambda words: f"  # {words}".rstrip())


@settings(deadline=None)
@given(st.dictionaries(NAMES, COMMENTS, min_size=1, max_size=6), st.data())
def test_comments_and_other_entries_are_kept(jobs: dict[str, str], data: st.DataObject) -> None:
    entries = "".join(f"    {name}: {{maxHours: 1}}{comment}\n" for name, comment in jobs.items())
    text = f"config:\n  # jobs\n  flux-training:jobs:\n{entries}  # end\n  flux-training:cloud: local\n"
    name = data.draw(st.sampled_from(sorted(jobs)))
    edited = edit_job(text, JOBS, name, attempt=7)
    assert re.findall(r"#.*", edited) == re.findall(r"#.*", text)
    before, after = (yaml.safe_load(one)["config"] for one in (text, edited))
    before["flux-training:jobs"][name]["attempt"] = 7
    assert after == before


def test_a_glob_does_not_select_a_skipped_job() -> None:
    declared = {"cat": JobSettings(), "sweep-*": JobSettings(), "sweep-2": JobSettings(skip=True)}
    chosen, findings = choose_jobs(declared, ["cat", "sweep-1", "sweep-2"], "jobs")
    assert (sorted(chosen), findings) == (["cat", "sweep-1"], [])


JOB = StackJob("cat", "0123456789ab", "id-1", 300, RunKeys("runs/cat/0123456789ab/", "cat"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "has not been queued yet"),
        ("running", "has not ended"),
        ("pending", "has not ended"),
        ("completed", "its weights are sound"),
    ],
)
def test_only_a_failed_run_is_retried_without_force(state: str | None, message: str) -> None:
    status = JobStatus(JOB, RunState(state)) if state else None
    with pytest.raises(FluxError, match=message) as caught:
        refuse_unless_failed("prod", "cat", status)
    assert "prod`" in caught.value.next_step


@pytest.mark.parametrize(
    ("skip", "caption", "words"),
    [
        (
            True,
            "another caption",
            "cat has finished, and was changed since: 1 caption changed: 00001.txt; remove `skip: true` from `cat` in Pulumi.dev.yaml, "
            "which keeps the job from being trained, then `make up` trains it with that",
        ),
        (
            False,
            "another caption",
            "cat has finished, and was changed since: 1 caption changed: 00001.txt; `make up` trains it with that",
        ),
        (
            True,
            "",
            "change a caption or train.yml and remove `skip: true` from `cat` in Pulumi.dev.yaml, which",
        ),
        (False, "", "the same weights; change a caption or train.yml, or `./flux retry cat --force`"),
    ],
)
def test_retry_of_a_finished_job_names_what_was_changed_and_what_skips_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool, caption: str, words: str
) -> None:
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.setattr(cancel_retry, "project_root", lambda: root)
    job = make_job(root / "jobs", "cat", images=2)
    before = Inputs(read_images(job).manifest, read_config(job).raw_config, 1)
    if caption:
        (job / "dataset/00001.txt").write_text(caption, encoding="utf-8")
    last = LastRun(1, JobStatus(JOB, RunState.COMPLETED), before)
    monkeypatch.setattr(cancel_retry, "_declared_settings", lambda *_: JobSettings(skip=skip))
    monkeypatch.setattr(cancel_retry, "_last_run", lambda *_: last)
    with pytest.raises(FluxError) as caught:
        cancel_retry.retry.main(["cat"], standalone_mode=False)
    assert words in str(caught.value)


@pytest.mark.parametrize("state", ["failed", "canceled", "lost", "stalled", "completed without weights"])
def test_a_failed_run_may_be_retried(state: str) -> None:
    refuse_unless_failed("dev", "cat", JobStatus(JOB, RunState(state), "why"))


@pytest.mark.parametrize(
    ("queued", "made_from", "attempt"),
    [({"FLUX_ATTEMPT": "2"}, 9, 2), ({}, 9, 9), (None, 3, 3), (None, None, None)],
)
def test_the_attempt_is_read_from_the_queue_first(
    queued: dict[str, str] | None, made_from: int | None, attempt: int | None
) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    job = Job(id="i", container_group_id="g", status="failed", created=now, environment=queued or {})
    status = JobStatus(JOB, RunState.FAILED, queue_job=None if queued is None else job)
    inputs = None if made_from is None else Inputs(b"{}", b"", made_from)
    assert attempt_of(status, inputs) == attempt


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("declared", "state", "attempt", "said"),
    [
        (JobSettings(), "failed", 2, ""),
        (
            JobSettings(attempt=2),
            "failed",
            None,
            "attempt 2 is declared already, attempt 1 was the last one queued",
        ),
        (JobSettings(skip=True), "canceled", 2, "`skip: true`, which keeps it canceled; this removes it"),
        (JobSettings(skip=True, attempt=2), "canceled", 2, "this removes it"),
    ],
)
def test_retry_declares_an_attempt_once_and_says_what_it_removes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    declared: JobSettings,
    state: str,
    attempt: int | None,
    said: str,
    force: bool,
) -> None:
    edits: list[int | None] = []
    monkeypatch.setattr(cancel_retry, "_declared_settings", lambda *_: declared)
    monkeypatch.setattr(
        cancel_retry, "_last_run", lambda *_: LastRun(1, JobStatus(JOB, RunState(state), "why"))
    )
    monkeypatch.setattr(
        cancel_retry, "_edit", lambda *_, attempt, skip: edits.append(attempt) if skip is None else None
    )
    cancel_retry.retry.main(["cat", *(["--force"] if force else [])], standalone_mode=False)
    assert edits == ([] if attempt is None else [attempt])
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_job_that_was_never_queued_is_not_retried_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel_retry, "_declared_settings", lambda *_: JobSettings())
    monkeypatch.setattr(cancel_retry, "_last_run", lambda *_: LastRun())
    with pytest.raises(FluxError, match="cat has not been queued yet"):
        cancel_retry.retry.main(["cat", "--force"], standalone_mode=False)


def test_there_is_no_attempt_after_the_highest() -> None:
    assert next_attempt("dev", "cat", MAX_ATTEMPT - 1) == MAX_ATTEMPT
    with pytest.raises(BadInput, match=r"cat: attempt 1000000000 is the highest; .* in Pulumi\.dev\.yaml"):
        next_attempt("dev", "cat", MAX_ATTEMPT)
    with pytest.raises(ValidationError, match="less than or equal to 1000000000"):
        JobSettings(attempt=MAX_ATTEMPT + 1)
