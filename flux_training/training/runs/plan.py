"""What an update would do, in words a reviewer understands: made from a preview's steps and what lies in the bucket. Pure.

`preview --json` of either engine has the same form: `steps`, each with `op`, `urn`, `oldState` and `newState` (with `inputs` and
`outputs`), and `diagnostics`. A replacement is several steps on one URN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from flux_training.training.cost import Bill, Line
from flux_training.training.finding import LintReport
from flux_training.training.runs.changes import Changes
from flux_training.training.runs.run_state import RunState
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
# What holds others together, or tells Pulumi where they are: nothing becomes of it that its parts do not tell. DeclaredRuns repeats the jobs.
NOT_TOLD = ("pulumi:", "flux:index:")
BOOKKEEPING = {"DeclaredRuns"}
OPS = {"create": "is made", "update": "is changed", "replace": "is made anew", "delete": "is taken down"}


class What(StrEnum):
    """What becomes of a job, in the order of a plan."""

    NEW = "new"
    AGAIN = "again"
    CANCELED = "canceled"
    REMOVED = "removed"
    ADOPTED = "taken over"
    FAILED = "failed before"
    RUNNING = "goes on"
    KEPT = "kept"


@dataclass(frozen=True)
class Step:
    """All steps on one URN as one. `old` and `new` are the resource's properties, inputs over outputs; empty where it is not there."""

    urn: str
    kind: str
    name: str
    op: str
    old: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upload:
    """Bytes and images that go to the bucket; `copied` images lie there already in another dataset."""

    bytes: int = 0
    images: int = 0
    copied: int = 0


@dataclass(frozen=True)
class JobPlan:
    """What becomes of one job. `previous` is the run that the state or the bucket knows of, `dataset` that run's digest."""

    name: str
    what: What
    run_id: str = ""
    reasons: tuple[str, ...] = ()
    images: int = 0
    changes: Changes = field(default_factory=Changes)
    line: Line | None = None
    previous: str = ""
    dataset: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Plan:
    """`problems`: why `up` would fail before anything is made; then there is no more than these and what lint found."""

    stack: str
    jobs: tuple[JobPlan, ...] = ()
    cluster: tuple[str, ...] = ()
    bill: Bill | None = None
    upload: Upload = Upload()
    lint: LintReport | None = None
    problems: tuple[str, ...] = ()
    local: bool = False

    def of(self, *kinds: What) -> list[JobPlan]:
        return [job for job in self.jobs if job.what in kinds]

    @property
    def changed(self) -> list[JobPlan]:
        """The jobs that anything happens to."""
        return [job for job in self.jobs if job.what not in (What.KEPT, What.RUNNING)]


def read_steps(preview: Mapping[str, Any]) -> list[Step]:
    """The preview's steps on whatever is made, paid for or restarted, one for each URN: also on kinds that have no name here."""
    by_urn: dict[str, list[Mapping[str, Any]]] = {}
    for step in preview.get("steps") or []:
        by_urn.setdefault(str(mapping(step).get("urn", "")), []).append(mapping(step))
    return [step for urn, steps in by_urn.items() if (step := _merged(urn, steps)) is not None]


def _merged(urn: str, steps: Sequence[Mapping[str, Any]]) -> Step | None:
    qualified, _, name = urn.rpartition("::")
    type_ = qualified.rpartition("::")[2].rpartition("$")[2]
    kind = type_.rpartition(":")[2]
    if type_.startswith(NOT_TOLD) or kind in BOOKKEEPING:
        return None
    ops = {str(step.get("op")) for step in steps}
    op = "replace" if ops & REPLACING else "delete" if ops & GONE else next(iter(sorted(ops)))
    old = next((_properties(step["oldState"]) for step in steps if step.get("oldState")), {})
    new = next((_properties(step["newState"]) for step in steps if step.get("newState")), {})
    changed = {
        str(key) for step in steps for key in step.get("diffReasons") or step.get("replaceReasons") or ()
    }
    return Step(urn, kind, name, op, old, {} if op == "delete" else new, tuple(sorted(changed)))


def _properties(state: Any) -> dict[str, Any]:
    return {**mapping(mapping(state).get("outputs")), **mapping(mapping(state).get("inputs"))}


