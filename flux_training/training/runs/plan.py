"""What an update would do, in words for a reviewer, from a preview's steps and the bucket's contents. Pure.

Both engines' `preview --json` have the same form: `steps`, each with `op`, `urn`, `oldState` and `newState` (with `inputs` and
`outputs`), and `diagnostics`. A replacement is several steps on one URN.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from flux_training.training.budget.limits import WaitingJob
from flux_training.training.cost import Line, StackBill
from flux_training.training.finding import LintReport
from flux_training.training.runs.changes import Changes
from flux_training.training.runs.run_state import RunState
from flux_training.training.runs.variants import Variants
from flux_training.training.values import mapping
from flux_training.training.words import counted

JOB_TYPE = "TrainingJob"
DATASET_TYPE = "Dataset"
REPLACING = {"replace", "create-replacement", "delete-replaced"}
GONE = {"delete", "discard"}
KINDS = {
    "Bucket": "bucket",
    "ContainerGroup": "container group",
    "ScalingRule": "scaling rule",
    "DevGroup": "dev container group",
    "NodeKeys": "key of the nodes",
    DATASET_TYPE: "dataset",
}
# If a stack has several clusters, the names of these resources end with
# the cluster's name (components/pipeline.py).
OF_CLUSTERS = {"ContainerGroup", "ScalingRule"}
# Text properties whose old and new values a preview shows. Numbers are always shown.
SHOWN = {"gpu", "image", "priority"}
LIMIT_NOTE = " (at most one replica per declared job)"
# A preview does not list components and providers, only the resources in them. DeclaredRuns
# would repeat the jobs.
HIDDEN_TYPES = ("pulumi:", "flux:index:")
BOOKKEEPING = {"DeclaredRuns"}
OPS = {"create": "is created", "update": "is changed", "replace": "is replaced", "delete": "is deleted"}


class PlannedAction(StrEnum):
    """What happens to a job, in the order of a plan."""

    NEW = "new"
    AGAIN = "again"
    WAITS = "waits"
    CANCELED = "canceled"
    REMOVED = "removed"
    ADOPTED = "taken over"
    FAILED = "failed before"
    RUNNING = "goes on"
    KEPT = "kept"


@dataclass(frozen=True)
class ResourceChange:
    """All steps on one URN. `old` and `new` are the resource's outputs and inputs; empty if it does not exist."""

    kind: str
    name: str
    op: str
    old: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    def describe_property_change(self, key: str) -> str:
        """`gpu RTX 4090 → RTX 5090`; only the key if its values may be secret, or are unknown."""
        old, new = self.old.get(key), self.new.get(key)
        is_shown = old != new and (key in SHOWN or type(old) is type(new) is int)
        change = f"{key} {old} → {new}" if is_shown and None not in (old, new) else key
        return f"{change}{LIMIT_NOTE}" if (self.kind, key) == ("ScalingRule", "maxReplicas") else change


@dataclass(frozen=True)
class Upload:
    """Bytes and images to upload; `copied` images are in the bucket already, in another dataset."""

    bytes: int = 0
    images: int = 0
    copied: int = 0


@dataclass(frozen=True)
class JobPlan:
    """What happens to one job. `previous` is its last run according to the state or the bucket, `dataset` that run's digest.

    `folder` is the job folder with its images, `images_of` that folder's name. `are_sent`: the bucket does not have these images yet.
    """

    name: str
    what: PlannedAction
    run_id: str = ""
    reasons: tuple[str, ...] = ()
    images: int = 0
    changes: Changes = field(default_factory=Changes)
    line: Line | None = None
    previous: str = ""
    dataset: str = ""
    folder: str = ""
    images_of: str = ""
    are_sent: bool = False


