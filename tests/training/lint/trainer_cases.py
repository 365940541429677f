"""What the real ai-toolkit did with changed copies of jobs/chelsea-cat/train.yml (trainer_verdicts.json, docs/trainer.md)."""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.training.dataset.facts import DatasetReader
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import TrainerFile, document_of

ABSENT = "<absent>"
JOB = Path(__file__).resolve().parents[3] / "jobs/chelsea-cat"
BASE = JOB / "train.yml"
IMAGES = DatasetReader()


@dataclass(frozen=True)
class TrainerCase:
    """`change` maps places below config.process[0] to values. `verdict`: refused (when the file was read), failed (in the run),
    ran, slow, or read (accepted when the file was read, not run).
    """

    name: str
    change: Mapping[str, Any]
    verdict: str
    error: str = ""


def trainer_cases() -> list[TrainerCase]:
    found = json.loads(Path(__file__).with_name("trainer_verdicts.json").read_text(encoding="utf-8"))
    return [TrainerCase(**case) for case in found]


def base_document() -> dict[str, Any]:
    return document_of(BASE.read_bytes())


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


def lint_errors(document: Mapping[str, Any]) -> list[str]:
    """The codes of all errors in a train.yml for the images of chelsea-cat, on the GPU that the recipe recommends."""
    raw = json.dumps(document).encode()
    config = TrainerFile(Path("train.yml"), raw, dict(document))
    images = IMAGES.dataset(JOB, folder_uses(config.process))
    job = Subject("chelsea-cat", JOB, config, images, gpu="RTX 5090")
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


def failed(cases: Iterable[TrainerCase]) -> list[TrainerCase]:
    return [case for case in cases if case.verdict in ("refused", "failed")]
