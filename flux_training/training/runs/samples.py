"""The sample images of a run, by prompt and step. ai-toolkit names them `<ms>__<step>_<prompt's index>.jpg`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_training.training.names import PLACEHOLDERS
from flux_training.training.train_yml.document import first_process

NAME = re.compile(r"(\d{1,19})__(\d{1,12})_(\d{1,4})\.(?:jpe?g|png|webp)", re.ASCII | re.IGNORECASE)
# A prompt of this length with such a trigger word expands to a few megabytes at most.
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
    process = first_process(document)
    sample = process.get("sample")
    if not isinstance(sample, Mapping):
        return []
    entries = sample.get("samples") if "samples" in sample else sample.get("prompts")
    trigger = str(process.get("trigger_word") or "")[:MAX_TRIGGER_LENGTH]
    found = []
    for entry in entries[:MAX_PROMPTS] if isinstance(entries, list) else []:
        text = entry.get("prompt", "") if isinstance(entry, Mapping) else entry
        text = str(text)[:MAX_PROMPT_LENGTH]
        # Without a trigger word the trainer leaves the placeholders as they are.
        for placeholder in PLACEHOLDERS if trigger else ():
            text = text.replace(placeholder, trigger)
        found.append(text)
    return found
