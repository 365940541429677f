"""cancel and retry: what they write into the stack's file, and when they refuse."""

from __future__ import annotations

import re
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_training.clients.kelpie import Job
from flux_training.commands.jobs.cancel_retry import _refuse_unless_failed
from flux_training.commands.stack.edit import diff, edit_job
from flux_training.commands.watch.job_status import Sight, StackJob
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import choose
from flux_training.training.runs.run import RunKeys
from flux_training.training.settings import JobSettings

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
    """The lines that a diff takes away and adds."""
    lines = diff(before, after, "x").splitlines()[2:]
    return [line for line in lines if line.startswith(("+", "-"))]


@pytest.mark.parametrize(
    ("name", "settings", "lines"),
    [
        ("cat", {"attempt": 2}, ["-    cat: {}   # my cat", "+    cat: {attempt: 2} # my cat"]),
        (
            "dog",
            {"attempt": 4},
            ["-      attempt: 3  # the third time", "+      attempt: 4  # the third time"],
        ),
        ("sweep-1", {"attempt": 3}, ["+    sweep-1: {maxHours: 1, attempt: 3}"]),
        ("dog", {"skip": True}, ["+      skip: true"]),
    ],
)
def test_only_the_jobs_own_lines_change(name: str, settings: dict[str, object], lines: list[str]) -> None:
    assert changed(STACK, edit_job(STACK, name, **settings)) == lines


def test_what_was_taken_out_can_be_put_back() -> None:
    out = edit_job(STACK, "dog", skip=True)
    assert edit_job(out, "dog", skip=None) == STACK


def test_line_ends_of_windows_stay() -> None:
    text = STACK.replace("\n", "\r\n")
    edited = edit_job(text, "cat", attempt=2)
    assert edited.count("\r\n") == edited.count("\n") == text.count("\n")


@pytest.mark.parametrize("text", ["", "config: {}", "config:\n  flux-training:jobs: [a]\n", "config: ["])
def test_a_file_without_jobs_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        edit_job(text, "cat", attempt=2)


# Not `null` or `yes`, which YAML takes for something else.
NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=6).map("job-".__add__)
COMMENTS = st.text(string.ascii_letters + " ", max_size=10).map(lambda words: f"  # {words}".rstrip())


@settings(deadline=None)
@given(st.dictionaries(NAMES, COMMENTS, min_size=1, max_size=6), st.data())
def test_every_comment_and_every_other_entry_stays(jobs: dict[str, str], data: st.DataObject) -> None:
    entries = "".join(f"    {name}: {{maxHours: 1}}{comment}\n" for name, comment in jobs.items())
    text = f"config:\n  # jobs\n  flux-training:jobs:\n{entries}  # end\n  flux-training:cloud: local\n"
    name = data.draw(st.sampled_from(sorted(jobs)))
    edited = edit_job(text, name, attempt=7)
    assert re.findall(r"#.*", edited) == re.findall(r"#.*", text)
    before, after = (yaml.safe_load(one)["config"] for one in (text, edited))
    before["flux-training:jobs"][name]["attempt"] = 7
    assert after == before


def test_a_skipped_job_is_meant_by_no_glob() -> None:
    declared = {"cat": JobSettings(), "sweep-*": JobSettings(), "sweep-2": JobSettings(skip=True)}
    chosen, findings = choose(declared, ["cat", "sweep-1", "sweep-2"], "jobs")
    assert (sorted(chosen), findings) == (["cat", "sweep-1"], [])


JOB = StackJob("cat", "0123456789ab", "id-1", 300, RunKeys("runs/cat/0123456789ab/", "cat"))


@pytest.mark.parametrize(
    ("sight", "words"),
    [
        (None, "has not been queued yet"),
        (
            Sight(JOB, "running", "", {}, Job(id="i", container_group_id="g", status="running")),
            "has not ended",
        ),
        (
            Sight(JOB, "pending", "", {}, Job(id="i", container_group_id="g", status="pending")),
            "has not ended",
        ),
        (Sight(JOB, "completed", "", {}, None), "its weights are sound"),
    ],
)
def test_what_did_not_fail_is_not_tried_again_unless_told(sight: Sight | None, words: str) -> None:
    with pytest.raises(FluxError, match=words):
        _refuse_unless_failed("cat", sight)


@pytest.mark.parametrize("state", ["failed", "canceled", "lost", "stalled", "completed without weights"])
def test_what_failed_may_be_tried_again(state: str) -> None:
    _refuse_unless_failed("cat", Sight(JOB, state, "why", {}, None))
