"""Plans: the action for each job, from the preview's steps, the run's state and the changes."""

from typing import Any

import pytest

from flux_training.training.cost import Line
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.changes import Changes
from flux_training.training.runs.plan import (
    JobPlan,
    Plan,
    PlannedAction,
    ResourceChange,
    describe_resource_changes,
    diagnostics_of,
    in_order,
    plan_headline,
    plan_job,
    read_resource_changes,
)
from flux_training.training.runs.run_state import RunState

PARENT = "urn:pulumi:dev::flux-training::flux:index:TrainingPipeline$"
HEAD = f"{PARENT}pulumi-python:dynamic/flux:"
LINE = Line("cat", "new", 2000, Range.exactly(3600.0), Range.exactly(0.45), "the recipe's figure")
CAPTIONS = Changes(settings=("learning rate 1e-4 → 2e-4",))


def step(op: str, old: str = "", new: str = "", **state: Any) -> ResourceChange:
    before = {"runId": old, **state} if old else {}
    return ResourceChange("TrainingJob", "cat", op, before, {"runId": new} if new else {})


ADOPTED = ("this run has already finished: its results are adopted, nothing is trained",)
FAILED = "it is not queued again automatically: raise `attempt` to retry"
FAILED_BEFORE = ("this run failed before and is not queued again automatically: raise `attempt` to retry",)
REPLACED = ("its container group is replaced, so it is queued again",)


@pytest.mark.parametrize(
    ("given", "state", "past", "what", "reasons"),
    [
        (step("create", new="n"), RunState.NEW, None, PlannedAction.NEW, ("trained for the first time",)),
        (
            step("create", new="n"),
            RunState.CANCELED,
            None,
            PlannedAction.NEW,
            ("trained for the first time",),
        ),
        (step("create", new="n"), RunState.NEW, CAPTIONS, PlannedAction.AGAIN, CAPTIONS.reasons),
        (step("create", new="n"), RunState.COMPLETED, None, PlannedAction.ADOPTED, ADOPTED),
        (step("create", new="n"), RunState.COMPLETED, CAPTIONS, PlannedAction.ADOPTED, ADOPTED),
        (
            step("create", new="n"),
            RunState.PENDING,
            None,
            PlannedAction.RUNNING,
            ("its run is already in the queue",),
        ),
        (step("create", new="n"), RunState.FAILED, None, PlannedAction.FAILED, FAILED_BEFORE),
        (step("replace", "o", "n"), RunState.NEW, CAPTIONS, PlannedAction.AGAIN, CAPTIONS.reasons),
        (step("replace", "o", "n"), RunState.COMPLETED, CAPTIONS, PlannedAction.ADOPTED, ADOPTED),
        (step("replace", "o", "n"), RunState.FAILED, CAPTIONS, PlannedAction.FAILED, FAILED_BEFORE),
        (step("replace", "o", "n"), RunState.FAILED, None, PlannedAction.FAILED, FAILED_BEFORE),
        (step("replace", "o", "o"), RunState.PENDING, Changes(), PlannedAction.AGAIN, REPLACED),
        (step("same", "o", "o", status="completed"), RunState.COMPLETED, None, PlannedAction.KEPT, ()),
        (step("same", "o", "o", status="running"), RunState.PENDING, None, PlannedAction.RUNNING, ()),
        (step("update", "o", "o", status="pending"), RunState.PENDING, None, PlannedAction.RUNNING, ()),
        (step("refresh", "o", "o", status=None), RunState.NEW, None, PlannedAction.KEPT, ()),
        (
            step("same", "o", "o", status="failed", reason="no memory"),
            RunState.FAILED,
            None,
            PlannedAction.FAILED,
            (f"no memory; {FAILED}",),
        ),
        (step("same", "o", "o", status="lost"), None, None, PlannedAction.FAILED, (f"lost; {FAILED}",)),
        # Weights that arrived late outweigh the status in the state.
        (step("same", "o", "o", status="failed"), RunState.COMPLETED, None, PlannedAction.KEPT, ()),
        (step("delete", "o"), None, None, PlannedAction.REMOVED, ("its results stay in the bucket",)),
    ],
)
def test_action_and_reasons_of_a_job(
    given: ResourceChange,
    state: RunState | None,
    past: Changes | None,
    what: PlannedAction,
    reasons: tuple[str, ...],
) -> None:
    found = plan_job(given, state, past, LINE, old_unfinished=False)
    assert (found.what, found.reasons) == (what, reasons)
    assert (found.line is not None) == (
        what in (PlannedAction.NEW, PlannedAction.AGAIN, PlannedAction.RUNNING)
    )
    # An unfinished run is not canceled if it is kept.
    if given.op != "delete" and given.old.get("runId") == given.new.get("runId"):
        assert plan_job(given, state, past, LINE, old_unfinished=True).reasons == reasons


