"""Going on from an earlier run: its newest sound checkpoint, copied inside the bucket."""

from __future__ import annotations

from flux_training.clients.results import newest_sound
from flux_training.clients.storage import Storage
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import RunKeys

OPTIMIZER = "optimizer.pt"


def bring_checkpoint(storage: Storage, parent: RunKeys, keys: RunKeys) -> int:
    """Copy the parent's newest sound checkpoint below the run's output/, unless that has one already; its step.

    Named as ai-toolkit names checkpoints (`<job>_000001000.safetensors`), so that it is found there. Raises FluxError when the
    parent has none (any more).
    """
    present = newest_sound(storage, keys)
    if present is not None:
        return present[1]
    found = newest_sound(storage, parent)
    if found is None:
        raise FluxError(
            f"{keys.job}: no sound checkpoint lies below {parent.output} any more",
            "a resumed run goes on from one",
            "take `resume` out to train from the start",
        )
    source, step = found
    if storage.head(parent.output + OPTIMIZER) is not None:
        storage.copy(parent.output + OPTIMIZER, keys.output + OPTIMIZER)
    storage.copy(source, f"{keys.output}{keys.job}_{step:09}.safetensors")
    return step