@dataclass(frozen=True)
class Plan:
    """`problems`: why `up` would fail before anything is created; the plan then has only these and lint's findings.

    `alarms`: what somebody changed in the bucket. `warnings`: about the stack's settings. `models`: what is trained, with licences.
    `variants`: jobs with the same images, and what differs between them.
    """

    stack: str
    jobs: tuple[JobPlan, ...] = ()
    cluster: tuple[str, ...] = ()
    bill: StackBill | None = None
    upload: Upload = Upload()
    lint: LintReport | None = None
    problems: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    variants: tuple[Variants, ...] = ()
    local: bool = False

    def of(self, *kinds: PlannedAction) -> list[JobPlan]:
        return [job for job in self.jobs if job.what in kinds]

    @property
    def changed(self) -> list[JobPlan]:
        """The jobs that are not left alone."""
        return [job for job in self.jobs if job.what not in (PlannedAction.KEPT, PlannedAction.RUNNING)]


def read_resource_changes(preview: Mapping[str, Any]) -> list[ResourceChange]:
    """The preview's changes of real resources, one per URN."""
    by_urn: dict[str, list[Mapping[str, Any]]] = {}
    for step in preview.get("steps") or []:
        by_urn.setdefault(str(mapping(step).get("urn", "")), []).append(mapping(step))
    return [
        step for urn, steps in by_urn.items() if (step := _merge_replacement_steps(urn, steps)) is not None
    ]


def _merge_replacement_steps(urn: str, steps: Sequence[Mapping[str, Any]]) -> ResourceChange | None:
    qualified, _, name = urn.rpartition("::")
    type_ = qualified.rpartition("::")[2].rpartition("$")[2]
    kind = type_.rpartition(":")[2]
    if type_.startswith(HIDDEN_TYPES) or kind in BOOKKEEPING:
        return None
    ops = {str(step.get("op")) for step in steps}
    op = "replace" if ops & REPLACING else "delete" if ops & GONE else next(iter(sorted(ops)))
    old = next((_properties(step["oldState"]) for step in steps if step.get("oldState")), {})
    new = next((_properties(step["newState"]) for step in steps if step.get("newState")), {})
    changed = {
        str(key) for step in steps for key in step.get("diffReasons") or step.get("replaceReasons") or ()
    }
    return ResourceChange(kind, name, op, old, {} if op == "delete" else new, tuple(sorted(changed)))


def _properties(state: Any) -> dict[str, Any]:
    return {**mapping(mapping(state).get("outputs")), **mapping(mapping(state).get("inputs"))}


def diagnostics_of(preview: Mapping[str, Any], severity: str) -> tuple[str, ...]:
    """The diagnostics of one severity, without duplicates."""
    found = [mapping(entry) for entry in preview.get("diagnostics") or []]
    texts = [str(entry.get("message", "")).strip() for entry in found if entry.get("severity") == severity]
    return tuple(dict.fromkeys(text for text in texts if text))


def plan_job(
    step: ResourceChange,
    state: RunState | None,
    past: Changes | None,
    line: Line | None,
    old_unfinished: bool,
) -> JobPlan:
    """What happens to a job. `state` is its new run's; `past` is what differs from its last run, None if there is none."""
    old_run, new_run = str(step.old.get("runId") or ""), str(step.new.get("runId") or "")
    job = JobPlan(
        step.name,
        PlannedAction.REMOVED,
        new_run,
        ("its results stay in the bucket",),
        changes=past or Changes(),
        previous=old_run,
        dataset=str(step.old.get("digest") or ""),
    )
    if step.op == "delete":
        left = f"run {old_run} is removed from the queue; its checkpoints stay in the bucket"
        return replace(job, what=PlannedAction.CANCELED, reasons=(left,)) if old_unfinished else job
    what, reasons = _action(step, state, past)
    if old_unfinished and old_run != new_run:
        reasons = (*reasons, f"its unfinished run {old_run} is canceled")
    paid = line if what in (PlannedAction.NEW, PlannedAction.AGAIN, PlannedAction.RUNNING) else None
    return replace(job, what=what, reasons=reasons, line=paid)


def waiting_plan(job: WaitingJob, removed: JobPlan | None) -> JobPlan:
    """A job that waits for the budget. `removed`: what happens to its earlier run, which the update leaves out; None without one."""
    if removed is None or removed.what is not PlannedAction.CANCELED:
        return JobPlan(job.name, PlannedAction.WAITS, reasons=(job.why,))
    return replace(removed, what=PlannedAction.WAITS, reasons=(job.why, *removed.reasons))


