"""The sample images of a run, by prompt and step. ai-toolkit names them `<ms>__<step>_<prompt's index>.jpg`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.names import PLACEHOLDERS
from flux_training.training.train_yml.document import first_process
from flux_training.training.values import count, number

NAME = re.compile(r"(\d{1,19})__(\d{1,12})_(\d{1,4})\.(?:jpe?g|png|webp)", re.ASCII | re.IGNORECASE)
# Expanding a prompt of this length with the longest trigger word gives a few megabytes at most.
MAX_PROMPT_LENGTH = 10_000
MAX_TRIGGER_LENGTH = 1000
MAX_PROMPTS = 200


@dataclass(frozen=True)
class Sample:
    """One sample image. `prompt` counts from 0."""

    name: str
    step: int
    prompt: int


def sample_grid(names: Iterable[str]) -> dict[int, dict[int, Sample]]:
    """Samples by prompt, then by step. If a step was repeated after a restart, the newest image counts; other files are ignored."""
    newest: dict[tuple[int, int], tuple[int, Sample]] = {}
    for name in names:
        match = NAME.fullmatch(name)
        if not match:
            continue
        milliseconds, step, prompt = (int(part) for part in match.groups())
        place = (prompt, step)
        if place not in newest or newest[place][0] < milliseconds:
            newest[place] = (milliseconds, Sample(name, step, prompt))
    grid: dict[int, dict[int, Sample]] = {}
    for (prompt, step), (_, sample) in sorted(newest.items()):
        grid.setdefault(prompt, {})[step] = sample
    return grid


def spread_evenly(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the steps, evenly spaced, including the first and the last."""
    if len(steps) <= limit:
        return list(steps)
    if limit < 2:
        return list(steps[-limit:]) if limit else []
    last = len(steps) - 1
    return [steps[round(index * last / (limit - 1))] for index in range(limit)]


def prompts_of(document: Mapping[str, Any]) -> list[str]:
    """The sample prompts of a train.yml, with the trigger word filled in as the trainer does. `samples` counts more than `prompts`."""
    trigger = str(first_process(document).get("trigger_word") or "")[:MAX_TRIGGER_LENGTH]
    found = []
    for entry in _entries(_sample_section(document)):
        text = entry.get("prompt", "") if isinstance(entry, Mapping) else entry
        text = str(text)[:MAX_PROMPT_LENGTH]
        # Without a trigger word, the trainer does not replace the placeholders.
        for placeholder in PLACEHOLDERS if trigger else ():
            text = text.replace(placeholder, trigger)
        found.append(text)
    return found


def sample_settings(document: Mapping[str, Any]) -> list[str]:
    """The seed and guidance of each prompt as far as train.yml sets them, such as `seed 42, guidance 4`."""
    section = _sample_section(document)
    found = []
    for index, entry in enumerate(_entries(section)):
        own = entry if isinstance(entry, Mapping) else {}
        seed = own["seed"] if "seed" in own else _walked_seed(section, index)
        values = {"seed": seed, "guidance": own.get("guidance_scale", section.get("guidance_scale"))}
        found.append(
            ", ".join(f"{name} {value}" for name, value in values.items() if number(value) is not None)
        )
    return found


def _walked_seed(section: Mapping[str, Any], index: int) -> object:
    """With `walk_seed`, each prompt has the seed after that of the prompt before it."""
    seed = count(section.get("seed"))
    return seed + index if seed is not None and section.get("walk_seed") is True else seed


def _sample_section(document: Mapping[str, Any]) -> Mapping[str, Any]:
    section = first_process(document).get("sample")
    return section if isinstance(section, Mapping) else {}


def _entries(section: Mapping[str, Any]) -> list[Any]:
    entries = section.get("samples") if "samples" in section else section.get("prompts")
    return entries[:MAX_PROMPTS] if isinstance(entries, list) else []