def messages(preview: Mapping[str, Any], severity: str) -> tuple[str, ...]:
    """The diagnostics of one severity, each once."""
    found = [mapping(entry) for entry in preview.get("diagnostics") or []]
    texts = [str(entry.get("message", "")).strip() for entry in found if entry.get("severity") == severity]
    return tuple(dict.fromkeys(text for text in texts if text))


def plan_job(
    step: Step, state: RunState | None, past: Changes | None, line: Line | None, old_unfinished: bool
) -> JobPlan:
    """What becomes of a job. `standing` is that of its new run; `past` what differs from its last run, None when it has none."""
    old_run, new_run = str(step.old.get("runId") or ""), str(step.new.get("runId") or "")
    job = JobPlan(
        step.name,
        What.REMOVED,
        new_run,
        ("its results stay in the bucket",),
        changes=past or Changes(),
        previous=old_run,
        dataset=str(step.old.get("digest") or ""),
        folder=str(step.new.get("folder") or ""),
    )
    if step.op == "delete":
        left = f"run {old_run} is taken out of the queue; what it has saved stays in the bucket"
        return replace(job, what=What.CANCELED, reasons=(left,)) if old_unfinished else job
    what, reasons = _fate(step, state, past)
    if old_unfinished and old_run != new_run:
        reasons = (*reasons, f"its unfinished run {old_run} is canceled")
    paid = line if what in (What.NEW, What.AGAIN, What.RUNNING) else None
    return replace(job, what=what, reasons=reasons, line=paid)


def in_order(jobs: Iterable[JobPlan]) -> tuple[JobPlan, ...]:
    """New and repeated ones first, unchanged ones last; by name within each."""
    order = list(What)
    return tuple(sorted(jobs, key=lambda job: (order.index(job.what), job.name)))


def _fate(step: Step, state: RunState | None, past: Changes | None) -> tuple[What, tuple[str, ...]]:
    if step.op in ("same", "update", "refresh"):
        status = str(step.old.get("status") or "")
        stopped = bool(status) and RunState(status).has_ended and status != RunState.COMPLETED
        if stopped and state is not RunState.COMPLETED:
            why = str(step.old.get("reason") or status)
            return What.FAILED, (f"{why}; it is not queued again by itself: set `attempt` for that",)
        return (What.RUNNING, ()) if state and state.is_queued else (What.KEPT, ())
    if state is RunState.COMPLETED:
        return What.ADOPTED, ("this run is finished already: its results are taken over, nothing is trained",)
    if state and state.is_queued and step.op == "create":
        return What.RUNNING, ("its run is in the queue already",)
    if state and not state.needs_gpu:
        return What.FAILED, (
            "this run failed before and is not queued again by itself: set `attempt` for that",
        )
    if past is None:
        return What.NEW, ("trained for the first time",)
    return What.AGAIN, past.reasons or ("its container group is made anew, so it is queued again",)


def cluster_lines(steps: Iterable[Step]) -> tuple[str, ...]:
    """`container group is changed: gpu`, for what is no job and no dataset; `BucketPolicy only-https is made` of what has no name here."""
    found = []
    for step in steps:
        if step.kind in (JOB_TYPE, DATASET_TYPE) or step.op not in OPS:
            continue
        what = f": {', '.join(step.changed)}" if step.changed and step.op != "create" else ""
        found.append(f"{KINDS.get(step.kind, f'{step.kind} {step.name}')} {OPS[step.op]}{what}")
    return tuple(found)


def headline(plan: Plan) -> str:
    """`1 job is trained for the first time, 2 again; 3 stay as they are`."""
    told: list[tuple[tuple[What, ...], Callable[[int], str]]] = [
        ((What.NEW,), lambda n: f"{counted(n, 'job')} trained for the first time"),
        ((What.AGAIN,), lambda n: f"{n} trained again"),
        ((What.CANCELED,), lambda n: f"{n} canceled"),
        ((What.REMOVED,), lambda n: f"{n} taken out"),
        ((What.ADOPTED,), lambda n: f"{n} taken over"),
        ((What.FAILED,), lambda n: f"{n} failed before"),
        ((What.RUNNING,), lambda n: f"{n} in the queue already"),
        ((What.KEPT,), lambda n: f"{n} unchanged"),
    ]
    parts = [words(number) for kinds, words in told if (number := len(plan.of(*kinds)))]
    return ", ".join(parts) or "no job is declared"
