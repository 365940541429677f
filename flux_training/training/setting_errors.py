"""What is wrong with the value of a setting, in words: pydantic's are about types, ours say what to write."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

SHAPES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a map, one `name: value` on each line below it",
    "float_parsing": "must be a number, without a unit",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number, without a unit",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "model_attributes_type": "must be a map, one `name: value` on each line below it",
    "model_type": "must be a map, one `name: value` on each line below it",
    "string_type": "must be text",
}
LIMITS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}


def in_words(details: ErrorDetails) -> str:
    """The rule that a value breaks, and what to write instead."""
    kind, value = details["type"], details["input"]
    if kind in LIMITS:
        return LIMITS[kind].format(**details.get("ctx") or {})
    if kind not in SHAPES:
        return details["msg"].removeprefix("Value error, ")
    return f"{SHAPES[kind]}{_hint(kind, value)}"


def _hint(kind: str, value: Any) -> str:
    if value is None or value in ("null", ""):
        return ", but has no value; write one, or remove the line"
    if isinstance(value, list) and kind in ("dict_type", "model_type"):
        return ", not a list; write no - before the names"
    if isinstance(value, list):
        return ", not a list; write one value, without [ ] or -"
    if isinstance(value, Mapping):
        return ", not a map; write the value on the same line"
    return "; put it in quotes" if kind == "string_type" else ""
