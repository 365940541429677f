"""Going on from an earlier run: its newest sound checkpoint, copied inside the bucket."""

from __future__ import annotations

from clients.results import weights_header
from clients.storage import ObjectInfo, Storage
from training.errors import FluxError
from training.run import RunKeys
from training.weights import WeightsHeader

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


def newest_sound(storage: Storage, keys: RunKeys) -> tuple[str, int] | None:
    """(key, step) of the run's checkpoint with the most steps among those that are whole."""
    files = [item for item in storage.list(keys.output) if "/" not in item.key.removeprefix(keys.output)]
    sound = [
        (item.key, header.step)
        for item in files
        if item.key.endswith(".safetensors")
        and (header := _sound_header(storage, item)) is not None
        and header.step is not None
    ]
    return max(sound, key=lambda found: found[1], default=None)


def _sound_header(storage: Storage, item: ObjectInfo) -> WeightsHeader | None:
    try:
        header = weights_header(storage, item.key)
    except ValueError:
        return None
    return header if header.tensors and header.data_end == item.size else None