def test_a_replaced_or_removed_unfinished_run_is_reported_as_canceled() -> None:
    replaced = plan_job(step("replace", "old1", "new1"), RunState.NEW, CAPTIONS, LINE, old_unfinished=True)
    assert replaced.reasons == ("learning rate 1e-4 → 2e-4", "its unfinished run old1 is canceled")
    removed = plan_job(step("delete", "old1"), None, None, None, old_unfinished=True)
    assert removed.what is PlannedAction.CANCELED
    assert "run old1 is removed from the queue" in removed.reasons[0]


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
    (found,) = read_resource_changes({"steps": steps})
    assert (found.op, found.kind, found.name, found.changed) == ("replace", "TrainingJob", "cat", ("runId",))
    assert (found.old["status"], found.old["runId"], found.new["runId"]) == ("completed", "o", "n")


def test_stacks_components_and_providers_are_left_out() -> None:
    stack = {"op": "same", "urn": "urn:pulumi:dev::flux-training::pulumi:pulumi:Stack::flux-training-dev"}
    component = {
        "op": "create",
        "urn": "urn:pulumi:dev::flux-training::flux:index:TrainingPipeline::pipeline",
    }
    provider = {"op": "create", "urn": f"{PARENT}pulumi:providers:aws::aws"}
    bookkeeping = entry("update", "DeclaredRuns", "runs", diffReasons=["runs"])
    assert read_resource_changes({"steps": [stack, component, provider, bookkeeping]}) == []
    assert read_resource_changes({}) == []


def test_cluster_changes_are_listed_with_properties() -> None:
    steps = read_resource_changes(
        {
            "steps": [
                entry("update", "ContainerGroup", "cluster", diffReasons=["gpu", "priority"]),
                entry("create", "Bucket", "bucket", diffReasons=["x"]),
                entry("same", "ScalingRule", "scaling"),
                entry("delete", "Dataset", "dog"),
            ]
        }
    )
    assert describe_resource_changes(steps) == (
        "container group is changed: gpu, priority",
        "bucket is created",
    )


def test_changed_numbers_and_names_are_shown_but_no_secrets() -> None:
    old = {"outputs": {"gpu": "RTX 4090", "cpu": 4, "credentials": "a", "maxReplicas": 0, "autoscale": False}}
    new = {"inputs": {"gpu": "RTX 5090", "cpu": 8, "credentials": "b", "maxReplicas": 2, "autoscale": True}}
    keys = ["autoscale", "cpu", "credentials", "gpu"]
    steps = [
        entry("update", "ContainerGroup", "cluster", oldState=old, newState=new, diffReasons=keys),
        entry("update", "ScalingRule", "scaling", oldState=old, newState=new, diffReasons=["maxReplicas"]),
    ]
    assert describe_resource_changes(read_resource_changes({"steps": steps})) == (
        "container group is changed: autoscale, cpu 4 → 8, credentials, gpu RTX 4090 → RTX 5090",
        "scaling rule is changed: maxReplicas 0 → 2 (at most one replica per declared job)",
    )


