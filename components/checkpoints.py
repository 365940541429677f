"""Continuing from an earlier run: its newest valid checkpoint is copied inside the bucket."""

from __future__ import annotations

from flux_training.clients.results import newest_sound
from flux_training.clients.storage import Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys

OPTIMIZER = "optimizer.pt"


def copy_checkpoint(storage: Storage, parent: RunKeys, keys: RunKeys) -> int:
    """Copy the parent's newest valid checkpoint to the run's output/, unless that has one already; its step.

    ai-toolkit finds it by its name (`<job>_000001000.safetensors`). Raises FluxError if the parent has none.
    """
    present = newest_sound(storage, keys)
    if present is not None:
        return present[1]
    found = newest_sound(storage, parent)
    if found is None:
        raise FluxError(
            f"{keys.job}: there is no valid checkpoint below {parent.output} any more",
            "a resumed run continues from one",
            "remove `resume` to train from the start",
        )
    source, step = found
    if storage.head(parent.output + OPTIMIZER) is not None:
        storage.copy(parent.output + OPTIMIZER, keys.output + OPTIMIZER)
    storage.copy(source, f"{keys.output}{keys.job}_{step:09}.safetensors")
    return step
