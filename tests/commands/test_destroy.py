"""What `flux destroy` says before it asks: from the state alone, and with what the services say."""

from typing import Any

import pytest

from flux_training.commands.stack.destroy import StackResources, describe_destroy, parse_stack_resources
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState


def resource(kind: str, name: str, /, **outputs: Any) -> dict[str, Any]:
    return {
        "urn": f"urn:pulumi:prod::loras::flux:index:TrainingPipeline$pulumi-python:dynamic/flux:{kind}::{name}",
        "type": f"pulumi-python:dynamic/flux:{kind}",
        "outputs": outputs,
    }


OUTPUTS = {"bucket": "loras", "jobs": {"cat": {}, "dog": {}}}
STACK = {
    "urn": "urn:pulumi:prod::loras::pulumi:pulumi:Stack::loras-prod",
    "type": "pulumi:pulumi:Stack",
    "outputs": OUTPUTS,
}
GROUP = resource("ContainerGroup", "cluster", name="flux")
BUCKET = resource("Bucket", "bucket", bucket="loras", results="keep")
CAT = resource("TrainingJob", "cat", status="running", cost={"actualUsd": 1.0})
DOG = resource("TrainingJob", "dog", status="completed", cost={"actualUsd": 0.5})
STAY = "Trained weights stay in the bucket loras."


def said(resources: StackResources, now: StackStatus | None = None) -> list[str]:
    return describe_destroy("prod", resources, now).splitlines()


def state_of(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"version": 3, "deployment": {"resources": list(resources)}}


def test_all_is_read_from_the_state() -> None:
    found = parse_stack_resources(state_of(STACK, BUCKET, GROUP, CAT, DOG))
    states = {"cat": RunState.RUNNING, "dog": RunState.COMPLETED}
    assert found == StackResources(OUTPUTS, 5, "loras", False, ("flux",), states, 1.5)
    assert found.has_results


@pytest.mark.parametrize("state", [{}, {"deployment": None}, {"deployment": {"resources": None}}])
def test_an_empty_stack(state: dict[str, Any]) -> None:
    assert said(parse_stack_resources(state)) == ["Stack prod has no resources."]


def test_from_the_state_alone() -> None:
    assert said(parse_stack_resources(state_of(STACK, BUCKET, GROUP, CAT, DOG))) == [
        "This deletes all resources of stack prod, among them container group flux.",
        "It cancels the jobs that had not ended when the state was updated: cat.",
        "The jobs had used about $1.50 of GPU time by then.",
        STAY,
    ]


def test_after_a_failed_first_update() -> None:
    """The stack has no outputs yet, but a job may have been queued."""
    queued = resource("TrainingJob", "cat", status="pending")
    assert said(parse_stack_resources(state_of({**STACK, "outputs": {}}, BUCKET, GROUP, queued))) == [
        "This deletes all resources of stack prod, among them container group flux.",
        "It cancels the jobs that had not ended when the state was updated: cat.",
        STAY,
    ]


def test_with_deleted_results() -> None:
    deleting = resource("Bucket", "bucket", bucket="loras", results="delete")
    assert said(parse_stack_resources(state_of(STACK, deleting)))[-1] == (
        "It also deletes the trained weights and samples in the bucket loras (`results: delete` at the last `up`); "
        "those fetched to outputs/ stay."
    )


def row(name: str, state: RunState, spent: float | None) -> JobRow:
    job = StackJob(name, "0123456789ab", "", 300, Layout("").run(name, "0123456789ab"))
    return JobRow(JobStatus(job, state), 0.45, spent, "", "", "")


def test_what_the_services_say_is_newer_than_the_state() -> None:
    """The job `fox` is in the state only: the update that queued it failed later."""
    fox = resource("TrainingJob", "fox", status="pending")
    now = StackStatus([row("cat", RunState.COMPLETED, 2.25), row("dog", RunState.RUNNING, None)])
    assert said(parse_stack_resources(state_of(STACK, BUCKET, GROUP, CAT, DOG, fox)), now)[1:] == [
        "It cancels the jobs that have not ended: dog, fox.",
        "The jobs have used about $2.25 of GPU time so far.",
        STAY,
    ]