def test_changes_of_other_resources_are_listed() -> None:
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
    assert describe_resource_changes(read_resource_changes({"steps": steps})) == (
        "dev container group is created",
        "key of the nodes is replaced: end",
        "BucketPolicy only-https is created",
        "Command images is changed: triggers",
        "SomethingNew later is deleted",
    )


def test_resources_of_named_clusters_are_told_apart() -> None:
    steps = [
        entry("create", "ContainerGroup", "cluster-video"),
        entry("delete", "ScalingRule", "scaling-flux"),
    ]
    assert describe_resource_changes(read_resource_changes({"steps": steps})) == (
        "container group of cluster video is created",
        "scaling rule of cluster flux is deleted",
    )


@pytest.mark.parametrize(
    ("op", "state", "what"),
    [
        ("update", RunState.RUNNING, PlannedAction.RUNNING),
        ("replace", RunState.PENDING, PlannedAction.AGAIN),
        ("replace", RunState.COMPLETED, PlannedAction.ADOPTED),
    ],
)
def test_a_job_that_moves_to_another_cluster_is_announced(
    op: str, state: RunState, what: PlannedAction
) -> None:
    before, after = {"runId": "r", "groupName": "a"}, {"runId": "r", "groupName": "b"}
    found = plan_job(ResourceChange("TrainingJob", "cat", op, before, after), state, None, LINE, False)
    assert found.what is what
    move = (
        "it moves from container group a to b: its job is canceled, also if it is running, and queued there"
    )
    assert any(reason.startswith(move) for reason in found.reasons) == (state is not RunState.COMPLETED)
    stays = plan_job(ResourceChange("TrainingJob", "cat", op, before, before), state, None, LINE, False)
    assert not any("moves" in reason for reason in stays.reasons)


def test_diagnostics_are_listed_once_and_by_severity() -> None:
    said = [{"severity": "error", "message": "no\n"}, {"severity": "info", "message": "hm"}, {"severity": "error", "message": "no"}]  # fmt: skip
    assert diagnostics_of({"diagnostics": said}, "error") == ("no",)
    assert diagnostics_of({}, "error") == ()


def test_the_headline_counts_jobs_and_changes_come_first() -> None:
    whats = {
        "d": PlannedAction.KEPT,
        "a": PlannedAction.AGAIN,
        "c": PlannedAction.NEW,
        "b": PlannedAction.NEW,
        "e": PlannedAction.REMOVED,
    }
    jobs = in_order(JobPlan(name, what) for name, what in whats.items())
    assert [job.name for job in jobs] == ["b", "c", "a", "e", "d"]
    text = "2 jobs trained for the first time, 1 trained again, 1 removed, 1 unchanged"
    assert plan_headline(Plan("dev", jobs)) == text
    assert plan_headline(Plan("dev")) == "no job is declared"


def test_job_plan_has_all_fields() -> None:
    given = ResourceChange(
        "TrainingJob",
        "cat",
        "replace",
        {"runId": "o", "digest": "d"},
        {"runId": "n"},
    )
    assert plan_job(given, RunState.NEW, CAPTIONS, LINE, old_unfinished=False) == JobPlan(
        "cat", PlannedAction.AGAIN, "n", CAPTIONS.reasons, 0, CAPTIONS, LINE, "o", "d"
    )
    first = ResourceChange("TrainingJob", "cat", "create", {}, {"runId": "n"})
    assert plan_job(first, RunState.NEW, None, LINE, old_unfinished=False) == JobPlan(
        "cat", PlannedAction.NEW, "n", ("trained for the first time",), line=LINE
    )
    bare = ResourceChange("TrainingJob", "cat", "delete", {"runId": "o"})
    assert plan_job(bare, None, None, LINE, old_unfinished=True) == JobPlan(
        "cat",
        PlannedAction.CANCELED,
        reasons=("run o is removed from the queue; its checkpoints stay in the bucket",),
        previous="o",
    )


