"""The keys of train.yml that ai-toolkit reads, with the values it can use (trainer_keys.json). It ignores all other keys.

Sections are named by their path below `config.process[0]`; `[]` stands for each entry of a list, `process` for the process itself.
Sections that are missing here may have any key. OPTIMIZERS and LR_SCHEDULERS have the parameters of each optimizer and scheduler. The table was made by reading
toolkit/config_modules.py, the process classes and what they call in https://github.com/ostris/ai-toolkit at COMMIT, and by
training a tiny FLUX.1 with wrong values (docs/trainer.md). `since` is the date of the commit that added a key, `choices_since` has those
of choices that were added in 2025 or later.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

Place = tuple[str, ...]
CONDITION = re.compile(r"(?:([\w\[\]]+)\.)?(\w+)(?:([=>])(.+))?")


class KeyType(StrEnum):
    """What ai-toolkit does with a value."""

    ANY = "any"  # Any value is allowed; the key's `why` gives the reason.
    ONLY = "only"  # ai-toolkit stops unless the value is one of a few.
    FLAG = "flag"  # ai-toolkit tests whether the value is truthy, so the text "false" means true.
    INTEGER = "integer"
    NUMBER = "number"
    NUMERIC = "numeric"  # ai-toolkit calls float() on the value.
    TEXT = "text"
    CHOICE = "choice"
    LIST = "list"
    NUMBER_OR_LIST = "number_or_list"
    COLOR = "color"  # three whole numbers from 0 to 255
    RESOLUTION = "resolution"
    MAPPING = "mapping"
    # ai-toolkit opens the file, or silently continues without it.
    PATH = "path"
    CONTROL = "control"  # like PATH, but only for models that take control images


@dataclass(frozen=True)
class KeySpec:
    """One key. `when`: conditions, one of which must hold for it to be used: a key of its section, or of another one with its path
    (`use_ema`, `arch=flux2`, `num_frames>1`, `datasets[].is_reg`).

    `min`, of a list: how many entries it needs. `why`: the reason why any value is fine. `values`: those that ONLY allows, apart from leaving the key out. `below`: an exclusive maximum.
    `rule`: the lint rule that reports a bad value, if it is not one of the rules about values. `misread`: what an unknown
    choice silently becomes. `hub`: a path may also be `owner/name` on Hugging Face. `or_list`: or a list
    of paths, which may be empty. `empty_entries`: entries of a list of texts may be null. `no_flag`: `true` and `false` are no numbers.
    """

    type: KeyType
    choices: tuple[str, ...] = ()
    choices_since: Mapping[str, str] = field(default_factory=dict)
    null: bool = False
    min: float | None = None
    max: float | None = None
    over: float | None = None
    below: float | None = None
    values: tuple[Any, ...] = ()
    why: str = ""
    when: tuple[str, ...] = ()
    rule: str = ""
    misread: str = ""
    about: str = ""
    since: str = ""
    of: KeyType = KeyType.ANY
    or_text: bool = False
    ignore_case: bool = False
    prefixes: tuple[str, ...] = ()
    adapter: bool = False
    hub: bool = False
    or_list: bool = False
    empty_entries: bool = False
    no_flag: bool = False

    def choice_of(self, value: str) -> str:
        """The value as the choices are written."""
        name = value.lower() if self.ignore_case else value
        return name.split("|")[0] if self.adapter else name

    def is_used(self, section: Mapping[str, Any], process: Mapping[str, Any]) -> bool:
        return not self.when or any(_holds(condition, section, process) for condition in self.when)


@dataclass(frozen=True)
class KeyEntry:
    """A known key in a train.yml. `section` is the mapping that holds it, `spec` is None for an unknown key."""

    place: Place
    section_name: str
    section: Mapping[str, Any]
    value: Any
    spec: KeySpec | None

    @property
    def name(self) -> str:
        """Such as `datasets[0].resolution`."""
        return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in self.place).lstrip(".")


def parse_condition(condition: str) -> tuple[str, str, str, str]:
    """(another section or empty, key, `=` or `>` or empty, value) of a condition of `when`."""
    match = CONDITION.fullmatch(condition)
    if match is None:
        raise ValueError(condition)
    above, key, operator, value = match.groups(default="")
    return above, key, operator, value


def _holds(condition: str, section: Mapping[str, Any], process: Mapping[str, Any]) -> bool:
    above, key, operator, value = parse_condition(condition)
    places = [section]
    if above:
        found = process.get(above.removesuffix("[]"))
        places = [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, Mapping)]
    return any(_is(place.get(key), operator, value) for place in places)


def _is(found: object, operator: str, value: str) -> bool:
    if operator == ">":
        return isinstance(found, int | float) and found > float(value)
    # ai-toolkit ignores what follows a colon in `model.arch`.
    return str(found).lower().split(":")[0] == value if operator else bool(found)


_CONTENT = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
COMMIT: str = _CONTENT["commit"]
VERSION: str = _CONTENT["version"]
DATE: str = _CONTENT["date"]
TRAINER_KEYS = TypeAdapter(dict[str, dict[str, KeySpec]]).validate_python(_CONTENT["sections"])
OPTIMIZERS, LR_SCHEDULERS = (
    TypeAdapter(dict[str, dict[str, KeySpec]]).validate_python(_CONTENT[name])
    for name in ("optimizers", "lr_schedulers")
)
for _name in ("sample", "sample.samples[]"):
    TRAINER_KEYS[_name.replace("sample", "first_sample", 1)] = TRAINER_KEYS[_name]


def entries(process: object, section_name: str = "process", place: Place = ()) -> Iterator[KeyEntry]:
    """Every key of a process, and of the sections below it that the table knows."""
    if not isinstance(process, Mapping):
        return
    known = TRAINER_KEYS[section_name]
    for key, value in process.items():
        yield KeyEntry((*place, key), section_name, process, value, known.get(key))
        below = section_below(section_name, key)
        if key in known and below in TRAINER_KEYS:
            yield from entries(value, below, (*place, key))
        elif key in known and f"{below}[]" in TRAINER_KEYS and isinstance(value, list):
            for number, entry in enumerate(value):
                yield from entries(entry, f"{below}[]", (*place, key, str(number)))


def section_below(section_name: str, key: str) -> str:
    return key if section_name == "process" else f"{section_name}.{key}"
