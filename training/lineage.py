"""Which earlier run of a job a `resume: true` goes on from. Decided from what lies in the bucket, so that it stays decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.run import run_id


@dataclass(frozen=True)
class PastRun:
    """A run as its run.json tells it; `created_at` in ISO 8601, UTC."""

    run_id: str
    created_at: str


def choose_parent(manifest: bytes, raw_config: bytes, attempt: int, past: Sequence[PastRun]) -> str | None:
    """The parent's run id, or None when the job has no run yet.

    A run that was already made from one of them keeps its parent: otherwise it would become its own successor at the next `up`.
    """
    ids = {run.run_id for run in past}
    newest_first = sorted(past, key=lambda run: (run.created_at, run.run_id), reverse=True)
    for run in newest_first:
        if run_id(manifest, raw_config, attempt, run.run_id) in ids:
            return run.run_id
    return newest_first[0].run_id if newest_first else None
