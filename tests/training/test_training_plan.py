"""What becomes of each job, from a preview's steps, its run's standing and what changed."""

from __future__ import annotations

from typing import Any

import pytest

from training.changes import Changes
from training.cost import Line
from training.plan import (
    JobPlan,
    Plan,
    Step,
    What,
    cluster_lines,
    headline,
    in_order,
    messages,
    plan_job,
    read_steps,
)
from training.run_state import Standing

PARENT = "urn:pulumi:dev::flux-training::flux:index:TrainingPipeline$"
HEAD = f"{PARENT}pulumi-python:dynamic/flux:"
LINE = Line("cat", "new", 2000, 3600.0, 0.45, "the recipe's figure")
CAPTIONS = Changes(settings=("learning rate 1e-4 → 2e-4",))


def step(op: str, old: str = "", new: str = "", **state: Any) -> Step:
    before = {"runId": old, **state} if old else {}
    return Step(f"{HEAD}TrainingJob::cat", "TrainingJob", "cat", op, before, {"runId": new} if new else {})


@pytest.mark.parametrize(
    ("given", "standing", "past", "what"),
    [
        (step("create", new="n"), Standing.NEW, None, What.NEW),
        (step("create", new="n"), Standing.CANCELED, None, What.NEW),
        (step("create", new="n"), Standing.NEW, CAPTIONS, What.AGAIN),
        (step("create", new="n"), Standing.FINISHED, None, What.ADOPTED),
        (step("create", new="n"), Standing.UNFINISHED, None, What.RUNNING),
        (step("create", new="n"), Standing.FAILED, None, What.FAILED),
        (step("replace", "o", "n"), Standing.NEW, CAPTIONS, What.AGAIN),
        (step("replace", "o", "n"), Standing.FINISHED, CAPTIONS, What.ADOPTED),
        (step("replace", "o", "n"), Standing.FAILED, CAPTIONS, What.FAILED),
        (step("replace", "o", "o"), Standing.UNFINISHED, Changes(), What.AGAIN),
        (step("same", "o", "o", status="completed"), Standing.FINISHED, None, What.KEPT),
        (step("same", "o", "o", status="running"), Standing.UNFINISHED, None, What.RUNNING),
        (step("same", "o", "o", status="failed"), Standing.FAILED, None, What.FAILED),
        (step("update", "o", "o", status="pending"), Standing.UNFINISHED, None, What.RUNNING),
        (step("delete", "o"), None, None, What.REMOVED),
    ],
)
def test_the_fate_of_a_job(given: Step, standing: Standing | None, past: Changes | None, what: What) -> None:
    found = plan_job(given, standing, past, LINE, old_unfinished=False)
    assert found.what is what
    assert (found.line is not None) == (what in (What.NEW, What.AGAIN, What.RUNNING))


def test_an_unfinished_run_that_is_replaced_or_taken_out_is_said_to_be_canceled() -> None:
    replaced = plan_job(step("replace", "old1", "new1"), Standing.NEW, CAPTIONS, LINE, old_unfinished=True)
    assert replaced.reasons == ("learning rate 1e-4 → 2e-4", "its unfinished run old1 is canceled")
    removed = plan_job(step("delete", "old1"), None, None, None, old_unfinished=True)
    assert removed.what is What.CANCELED
    assert "run old1 is taken out of the queue" in removed.reasons[0]


def test_a_job_of_a_group_that_is_made_anew_is_queued_again_for_that() -> None:
    found = plan_job(step("replace", "o", "o"), Standing.UNFINISHED, Changes(), LINE, old_unfinished=False)
    assert found.reasons == ("its container group is made anew, so it is queued again",)


def entry(op: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "urn": f"{HEAD}{kind}::{name}", **more}


@pytest.mark.parametrize(
    "ops",
    [
        ["replace", "create-replacement", "delete-replaced"],
        ["delete-replaced", "replace", "create-replacement"],
        ["replace"],
    ],
)
def test_the_steps_of_a_replacement_are_read_as_one(ops: list[str]) -> None:
    old = {"outputs": {"runId": "o", "status": "completed"}, "inputs": {"runId": "o"}}
    new = {"inputs": {"runId": "n"}}
    steps = [entry(op, "TrainingJob", "cat", oldState=old, newState=new, diffReasons=["runId"]) for op in ops]
    (found,) = read_steps({"steps": steps})
    assert (found.op, found.kind, found.name, found.changed) == ("replace", "TrainingJob", "cat", ("runId",))
    assert (found.old["status"], found.old["runId"], found.new["runId"]) == ("completed", "o", "n")


def test_what_only_holds_the_rest_together_is_left_out() -> None:
    stack = {"op": "same", "urn": "urn:pulumi:dev::flux-training::pulumi:pulumi:Stack::flux-training-dev"}
    component = {
        "op": "create",
        "urn": "urn:pulumi:dev::flux-training::flux:index:TrainingPipeline::pipeline",
    }
    provider = {"op": "create", "urn": f"{PARENT}pulumi:providers:aws::aws"}
    bookkeeping = entry("update", "DeclaredRuns", "runs", diffReasons=["runs"])
    assert read_steps({"steps": [stack, component, provider, bookkeeping]}) == []
    assert read_steps({}) == []


def test_the_cluster_is_told_with_what_changes() -> None:
    steps = read_steps(
        {
            "steps": [
                entry("update", "ContainerGroup", "cluster", diffReasons=["gpu", "priority"]),
                entry("create", "Bucket", "bucket", diffReasons=["x"]),
                entry("same", "ScalingRule", "scaling"),
                entry("delete", "Dataset", "dog"),
            ]
        }
    )
    assert cluster_lines(steps) == ("container group is changed: gpu, priority", "bucket is made")


def test_what_rents_restarts_or_is_made_elsewhere_is_told() -> None:
    steps = [
        entry("create", "DevGroup", "dev"),
        *[
            entry(op, "NodeKeys", "node-keys", replaceReasons=["end"])
            for op in ("create-replacement", "replace")
        ],
        {"op": "create", "urn": f"{PARENT}aws:s3/bucketPolicy:BucketPolicy::only-https"},
        {"op": "update", "urn": f"{PARENT}command:local:Command::images", "diffReasons": ["triggers"]},
        entry("delete", "SomethingNew", "later"),
    ]
    assert cluster_lines(read_steps({"steps": steps})) == (
        "dev container group is made",
        "key of the nodes is made anew: end",
        "BucketPolicy only-https is made",
        "Command images is changed: triggers",
        "SomethingNew later is taken down",
    )


def test_diagnostics_are_told_once_and_by_severity() -> None:
    said = [{"severity": "error", "message": "no\n"}, {"severity": "info", "message": "hm"}, {"severity": "error", "message": "no"}]  # fmt: skip
    assert messages({"diagnostics": said}, "error") == ("no",)
    assert messages({}, "error") == ()


def test_the_headline_counts_and_the_order_puts_changes_first() -> None:
    whats = {"d": What.KEPT, "a": What.AGAIN, "c": What.NEW, "b": What.NEW, "e": What.REMOVED}
    jobs = in_order(JobPlan(name, what) for name, what in whats.items())
    assert [job.name for job in jobs] == ["b", "c", "a", "e", "d"]
    text = "2 jobs trained for the first time, 1 trained again, 1 taken out, 1 unchanged"
    assert headline(Plan("dev", jobs)) == text
    assert headline(Plan("dev")) == "no job is declared"
