"""The pictures a run drew: which prompt, after how many steps. ai-toolkit names them `<ms>__<step>_<prompt's number>.jpg`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.train_yml.document import first_process

# Both stand for the trigger word: inject_trigger_into_prompt of ai-toolkit's toolkit/prompt_utils.py.
PLACEHOLDERS = ("[trigger]", "[name]")
NAME = re.compile(r"(\d{1,19})__(\d{1,12})_(\d{1,4})\.(?:jpe?g|png|webp)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """`prompt` counts from 0."""

    name: str
    step: int
    prompt: int


def sample_grid(names: Iterable[str]) -> dict[int, dict[int, Sample]]:
    """By prompt, then by step. A step drawn again after a restart shows its newest picture; other files are left out."""
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


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    if most < 2:
        return list(steps[-most:]) if most else []
    last = len(steps) - 1
    return [steps[round(index * last / (most - 1))] for index in range(most)]


def prompts_of(document: Mapping[str, Any]) -> list[str]:
    """The prompts of a train.yml as the trainer reads them, with the trigger word in its place; none when it has none."""
    process = first_process(document)
    sample = process.get("sample")
    if not isinstance(sample, Mapping):
        return []
    entries = sample.get("prompts") or sample.get("samples") or []
    trigger = str(process.get("trigger_word") or "")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        text = entry.get("prompt", "") if isinstance(entry, Mapping) else entry
        # Without a trigger word the trainer draws them as they stand.
        for placeholder in PLACEHOLDERS if trigger else ():
            text = str(text).replace(placeholder, trigger)
        found.append(str(text))
    return found
