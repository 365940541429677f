"""Random changes of jobs/chelsea-cat/train.yml, drawn from the table of ai-toolkit's keys. Half of them are wrong."""

import copy
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS, KeySpec, KeyType, parse_condition
from flux_training.training.values import mapping
from tests.training.lint.trainer_cases import changed

SECTIONS = (
    "network",
    "save",
    "datasets[]",
    "train",
    "train.ema_config",
    "model",
    "sample",
    "logging",
    "process",
)
# Values of another type, or out of range.
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 2.5, 10**12, 1e30, "abc", "12", "0.5", "false", "", "1e-4", [], ["a"], [1, "2"], {}, {"a": 1}
]  # fmt: skip
GOOD_VALUES: dict[KeyType, list[Any]] = {
    KeyType.FLAG: [True, False],
    KeyType.NUMBER: [0.5, 1, 1.0],
    KeyType.NUMERIC: [0.5, 1, "0.5"],
    KeyType.TEXT: ["words"],
    KeyType.LIST: [["words"]],
    KeyType.RESOLUTION: [64, [64, 96]],
    KeyType.NUMBER_OR_LIST: [1, [0.5, 1]],
    KeyType.MAPPING: [{}],
    KeyType.COLOR: [[0, 128, 255]],
}
# What a CPU needs for a training of seconds, where a change does not say otherwise.
SMALL: dict[str, Any] = {
    "train.steps": 3,
    "train.optimizer": "adamw",
    "train.dtype": "fp32",
    "model.quantize": False,
    "save.save_every": 2,
    "sample.sample_every": 2,
    "sample.sample_steps": 2,
    "sample.width": 64,
    "sample.height": 64,
    "sample.prompts": ["[trigger] in a basket"],
    "datasets[0].resolution": 64,
    "datasets[0].num_workers": 0,
    "datasets[0].prefetch_factor": None,
}


def mutations(seed: int, count: int) -> list[dict[str, Any]]:
    """Different changes in the form of `TrainerCase.change`."""
    dice, found = random.Random(seed), {}
    while len(found) < count:
        change = _mutation(dice)
        found[json.dumps(change)] = change
    return list(found.values())


def _mutation(dice: random.Random) -> dict[str, Any]:
    section = dice.choice(SECTIONS)
    key = dice.choice(sorted(TRAINER_KEYS[section]))
    spec = TRAINER_KEYS[section][key]
    above = "" if section == "process" else section.replace("[]", "[0]") + "."
    change = {above + key: copy.deepcopy(_value(dice, spec))}
    if spec.when and dice.random() < 0.5:
        other, name, operator, value = parse_condition(dice.choice(spec.when))
        place = other.replace("[]", "[0]") + "." if other else above
        change = {place + name: (int(value) + 1 if operator == ">" else value) or True} | change
    return change


def _value(dice: random.Random, spec: KeySpec) -> Any:
    if dice.random() < 0.5:
        return dice.choice(ODD_VALUES)
    return dice.choice(list(_good_values(spec)) or ODD_VALUES)


def _good_values(spec: KeySpec) -> Iterator[Any]:
    yield from [*spec.choices, *spec.values, *([None] if spec.null else [])]
    if spec.type == KeyType.INTEGER:
        yield from (int(spec.min or 0) + 1, int(spec.min or 0) + 2)
    yield from (value for value in GOOD_VALUES.get(spec.type, ()) if spec.max is None or value <= spec.max)


def for_cpu(document: Mapping[str, Any], change: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The changed document, made small. `model`: the folder of a tiny FLUX.1."""
    small = {
        place: value
        for place, value in SMALL.items()
        if place not in change and _has(document, place.partition(".")[0])
    }
    samples = any(place.startswith(("sample", "first_sample")) for place in change)
    small |= {"train.disable_sampling": not samples} if "train.disable_sampling" not in change else {}
    found = changed(changed(document, small), change)
    section = found["config"]["process"][0].get("model")
    if mapping(section).get("name_or_path") == "/model":
        section["name_or_path"] = model
    return found


def _has(document: Mapping[str, Any], section: str) -> bool:
    process = document["config"]["process"][0]
    return bool(process.get(section.removesuffix("[0]")))
