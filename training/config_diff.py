"""What differs between two runs: settings of their train.yml by the names people use (`train.lr`), images, captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROCESS = "config.process[0]."
ABSENT = "—"


@dataclass(frozen=True)
class Change:
    """One setting; ABSENT where a side does not have it."""

    key: str
    before: str
    after: str


def flatten(document: Any, prefix: str = "") -> dict[str, str]:
    """Every value of a document by its dotted path. What lies in config.process[0] goes without that prefix."""
    if isinstance(document, Mapping) and document:
        found: dict[str, str] = {}
        for key, value in document.items():
            found |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    nested = isinstance(document, list) and any(isinstance(item, Mapping | list | str) for item in document)
    if nested:
        found = {}
        for index, item in enumerate(document):
            found |= flatten(item, f"{prefix}[{index}]")
        return found
    return {prefix.removeprefix(PROCESS): _shown(document)}


def changes(before: Any, after: Any) -> list[Change]:
    """What is different, by name."""
    old, new = flatten(before), flatten(after)
    return [
        Change(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def differing(documents: Sequence[Any]) -> dict[str, list[str]]:
    """The settings that are not the same in all documents, each with its value in every one of them."""
    flat = [flatten(document) for document in documents]
    keys = sorted(set().union(*flat)) if flat else []
    values = {key: [one.get(key, ABSENT) for one in flat] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def caption_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """The same for captions by image: added and removed images, captions with other words."""
    return [
        Change(name, before.get(name, ABSENT), after.get(name, ABSENT))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "null"
    return str(value)
