"""Which earlier run of a job a `resume: true` goes on from. Decided from what lies in the bucket, so that it stays decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flux_training.training.errors import BadInput
from flux_training.training.runs.run import run_id


@dataclass(frozen=True)
class PastRun:
    """A run as its run.json tells it; `created_at` in ISO 8601, UTC."""

    run_id: str
    created_at: str


def made_before(run_of: Callable[[str | None], str], past: Iterable[PastRun]) -> tuple[bool, str | None]:
    """(True, its parent) when the declared run is among the past ones already, else (False, None).

    `run_of` gives the run id the declaration has with a parent. Without this a run would become its own successor.
    """
    ids = [run.run_id for run in past]
    for parent in (None, *ids):
        if run_of(parent) in ids:
            return True, parent
    return False, None


def choose_parent(
    job: str, steps: int, past: Sequence[PastRun], newest_checkpoint: Callable[[str], int | None]
) -> str | None:
    """The newest run that left a sound checkpoint; None when none did, then training starts from nothing.

    `newest_checkpoint` tells the step of a run's newest sound checkpoint. Raises BadInput when no step would be left.
    """
    for run in sorted(past, key=lambda run: (run.created_at, run.run_id), reverse=True):
        step = newest_checkpoint(run.run_id)
        if step is None:
            continue
        if step >= steps:
            raise BadInput(
                [
                    f"job `{job}`: `resume: true` would go on from step {step} of run {run.run_id}, but train.steps is {steps}; "
                    "raise train.steps"
                ]
            )
        return run.run_id
    return None


def declared_run(manifest: bytes, raw_config: bytes, attempt: int) -> Callable[[str | None], str]:
    """The run ids a declaration has, by parent."""
    return lambda parent: run_id(manifest, raw_config, attempt, parent)
