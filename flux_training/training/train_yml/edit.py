"""Writes a new train.yml from the template."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from flux_training.training.train_yml.yaml_text import node_at, set_value

TEMPLATE = Path(__file__).with_name("train_template.yml")
PROCESS = ("config", "process", 0)
NO_VALUES: Mapping[str, str] = MappingProxyType({})
PROMPTS = (
    "[trigger]",
    "a photo of [trigger] outdoors in the morning sun",
    "[trigger] in the style of an oil painting",
    "[trigger] on a plain white background, studio light",
)


def new_train_yml(
    name: str, trigger: str, prompts: Sequence[str] = PROMPTS, values: Mapping[str, str] = NO_VALUES
) -> str:
    """A train.yml for a new job, from ai-toolkit's example for FLUX on 24 GB with the recipe's five changes.

    `values` maps keys below config.process[0], such as `train.lr`, to YAML that replaces the template's value.
    """
    text = TEMPLATE.read_text(encoding="utf-8")
    text = set_value(text, ("config", "name"), quoted(name))
    text = set_value(text, (*PROCESS, "trigger_word"), quoted(trigger))
    for key, value in values.items():
        path = (int(part) if part.isdecimal() else part for part in key.split("."))
        text = set_value(text, (*PROCESS, *path), value)
    return _with_prompts(text, prompts)


def training_values(
    steps: int | None, rank: int | None, lr: float | None, resolutions: Sequence[int]
) -> dict[str, str]:
    """The `values` for new_train_yml; what is None or empty keeps the template's value."""
    given: dict[str, object] = {
        "train.steps": steps,
        "network.linear": rank,
        "network.linear_alpha": rank,
        "train.lr": lr,
        "datasets.0.resolution": list(resolutions) or None,
    }
    return {key: str(value) for key, value in given.items() if value is not None}


def quoted(text: str) -> str:
    """The text in double quotes, for YAML."""
    return json.dumps(text, ensure_ascii=False)


def _with_prompts(text: str, prompts: Sequence[str]) -> str:
    """Replaces the template's one prompt by these, one per line."""
    path = (*PROCESS, "sample", "prompts", 0)
    node = node_at(text, path)
    assert node is not None  # noqa: S101 - the template has one prompt
    item = " " * (node.start_mark.column - 2) + "- "
    lines = f"\n{item}".join(quoted(prompt) for prompt in prompts)
    return text[: node.start_mark.index] + lines + text[node.end_mark.index :]
