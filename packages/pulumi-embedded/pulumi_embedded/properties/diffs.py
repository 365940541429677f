"""Differences between two sets of properties, for providers that leave the comparison to the engine."""

from itertools import zip_longest

from pulumi_embedded.properties import values
from pulumi_embedded.properties.paths import Path, contains_path, format_path, parse_path
from pulumi_embedded.properties.values import Properties, Value
from pulumi_embedded.providers.provider import Diff

ADD = "add"
DELETE = "delete"
UPDATE = "update"


def compare_properties(old: Properties, new: Properties) -> dict[str, str]:
    """The changes by property path: `add`, `delete` or `update`. Whether a value is secret does not matter."""
    found: dict[str, str] = {}
    _compare([], values.reveal_secrets(old), values.reveal_secrets(new), found)
    return found


def _compare(path: Path, old: Value, new: Value, found: dict[str, str]) -> None:
    if old is values.MISSING:
        found[format_path(path)] = ADD
    elif new is values.MISSING:
        found[format_path(path)] = DELETE
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({**old, **new}):
            _compare([*path, key], old.get(key, values.MISSING), new.get(key, values.MISSING), found)
    elif isinstance(old, list) and isinstance(new, list):
        for i, (before, after) in enumerate(zip_longest(old, new, fillvalue=values.MISSING)):
            _compare([*path, i], before, after, found)
    elif not values.is_same(old, new):
        found[format_path(path)] = UPDATE


def complete_diff(diff: Diff, old: Properties, new: Properties, replace_on: list[str]) -> Diff:
    """The provider's diff, completed by the engine's comparison where needed, and with `replaceOnChanges` applied.

    As in the CLI, `replaceOnChanges` has no effect if the provider says that something changes, but not what.
    """
    if diff.by_engine:
        diff.detailed = compare_properties(old, new)
        diff.changes = bool(diff.detailed)
    if not diff.changes:
        diff.replaces, diff.detailed = [], {}
        return diff
    if not diff.detailed:
        diff.detailed = compare_properties(old, new)
        return diff
    for replaced in map(parse_path, replace_on):
        for text in diff.detailed:
            path = parse_path(text)
            if contains_path(replaced, path) and str(path[0]) not in diff.replaces:
                diff.replaces.append(str(path[0]))
    return diff


def difference_kinds_by_path(diff: Diff) -> dict[str, str]:
    """The detailed diff as in `--json`, with `-replace` for changes that replace the resource."""
    return {
        text: f"{kind}-replace"
        if str(parse_path(text)[0]) in diff.replaces and not kind.endswith("-replace")
        else kind
        for text, kind in diff.detailed.items()
    }
