"""Augmentations of a dataset: methods of albumentations, which ai-toolkit creates with `params` for each image (toolkit/dataloader_mixins.py).

augmentations.json has the parameters of each method of albumentations 1.4.15, the version that ai-toolkit requires, and whether they must be given.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from flux_training.training.words import nearest

METHODS: dict[str, dict[str, bool]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)


def augmentation_faults(augmentation: Mapping[str, object]) -> Iterator[str]:
    """What albumentations would stop at in one entry of `augmentations`."""
    method, params = augmentation.get("method"), augmentation.get("params", {})
    known = METHODS.get(method) if isinstance(method, str) else None
    if known is None:
        yield f"albumentations has no method {method!r}{nearest(str(method or ''), METHODS)}"
    elif not isinstance(params, Mapping):
        yield f"params of {method} is {params!r}: must be a section with keys of its own"
    else:
        yield from (
            f"{method} has no parameter {key}{nearest(str(key), known)}" for key in params.keys() - known
        )
        missing = [key for key, is_needed in known.items() if is_needed and key not in params]
        yield from (f"{method} needs the parameter {key}" for key in missing)