@pytest.mark.parametrize(
    ("steps", "op", "old", "new", "changed"),
    [
        ([("same", {"a": 1}, {"a": 1}, None)], "same", {"a": 1}, {"a": 1}, ()),
        ([("delete", {"a": 1}, {"a": 2}, None)], "delete", {"a": 1}, {}, ()),
        ([("refresh", {"a": 1}, None, None)], "refresh", {"a": 1}, {}, ()),
        ([("discard", {"a": 1}, None, None)], "delete", {"a": 1}, {}, ()),
        ([("create-replacement", None, {"a": 2}, ["y", "x"])], "replace", {}, {"a": 2}, ("x", "y")),
        (
            [("update", {"a": 1}, {"a": 2}, []), ("same", {"b": 1}, None, ["x"])],
            "same",
            {"a": 1},
            {"a": 2},
            ("x",),
        ),
    ],
)
def test_preview_steps_are_merged_by_resource(
    steps: list[tuple[str, Any, Any, Any]], op: str, old: Any, new: Any, changed: tuple[str, ...]
) -> None:
    given = [
        entry(
            one,
            "Bucket",
            "b",
            oldState=before and {"outputs": before},
            newState=after and {"inputs": after},
            diffReasons=why,
        )
        for one, before, after, why in steps
    ]
    (found,) = read_resource_changes({"steps": given})
    assert found == ResourceChange("Bucket", "b", op, old, new, changed)


def test_malformed_preview_output_is_tolerated() -> None:
    reasons = entry("replace", "Bucket", "b", replaceReasons=["bucket"], oldState=7, newState={"inputs": 7})
    (found,) = read_resource_changes({"steps": [reasons]})
    assert (found.op, found.old, found.new, found.changed) == ("replace", {}, {}, ("bucket",))
    said = {
        "diagnostics": [{"severity": "error"}, 7, {"severity": "error", "message": " "}, {"message": "x"}]
    }
    assert diagnostics_of(said, "error") == ()
    assert read_resource_changes({"steps": None}) == []
    assert diagnostics_of({"diagnostics": None}, "error") == ()


def test_resource_types_have_readable_names() -> None:
    kinds = ("Bucket", "ContainerGroup", "ScalingRule", "Dataset", "TrainingJob")
    steps = [
        ResourceChange(kind, "n", op, changed=("a", "b"))
        for kind in kinds
        for op in ("create", "replace", "delete", "read")
    ]
    assert describe_resource_changes(steps) == (
        "bucket is created",
        "bucket is replaced: a, b",
        "bucket is deleted: a, b",
        "container group is created",
        "container group is replaced: a, b",
        "container group is deleted: a, b",
        "scaling rule is created",
        "scaling rule is replaced: a, b",
        "scaling rule is deleted: a, b",
    )
    assert describe_resource_changes([ResourceChange("Bucket", "n", "update")]) == ("bucket is changed",)


def test_the_headline_names_each_action_in_order() -> None:
    jobs = tuple(
        JobPlan(f"{what}{number}", what)
        for what in PlannedAction
        for number in range(2 if what is PlannedAction.KEPT else 1)
    )
    assert plan_headline(Plan("dev", jobs)) == (
        "1 job trained for the first time, 1 trained again, 1 waiting for the budget, 1 canceled, 1 removed, 1 adopted, 1 failed before, "
        "1 already in the queue, 2 unchanged"
    )
    plan = Plan("dev", jobs)
    assert {job.what for job in plan.changed} == set(PlannedAction) - {
        PlannedAction.KEPT,
        PlannedAction.RUNNING,
    }
    assert [job.what for job in plan.of(PlannedAction.NEW, PlannedAction.KEPT)] == [
        PlannedAction.NEW,
        PlannedAction.KEPT,
        PlannedAction.KEPT,
    ]
