"""What the real ai-toolkit did with changed copies of jobs/chelsea-cat/train.yml (docs/trainer.md).

trainer_verdicts.json and trainer_trials.json have chosen changes, trainer_mutations.json random ones (`mutations(43, 200)`). Those of
the last two were all run.
"""

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from flux_training.training.dataset.facts import DatasetReader
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import TrainerFile, parse_train_yml

ABSENT = "<absent>"
# Rules about what ai-toolkit silently reads as something else, or trains without.
SILENT = ("key-unknown", "value-misread", "node-path", "caption-ext")
# Rules that refuse what ai-toolkit runs, by the reason.
REFUSED_HERE = {
    "config-name": "its results are not in the folder that is uploaded",
    "device": "a node has one GPU",
    "network-missing": "it trains the whole model",
    "result-not-lora": "it does not leave one file with a LoRA",
    "scheduler": "it adds noise that the model was not made for",
    "steps-invalid": "it takes `true` for 1, and without `steps` and `lr` its defaults",
    "learning-rate-invalid": "it takes `true` for 1, and without `steps` and `lr` its defaults",
    "save-every-invalid": "the launcher counts whole steps",
}
# Places whose values lint refuses although they ran.
RUNS_BY_CHANCE = {
    "save.dtype": "torch takes a number for a device",
    "datasets[0].scale": "a negative one turns the tiny images of this trial around",
    "datasets[0].loss_multiplier": "torch takes a list of one number for the number",
    "train.optimizer_params": "the text `false` turns an option on",
    "sample.network_multiplier": "a text that is no number is not used",
    "sample.format": "`.png` makes files that end with `..png`, which are no samples here",
    "sample.neg": "a list of one text is taken for the text",
    "sample.prompts": "a section is taken for the list of its keys",
    "model.qtype_te": "FLUX.1 quantizes its text encoder with qtype",
}
# A place, what the error says, and why it is no error on a node.
FAILS_BY_CHANCE = {
    "torch_profiler": ("CUDA", "it asks for a GPU"),
    "train.attention_backend": ("is not usable", "its package needs a GPU"),
    "datasets[0].controls[0]": ("couldn't connect", "it downloads a model"),
    "model.assistant_lora_path": ("LocalEntryNotFoundError", "it downloads the adapter"),
    "network.network_kwargs.only_if_contains[0]": (
        "not any lora modules",
        "the tiny model of this trial has no such layer",
    ),
    "train.optimizer": ("Target is on cpu!", "ai-toolkit's own 8-bit Adam needs a GPU"),
    "datasets[0].scale": (
        "division by zero",
        "a hundredth of the tiny images of this trial has no pixels",
    ),
    "train.loss_type": (
        "pkg_resources",
        "the images have setuptools 69.5.1, with which it was tried, this trial had 84",
    ),
}
JOB = Path(__file__).resolve().parents[3] / "jobs/chelsea-cat"
BASE = JOB / "train.yml"
IMAGES = DatasetReader()
FAILURES = ("refused", "failed", "died")


class Agreement(StrEnum):
    """Of lint and the real trainer about one change."""

    AGREED = "agreed"
    EXPLAINED = "explained"  # by REFUSED_HERE, FAILS_BY_CHANCE or RUNS_BY_CHANCE
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class TrainerCase:
    """`change` maps places below config.process[0] to values. `verdict`: refused (when the file was read), failed or died (in
    the run), ran, slow, or read (accepted when the file was read, not run). `judged`: what a case that was only read would do on a node,
    `runs: …` or `fails: …`, and why it was not run.
    """

    name: str
    change: Mapping[str, Any]
    verdict: str
    error: str = ""
    judged: str = ""


def trainer_cases() -> list[TrainerCase]:
    return [TrainerCase(**case) for case in _read("trainer_verdicts.json")]


def tried_cases(name: str) -> list[TrainerCase]:
    """Of trainer_mutations.json or trainer_trials.json."""
    return [TrainerCase(json.dumps(case["change"]), **case) for case in _read(name)]


def _read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return found


def agreement(case: TrainerCase, errors: Iterable[str]) -> Agreement:
    """Whether lint's errors are what the trainer did."""
    has_failed, codes = case.verdict in FAILURES, set(errors)
    if has_failed == bool(codes) or (codes and codes <= set(SILENT)):
        return Agreement.AGREED
    if has_failed:
        is_explained = any(
            place in case.change and part in case.error for place, (part, _) in FAILS_BY_CHANCE.items()
        )
    else:
        is_explained = codes <= {*REFUSED_HERE, *SILENT} or bool(case.change.keys() & RUNS_BY_CHANCE.keys())
    return Agreement.EXPLAINED if is_explained else Agreement.UNEXPLAINED


def base_document() -> dict[str, Any]:
    return parse_train_yml(BASE.read_bytes())


def changed(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the values of `change`; ABSENT removes a key, and a list or section that this empties."""
    found = copy.deepcopy(dict(document))
    absent = [place for place, value in change.items() if value == ABSENT]
    for place in sorted(absent, key=_parts_reversed):
        _remove(found, _full(place))
    for place, value in change.items():
        if value != ABSENT:
            _set(found, _full(place), value)
    return found


def lint_errors(document: Mapping[str, Any], variables: Collection[str] = ()) -> list[str]:
    """The codes of all errors in a train.yml for the images of chelsea-cat, on the GPU that the recipe recommends."""
    raw = json.dumps(document).encode()
    config = TrainerFile(Path("train.yml"), raw, dict(document))
    images = IMAGES.dataset(JOB, folder_uses(config.process))
    job = Subject("chelsea-cat", JOB, config, images, gpu="RTX 5090", variables=frozenset(variables))
    return sorted({finding.code for finding in check_rules(job) if finding.severity == "error"})


def _full(place: str) -> list[str | int]:
    parts: list[str | int] = [
        int(index) if index else name
        for name, index in re.findall(r"([^.\[\]]+)(?![^\[]*\])|\[(\d+)\]", place)
    ]
    return parts if parts[0] in ("job", "meta") else ["config", "process", 0, *parts]


def _parts_reversed(place: str) -> tuple[int, ...]:
    """Later entries of a list first, so that the earlier ones keep their numbers."""
    return tuple(-part for part in _full(place) if isinstance(part, int))


def _remove(document: Any, parts: list[str | int]) -> None:
    path = [document]
    try:
        for part in parts[:-1]:
            path.append(path[-1][part])
        del path[-1][parts[-1]]
    except (KeyError, IndexError, TypeError):
        return
    if path[-1] == [] or path[-1] == {}:
        _remove(document, parts[:-1])


def _set(document: Any, parts: list[str | int], value: Any) -> None:
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        if following is None:
            _put(document, part, value)
            return
        if not isinstance(_get(document, part), dict | list):
            _put(document, part, [] if isinstance(following, int) else {})
        document = document[part]


def _get(container: Any, part: str | int) -> Any:
    if isinstance(container, list):
        return container[int(part)] if int(part) < len(container) else None
    return container.get(part)


def _put(container: Any, part: str | int, value: Any) -> None:
    if isinstance(container, list) and isinstance(part, int) and part == len(container):
        container.append(value)
    else:
        container[part] = value
