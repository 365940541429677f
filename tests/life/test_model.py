"""Adds, edits, removes, retries, finishes and destroys jobs in any order; after each step the cloud agrees with a model.

FLUX_TEST_MODELS sets how many such stories `make test-long` tells; `make test` tells one.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flux_training.clients.kelpie import Job
from flux_training.training.runs.run import Layout
from tests.life.nodes import leave_weights, report
from tests.life.stacks import Stack, new_stack
from tests.training.job_folders import make_job

NAMES = ("cat", "dog", "bird")
MODELS = int(os.environ.get("FLUX_TEST_MODELS", "5"))
_numbers = itertools.count()

# A run in the model: the job's name, the number of edits, the attempt.
Run = tuple[str, int, int]


class StackMachine(RuleBasedStateMachine):
    """`runs` maps every run ever queued to its state: queued, completed, failed or canceled."""

    engine: str
    cloud: Path
    folder: Path

    @initialize()
    def begin(self) -> None:
        number = next(_numbers)
        place = f"life{os.getpid()}-{number}"
        self.stack: Stack = new_stack(self.folder / place, self.cloud, place, {"cat": number}, self.engine)
        self.number = number
        self.edits = {"cat": 0}
        self.declared: dict[str, int] = {"cat": 1}
        self.runs: dict[Run, str] = {}
        self.posts = 0
        self.deletes: set[str] = set()
        self.log_begins = len(self.requests())
        self.up()

    # What a user does.

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        if name not in self.edits:
            make_job(self.stack.root / "jobs", name, images=2, seed=self.number * 10 + NAMES.index(name) + 1)
            self.edits[name] = 0
        self.declared.setdefault(name, 1)
        self.up()

    @precondition(lambda self: self.declared)
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.declared)))
        self.edits[name] += 1
        caption = self.stack.root / "jobs" / name / "dataset/00001.txt"
        caption.write_text(f"tr1gger, edited {self.edits[name]} times", encoding="utf-8")
        self.up()

    @precondition(lambda self: len(self.declared) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        del self.declared[data.draw(st.sampled_from(sorted(self.declared)))]
        self.up()

    @precondition(lambda self: self.declared)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.declared[data.draw(st.sampled_from(sorted(self.declared)))] += 1
        self.up()

    @rule()
    def nothing(self) -> None:
        assert "unchanged" in self.up()

    @rule()
    def destroy(self) -> None:
        self.stack.destroy()
        self.cancel(lambda _: True)
        assert self.stack.connection.salad().get_group(self.stack.place) is None
        self.agree()
        self.up()

    # What the nodes do.

    @precondition(lambda self: "queued" in self.runs.values())
    @rule(data=st.data(), how=st.sampled_from(["completed", "failed", "completed without weights"]))
    def end(self, data: st.DataObject, how: str) -> None:
        run = data.draw(st.sampled_from(sorted(run for run, state in self.runs.items() if state == "queued")))
        job = self.job_of(run)
        if how == "completed":
            keys = Layout(f"{self.stack.place}/").run(run[0], job.environment["FLUX_RUN_ID"])
            leave_weights(self.stack.connection.storage("life"), keys)
        report(self.stack.connection, job, "failed" if how == "failed" else "completed")
        self.runs[run] = how
        self.stack.refresh()

    # How cloud and model are compared.

    def up(self) -> str:
        self.stack.configure({name: {"attempt": attempt} for name, attempt in self.declared.items()})
        printed = self.stack.up()
        wanted = {(name, self.edits[name], attempt) for name, attempt in self.declared.items()}
        self.cancel(lambda run: run not in wanted)
        for run in wanted:
            if self.runs.get(run, "canceled") == "canceled":
                self.runs[run] = "queued"
                self.posts += 1
        return printed

    def cancel(self, gone: Any) -> None:
        for run, state in self.runs.items():
            if state == "queued" and gone(run):
                self.runs[run] = "canceled"

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "runs"):
            return
        queued = sorted(run for run, state in self.runs.items() if state == "queued")
        live = self.stack.live_runs()
        assert len(live) == len(set(live)) == len(queued)
        assert sorted(job.environment["FLUX_JOB"] for job in self.stack.jobs() if job.unfinished) == [
            run[0] for run in queued
        ]
        assert self.count("POST", "/jobs") == self.posts
        ended = {job.id for job in self.stack.jobs() if job.status in ("completed", "failed")}
        canceled = {path.rsplit("/", 1)[1] for path in self.paths("DELETE", "/jobs/")}
        assert not ended & canceled

    @invariant()
    def outputs_tell_the_truth(self) -> None:
        if not hasattr(self, "runs"):
            return
        jobs = self.stack.outputs().get("jobs", {})
        told = {name: "queued" if job["status"] == "pending" else job["status"] for name, job in jobs.items()}
        assert told == {
            name: self.runs[name, self.edits[name], attempt] for name, attempt in self.declared.items()
        }

    def job_of(self, run: Run) -> Job:
        run_id = self.stack.outputs()["jobs"][run[0]]["runId"]
        (job,) = [
            job for job in self.stack.jobs() if job.unfinished and job.environment["FLUX_RUN_ID"] == run_id
        ]
        return job

    def requests(self) -> list[dict[str, Any]]:
        text = (self.cloud / "requests.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def paths(self, method: str, part: str) -> list[str]:
        since = [entry for entry in self.requests()[self.log_begins :] if entry["service"] == "kelpie"]
        return [
            entry["path"] for entry in since if entry["method"] == method and entry["path"].startswith(part)
        ]

    def count(self, method: str, path: str) -> int:
        return self.paths(method, path).count(path)


# The first story that hypothesis generates is always the simplest one, so there are at least two.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("stories", "steps"), [(2, 4), pytest.param(MODELS, 8, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_model_and_cloud_agree(stories: int, steps: int, engine: str, cloud: Path, tmp_path: Path) -> None:
    machine = type(
        "StackMachineHere", (StackMachine,), {"engine": engine, "cloud": cloud, "folder": tmp_path}
    )
    chosen = settings(
        max_examples=stories,
        stateful_step_count=steps,
        # A story takes half a minute: shrinking it would take longer than reading it.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
