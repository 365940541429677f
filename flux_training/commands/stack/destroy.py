"""What `flux destroy` will delete, in words: from the stack's state, and from its services if they answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flux_training.commands.stack.engine import without_unknown_outputs
from flux_training.commands.watch.watcher import StackStatus
from flux_training.training.bill import show_dollars
from flux_training.training.runs.run_state import RunState

STACK, BUCKET, GROUP, JOB = "pulumi:pulumi:Stack", "flux:Bucket", "flux:ContainerGroup", "flux:TrainingJob"


@dataclass(frozen=True)
class StackResources:
    """What is in the stack's state. `outputs` are those of its last complete update, empty if there was none.

    `jobs`: the state of each job when the state was updated. `spent`: dollars for their GPU time by then, if known.
    """

    outputs: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0
    bucket: str = ""
    deletes_results: bool = False
    groups: tuple[str, ...] = ()
    jobs: Mapping[str, RunState] = field(default_factory=dict)
    spent: float | None = None

    @property
    def has_results(self) -> bool:
        return RunState.COMPLETED in self.jobs.values()


def parse_stack_resources(state: Mapping[str, Any]) -> StackResources:
    """From what `stack export` prints."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {STACK: [], BUCKET: [], GROUP: [], JOB: []}
    resources = (state.get("deployment") or {}).get("resources") or []
    for one in resources:
        # The state contains the type of a dynamic resource in a form such as pulumi-python:dynamic/flux:Bucket.
        kind = str(one.get("type")).rpartition("/")[2]
        if kind in found:
            found[kind].append((str(one["urn"]).rpartition("::")[2], one.get("outputs") or {}))
    buckets = [outputs for _, outputs in found[BUCKET]]
    costs = [(outputs.get("cost") or {}).get("actualUsd") for _, outputs in found[JOB]]
    known = [cost for cost in costs if cost is not None]
    return StackResources(
        next((without_unknown_outputs(outputs) for _, outputs in found[STACK]), {}),
        len(resources),
        next((str(outputs.get("bucket") or "") for outputs in buckets), ""),
        any(outputs.get("results") == "delete" for outputs in buckets),
        tuple(str(outputs.get("name") or "") for _, outputs in found[GROUP]),
        {name: RunState(str(outputs.get("status"))) for name, outputs in found[JOB]},
        sum(known) if known else None,
    )


def describe_destroy(stack: str, resources: StackResources, now: StackStatus | None) -> str:
    """`now`: what the services say; None if they do not answer, or no update has been completed."""
    if not resources.count:
        return f"Stack {stack} has no resources."
    groups = ", ".join(resources.groups)
    among = f", among them container group {groups}" if groups else ""
    lines = [f"This deletes all resources of stack {stack}{among}."]
    statuses = {row.name: row.status for row in now.rows} if now else {}
    unfinished = [name for name, status in statuses.items() if not status.has_ended]
    unfinished += [
        name for name, state in resources.jobs.items() if name not in statuses and not state.has_ended
    ]
    spent = now.spent if now else resources.spent
    if unfinished:
        which = "have not ended" if now else "had not ended when the state was updated"
        lines.append(f"It cancels the jobs that {which}: {', '.join(unfinished)}.")
    if spent is not None:
        when = "have used about {} of GPU time so far" if now else "had used about {} of GPU time by then"
        lines.append(f"The jobs {when.format(show_dollars(spent))}.")
    return "\n".join([*lines, *_describe_results(resources)])


def _describe_results(resources: StackResources) -> list[str]:
    if not resources.bucket:
        return []
    if not resources.deletes_results:
        return [f"Trained weights stay in the bucket {resources.bucket}."]
    return [
        f"It also deletes the trained weights and samples in the bucket {resources.bucket} "
        "(`results: delete` at the last `up`); those fetched to outputs/ stay."
    ]
