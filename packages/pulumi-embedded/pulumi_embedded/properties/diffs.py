"""Differences between two sets of properties, for providers that leave the comparison to the engine."""

from itertools import zip_longest

from pulumi_embedded.properties import values
from pulumi_embedded.properties.paths import Path, contains, parse, text_of
from pulumi_embedded.properties.values import Properties, Value
from pulumi_embedded.providers.provider import Diff

ADD = "add"
DELETE = "delete"
UPDATE = "update"


def compare(old: Properties, new: Properties) -> dict[str, str]:
    """The changes by property path: `add`, `delete` or `update`. Whether a value is secret does not matter."""
    found: dict[str, str] = {}
    _compare([], values.reveal(old), values.reveal(new), found)
    return found


def _compare(path: Path, old: Value, new: Value, found: dict[str, str]) -> None:
    if old is values.MISSING:
        found[text_of(path)] = ADD
    elif new is values.MISSING:
        found[text_of(path)] = DELETE
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({**old, **new}):
            _compare([*path, key], old.get(key, values.MISSING), new.get(key, values.MISSING), found)
    elif isinstance(old, list) and isinstance(new, list):
        for i, (before, after) in enumerate(zip_longest(old, new, fillvalue=values.MISSING)):
            _compare([*path, i], before, after, found)
    elif not values.same(old, new):
        found[text_of(path)] = UPDATE


def complete(diff: Diff, old: Properties, new: Properties, replace_on: list[str]) -> Diff:
    """The provider's diff, completed by the engine's comparison where needed, and with `replaceOnChanges` applied."""
    if diff.by_engine:
        diff.detailed = compare(old, new)
        diff.changes = bool(diff.detailed)
    if not diff.changes:
        diff.replaces, diff.detailed = [], {}
        return diff
    if not diff.detailed:
        diff.detailed = compare(old, new)
    for replaced in map(parse, replace_on):
        for text in diff.detailed:
            path = parse(text)
            if contains(replaced, path) and str(path[0]) not in diff.replaces:
                diff.replaces.append(str(path[0]))
    return diff


def kinds(diff: Diff) -> dict[str, str]:
    """The detailed diff as in `--json`, with `-replace` for changes that replace the resource."""
    return {
        text: f"{kind}-replace"
        if str(parse(text)[0]) in diff.replaces and not kind.endswith("-replace")
        else kind
        for text, kind in diff.detailed.items()
    }
