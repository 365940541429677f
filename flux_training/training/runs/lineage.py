"""Which earlier run `resume: true` continues. The decision depends only on the bucket, so it stays the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flux_training.training.errors import BadInput


@dataclass(frozen=True)
class PastRun:
    """A run that the stack has queued; `created_at` is in ISO 8601, UTC, or empty if nothing says when that was."""

    run_id: str
    created_at: str


def made_before(run_of: Callable[[str | None], str], past: Iterable[PastRun]) -> tuple[bool, str | None]:
    """(True, its parent) if the declared run is among the past ones, otherwise (False, None).

    `run_of` returns the declaration's run id for a parent. Without this check a run would continue itself.
    """
    ids = [run.run_id for run in past]
    for parent in (None, *ids):
        if run_of(parent) in ids:
            return True, parent
    return False, None


def choose_parent(
    job: str, steps: int, past: Sequence[PastRun], newest_checkpoint: Callable[[str], int | None]
) -> str | None:
    """The newest run with a valid checkpoint; None if there is none and training starts from scratch.

    `newest_checkpoint` returns the step of a run's newest valid checkpoint. Raises BadInput if no step would be left.
    """
    for run in sorted(past, key=lambda run: (run.created_at, run.run_id), reverse=True):
        step = newest_checkpoint(run.run_id)
        if step is None:
            continue
        if step >= steps:
            raise BadInput(
                [
                    f"job `{job}`: `resume: true` would continue from step {step} of run {run.run_id}, but train.steps is {steps}; "
                    "raise train.steps"
                ]
            )
        return run.run_id
    return None
