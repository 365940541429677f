"""All lint rules by code, in the order of docs/lint.md. A new area has to be added to AREAS."""

from flux_training.training.lint.registry import Rule
from flux_training.training.lint.rules import (
    captions,
    conflicts,
    file_names,
    git,
    images,
    keys,
    memory,
    models,
    options,
    pairs,
    recipe,
    secrets,
    stack,
    videos,
)

AREAS = (
    stack.AREA,
    file_names.AREA,
    git.AREA,
    images.AREA,
    videos.AREA,
    captions.AREA,
    pairs.AREA,
    recipe.AREA,
    keys.AREA,
    conflicts.AREA,
    models.AREA,
    options.AREA,
    memory.AREA,
    secrets.AREA,
)
RULES: dict[str, Rule] = {rule.code: rule for area in AREAS for rule in area.rules}
NEEDED = tuple(rule for rule in RULES.values() if rule.needed)
