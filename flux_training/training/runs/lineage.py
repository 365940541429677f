"""Which earlier run `resume: true` continues. The decision depends only on the bucket, so it stays the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flux_training.training.errors import BadInput


@dataclass(frozen=True)
class PastRun:
    """A run that the stack has queued; `created_at` is in ISO 8601, UTC, or empty if nothing says when that was."""

    run_id: str
    created_at: str


def find_past_run(run_of: Callable[[str | None], str], past: Iterable[PastRun]) -> tuple[bool, str | None]:
    """(True, its parent) if the declared run is among the past ones, otherwise (False, None).

    `run_of` returns the declaration's run id for a parent. Without this check a run would continue itself.
    """
    ids = [run.run_id for run in past]
    for parent in (None, *ids):
        if run_of(parent) in ids:
            return True, parent
    return False, None


@dataclass(frozen=True)
class Checkpoints:
    """A run's valid checkpoints: the steps of the newest one, and of the newest before the last step of the run that would continue.

    None if there is none. `has_finished`: whether its result is known to be its own; a node can write the other checkpoints.
    """

    newest: int | None = None
    usable: int | None = None
    has_finished: bool = False


@dataclass(frozen=True)
class Parent:
    """`run_id` is None if training starts from scratch. `finding`: which checkpoints are not continued from; empty if there are none."""

    run_id: str | None = None
    finding: str = ""


def choose_parent(
    job: str, steps: int, past: Sequence[PastRun], checkpoints_of: Callable[[str], Checkpoints]
) -> Parent:
    """The newest run with a valid checkpoint that leaves steps to train. Raises BadInput if it has finished and leaves none."""
    finding = ""
    for run in sorted(past, key=lambda run: (run.created_at, run.run_id), reverse=True):
        found = checkpoints_of(run.run_id)
        if found.newest is None:
            continue
        if found.newest >= steps:
            if found.has_finished:
                raise BadInput([_describe_no_step_left(job, steps, run.run_id, found.newest)])
            finding = finding or _describe_unverified_checkpoint(job, steps, run.run_id, found.newest)
        if found.usable is not None:
            return Parent(run.run_id, finding)
    return Parent(None, finding)


def _describe_no_step_left(job: str, steps: int, run: str, step: int) -> str:
    return (
        f"job `{job}`: `resume: true` would continue from step {step} of run {run}, but train.steps is {steps}; "
        "raise train.steps"
    )


def _describe_unverified_checkpoint(job: str, steps: int, run: str, step: int) -> str:
    return (
        f"{job}: `resume: true` does not continue from step {step} of run {run}, because train.steps is {steps} and nothing shows "
        "that this run has finished: somebody may have written that checkpoint; if it is yours, raise train.steps"
    )