def in_order(jobs: Iterable[JobPlan]) -> tuple[JobPlan, ...]:
    """By action, new jobs first and unchanged ones last, then by name."""
    order = list(PlannedAction)
    return tuple(sorted(jobs, key=lambda job: (order.index(job.what), job.name)))


def _action(
    step: ResourceChange, state: RunState | None, past: Changes | None
) -> tuple[PlannedAction, tuple[str, ...]]:
    if step.op in ("same", "update", "refresh"):
        status = str(step.old.get("status") or "")
        stopped = bool(status) and RunState(status).has_ended and status != RunState.COMPLETED
        if stopped and state is not RunState.COMPLETED:
            why = str(step.old.get("reason") or status)
            return PlannedAction.FAILED, (
                f"{why}; it is not queued again automatically: raise `attempt` to retry",
            )
        return (PlannedAction.RUNNING, _move(step)) if state and state.is_queued else (PlannedAction.KEPT, ())
    if state is RunState.COMPLETED:
        return PlannedAction.ADOPTED, (
            "this run has already finished: its results are adopted, nothing is trained",
        )
    if state and state.is_queued and step.op == "create":
        return PlannedAction.RUNNING, ("its run is already in the queue",)
    if move := _move(step):
        return PlannedAction.AGAIN, (*(past.reasons if past else ()), *move)
    if state and not state.needs_gpu:
        return PlannedAction.FAILED, (
            "this run failed before and is not queued again automatically: raise `attempt` to retry",
        )
    if past is None:
        return PlannedAction.NEW, ("trained for the first time",)
    return PlannedAction.AGAIN, past.reasons or ("its container group is replaced, so it is queued again",)


def _move(step: ResourceChange) -> tuple[str, ...]:
    """That an unfinished run moves to another container group; empty if it does not."""
    old, new = step.old.get("groupName"), step.new.get("groupName")
    if not (old and new) or old == new or step.old.get("runId") != step.new.get("runId"):
        return ()
    return (
        f"it moves from container group {old} to {new}: its job is canceled, also if it is running, and queued there, "
        "where it continues from its last checkpoint",
    )


def describe_resource_changes(steps: Iterable[ResourceChange]) -> tuple[str, ...]:
    """One line per resource that is neither a job nor a dataset: `container group is changed: gpu`."""
    found = []
    for step in steps:
        if step.kind in (JOB_TYPE, DATASET_TYPE) or step.op not in OPS:
            continue
        what = (
            f": {', '.join(map(step.describe_property_change, step.changed))}"
            if step.changed and step.op != "create"
            else ""
        )
        cluster = step.name.partition("-")[2] if step.kind in OF_CLUSTERS else ""
        kind = KINDS.get(step.kind, f"{step.kind} {step.name}") + (
            f" of cluster {cluster}" if cluster else ""
        )
        found.append(f"{kind} {OPS[step.op]}{what}")
    return tuple(found)


def plan_headline(plan: Plan) -> str:
    """`1 job trained for the first time, 2 trained again, 3 unchanged`."""
    phrases: list[tuple[tuple[PlannedAction, ...], Callable[[int], str]]] = [
        ((PlannedAction.NEW,), lambda n: f"{counted(n, 'job')} trained for the first time"),
        ((PlannedAction.AGAIN,), lambda n: f"{n} trained again"),
        ((PlannedAction.WAITS,), lambda n: f"{n} waiting for the budget"),
        ((PlannedAction.CANCELED,), lambda n: f"{n} canceled"),
        ((PlannedAction.REMOVED,), lambda n: f"{n} removed"),
        ((PlannedAction.ADOPTED,), lambda n: f"{n} adopted"),
        ((PlannedAction.FAILED,), lambda n: f"{n} failed before"),
        ((PlannedAction.RUNNING,), lambda n: f"{n} already in the queue"),
        ((PlannedAction.KEPT,), lambda n: f"{n} unchanged"),
    ]
    parts = [words(number) for kinds, words in phrases if (number := len(plan.of(*kinds)))]
    return ", ".join(parts) or "no job is declared"
