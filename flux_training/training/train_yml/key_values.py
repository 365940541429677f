"""Whether ai-toolkit can use the value of a key. Pure."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flux_training.training.names import FOLDER_NAME, START_WORDS
from flux_training.training.train_yml.trainer_keys import KeySpec, KeyType
from flux_training.training.words import nearest

# Text that users write to mean "no". ai-toolkit treats any text except the empty one as true.
NO_WORDS = ("false", "no", "off", "n", "f", "0", "none", "null", "disable", "disabled", "never")
WHOLE = re.compile(r"[+-]?[0-9]+")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w./-]+)?")
RULES_OF_TYPE = {
    KeyType.INTEGER: "a whole number without quotes",
    KeyType.NUMBER: "a number without quotes",
    KeyType.NUMERIC: "a number",
    KeyType.TEXT: "a text",
    KeyType.LIST: "a list",
    KeyType.MAPPING: "a section with keys of its own",
    KeyType.RESOLUTION: "a number of pixels or a list of them, such as [512, 768, 1024]",
    KeyType.NUMBER_OR_LIST: "a number or a list of numbers",
    KeyType.COLOR: "a list of three whole numbers from 0 to 255",
}


class FaultKind(StrEnum):
    """What is wrong with a value."""

    TYPE = "type"
    RANGE = "range"
    CHOICE = "choice"
    MISREAD = "misread"  # ai-toolkit runs, but not with what train.yml says
    PATH = "path"


@dataclass(frozen=True)
class ValueFault:
    """`rule` completes "must be …" or says what the trainer does."""

    kind: FaultKind
    rule: str


def value_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    """What is wrong with a value, or None. An absent key is always fine."""
    match spec.type:
        case KeyType.ANY | KeyType.CONTROL:
            return None
        case KeyType.ONLY:
            return _only_fault(spec, value)
        case KeyType.FLAG:
            return _flag_fault(value)
        case KeyType.PATH:
            return _path_fault(spec, value)
        case _ if value is None:
            return (
                None
                if spec.null
                else ValueFault(FaultKind.TYPE, f"must be {_describe_expected_values(spec)}, not empty")
            )
        case KeyType.CHOICE:
            return _choice_fault(spec, value)
        case _:
            return _type_fault(spec, value) or _range_fault(spec, value)


def _only_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    if any(type(value) is type(one) and value == one for one in spec.values):
        return None
    if not spec.values:
        return ValueFault(FaultKind.TYPE, "ai-toolkit sets it itself, and stops at a second value; delete it")
    return ValueFault(
        FaultKind.TYPE, f"must be {json.dumps(spec.values[0])}; any other value stops ai-toolkit"
    )


def _flag_fault(value: Any) -> ValueFault | None:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in NO_WORDS:
        return ValueFault(FaultKind.MISREAD, "it is a text, and ai-toolkit takes any text for true")
    if difflib.get_close_matches(word, NO_WORDS, n=1, cutoff=0.75):
        rule = "it is a text, and ai-toolkit takes any text for true; did you mean `false`?"
        return ValueFault(FaultKind.MISREAD, rule)
    return None


def _path_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    if isinstance(value, list) and not spec.or_list:
        return ValueFault(FaultKind.PATH, "must be one path, not a list")
    if value is None or is_on_node(value) or (value == "" and not spec.hub) or value in spec.choices:
        return None
    if value == "":
        return ValueFault(FaultKind.PATH, "ai-toolkit takes an empty text for a path; delete the key")
    if spec.hub and isinstance(value, str) and HUB_ID.fullmatch(value):
        return None
    return ValueFault(
        FaultKind.PATH,
        f"only the folders of the dataset exist on a node; their names begin with {START_WORDS}",
    )


def is_on_node(path: object) -> bool:
    """Whether it is a folder of the dataset, or something in it."""
    if isinstance(path, list):
        return all(is_on_node(one) for one in path)
    parts = path.removeprefix("./").split("/") if isinstance(path, str) else []
    return bool(parts) and bool(FOLDER_NAME.fullmatch(parts[0])) and ".." not in parts


def _choice_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    shown = ", ".join(spec.choices) if len(spec.choices) <= 12 else "one of those that ai-toolkit knows"
    if not isinstance(value, str):
        return ValueFault(FaultKind.TYPE, f"must be {shown}")
    name = spec.choice_of(value)
    if name in spec.choices or name.startswith(spec.prefixes or ("\0",)):
        return None
    rule = f"must be {shown}{nearest(value, spec.choices)}"
    if spec.misread:
        return ValueFault(FaultKind.MISREAD, f"ai-toolkit silently uses {spec.misread}; it {rule}")
    return ValueFault(FaultKind.CHOICE, rule)


def _type_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    if isinstance(value, str) and spec.type == KeyType.LIST and spec.of == KeyType.TEXT and not spec.or_text:
        return ValueFault(FaultKind.MISREAD, "must be a list: ai-toolkit takes each character for an entry")
    if not _has_type(spec, value):
        return ValueFault(FaultKind.TYPE, f"must be {_describe_expected_values(spec)}")
    if spec.type == KeyType.LIST and spec.choices:
        entries = value if isinstance(value, list) else [value]
        unknown = next((one for one in entries if one not in spec.choices), None)
        if unknown is not None:
            kind = FaultKind.MISREAD if spec.misread else FaultKind.CHOICE
            return ValueFault(kind, f"{unknown!r} is not one of {', '.join(spec.choices)}")
    return None


def _has_type(spec: KeySpec, value: Any) -> bool:
    match spec.type:
        case KeyType.INTEGER:
            is_flag = spec.no_flag and isinstance(value, bool)
            return (isinstance(value, int) and not is_flag) or (spec.or_text and _is_whole(value))
        case KeyType.NUMBER:
            return _is_number(value) or (spec.or_text and _is_whole(value))
        case KeyType.NUMERIC:
            return _is_numeric(value)
        case KeyType.TEXT:
            return isinstance(value, str)
        case KeyType.MAPPING:
            return isinstance(value, Mapping)
        case KeyType.LIST:
            return _is_list_of(spec, value)
        case KeyType.COLOR:
            return _is_color(value)
        case KeyType.RESOLUTION:
            sides = value if isinstance(value, list) else [value]
            return bool(sides) and all(_is_number(side) for side in sides)
        case _ if isinstance(value, list) and spec.of == KeyType.NUMBER:
            return bool(value) and all(_is_number(one) for one in value)
        case _:
            return _is_numeric(value[0]) if isinstance(value, list) and value else _is_number(value)


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(one, int) and 0 <= one <= 255 for one in value)
    )


def _is_list_of(spec: KeySpec, value: Any) -> bool:
    if spec.or_text and isinstance(value, str):
        return True
    if not isinstance(value, list):
        return False
    match spec.of:
        case KeyType.TEXT:
            return all(isinstance(one, str) or (one is None and spec.empty_entries) for one in value)
        case KeyType.MAPPING:
            return all(isinstance(one, Mapping) for one in value)
        case KeyType.NUMBER:
            return all(_is_number(one) for one in value)
        case _:
            return True


def _range_fault(spec: KeySpec, value: Any) -> ValueFault | None:
    if spec.type == KeyType.LIST and isinstance(value, list) and len(value) < (spec.min or 0):
        return ValueFault(FaultKind.RANGE, "must not be empty")
    if isinstance(value, str | list | Mapping):
        return None
    if spec.over is not None and not value > spec.over:
        return ValueFault(FaultKind.RANGE, f"must be above {spec.over:g}")
    if spec.min is not None and value < spec.min:
        return ValueFault(FaultKind.RANGE, f"must be at least {spec.min:g}")
    if spec.below is not None and not value < spec.below:
        return ValueFault(FaultKind.RANGE, f"must be below {spec.below:g}")
    if spec.max is not None and value > spec.max:
        return ValueFault(FaultKind.RANGE, f"must be at most {spec.max:g}")
    return None


def _describe_expected_values(spec: KeySpec) -> str:
    if spec.type == KeyType.CHOICE:
        return f"a text such as {spec.choices[0]}"
    if spec.type == KeyType.LIST and spec.of != KeyType.ANY:
        return f"a list of {spec.of.value}s" if spec.of != KeyType.MAPPING else "a list of sections"
    return RULES_OF_TYPE[spec.type]


def _is_whole(value: object) -> bool:
    """Whether `int()` makes the number that is meant of it: `4.0` and `"-1"`."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, str) and WHOLE.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_numeric(value: object) -> bool:
    if not isinstance(value, str):
        return _is_number(value)
    try:
        float(value)
    except ValueError:
        return False
    return True
