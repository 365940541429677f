"""Formats properties and their differences, nested and line by line, like the CLI.

Keys are sorted and aligned. The mark of a changed line (`+ `, `- `, `~ `) is in the last two columns of its indentation.
Secrets are masked; a string that contains a JSON or YAML object is shown as that object.
"""

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Final

from pulumi_embedded.properties import values
from pulumi_embedded.properties.values import MISSING, Properties, ResourceRef, Secret, Unknown, Value

ADD: Final = "+ "
DELETE: Final = "- "
UPDATE: Final = "~ "
NONE: Final = ""
_INDENT: Final = "    "
# The CLI's limits for long text values: how many lines are shown, and how many unchanged
# lines around a change.
_MAX_LINES: Final = 3
_MAX_COLUMNS: Final = 150
_CONTEXT_LINES: Final = 2

Title = Callable[[int, str], str]


@dataclass(frozen=True)
class DiffView:
    """How to show differences.

    `preview`: values that become unknown are not changes. `sames`: show unchanged values inside changed ones too.
    `secrets`: compare secrets by their values; otherwise all secrets count as equal.
    """

    preview: bool = False
    sames: bool = True
    secrets: bool = False


def lines_of(properties: Properties, indent: int, mark: str = NONE, width: int = 0) -> list[str]:
    """All properties, in one or more lines each. Keys are padded to at least `width` columns."""
    width = max(width, _width(properties))
    lines: list[str] = []
    for key in sorted(properties):
        if not _is_internal_key(key):
            lines += _under(_named(key, width)(indent, mark), _value(properties[key], indent, mark))
    return lines


def lines_of_changes(
    old: Properties, new: Properties, indent: int, view: DiffView, keys: Iterable[str] | None = None
) -> list[str]:
    """The differences, leaf by leaf; with `keys`, only for these."""
    shown = [
        key
        for key in sorted({**old, **new} if keys is None else {*keys} & {*old, *new})
        if not _is_internal_key(key)
        and not _is_omitted(old, new, key, view)
        and (view.sames or not _unchanged(old, new, key, view))
    ]
    return _properties(shown, old, new, indent, view)


def lines_of_outputs(
    old: Properties, new: Properties, indent: int, view: DiffView, *, sames: bool
) -> list[str]:
    """A stack's outputs before and after. `sames`: include unchanged ones."""
    shown = [
        key
        for key in sorted({**old, **new})
        if not _is_omitted(old, new, key, view)
        and not (_unchanged(old, new, key, view) and not _is_shown_if_unchanged(new[key]))
    ]
    left_out = [] if sames else [key for key in shown if _unchanged(old, new, key, view)]
    return _properties(shown, old, new, indent, view, left_out)


def _properties(
    keys: list[str],
    old: Properties,
    new: Properties,
    indent: int,
    view: DiffView,
    left_out: Iterable[str] = (),
) -> list[str]:
    """These properties, aligned; those of `left_out` count for the alignment only."""
    width = _width(keys)
    shown = (key for key in keys if key not in left_out)
    return [line for key in shown for line in _property(_named(key, width), old, new, key, indent, view)]


def _property(
    title: Title, old: Properties, new: Properties, key: str, indent: int, view: DiffView
) -> list[str]:
    if _unchanged(old, new, key, view) and not _is_shown_if_unchanged(new[key]):
        return []
    return _item(title, old.get(key, MISSING), new.get(key, MISSING), indent, view)


def _item(title: Title, old: Value, new: Value, indent: int, view: DiffView) -> list[str]:
    """The difference between two values, one of which may be missing."""
    if old is MISSING:
        return _under(title(indent, ADD), _value(new, indent, ADD))
    if new is MISSING:
        return _under(title(indent, DELETE), _value(old, indent, DELETE))
    if not _same(old, new, view):
        return _difference(title, old, new, indent, view)
    return _under(title(indent, NONE), _value(new, indent, NONE)) if view.sames else []


def _difference(title: Title, old: Value, new: Value, indent: int, view: DiffView) -> list[str]:
    if isinstance(old, list) and isinstance(new, list):
        items = enumerate(zip_longest(old, new, fillvalue=MISSING))
        inside = [_item(_numbered(i), a, b, indent + 2, view) for i, (a, b) in items]
        return [title(indent, UPDATE) + "[", *chain(*inside), _INDENT * indent + "]"]
    if isinstance(old, dict) and isinstance(new, dict):
        lines = lines_of_changes(old, new, indent + 1, view)
        return [title(indent, UPDATE) + "{", *lines, _INDENT * indent + "}"]
    if _is_leaf(old) and _is_leaf(new) and _is_shown_if_unchanged(old) and _is_shown_if_unchanged(new):
        if isinstance(old, str) and isinstance(new, str):
            return _texts(title, old, new, indent, view)
        return [f"{title(indent, UPDATE)}{_one_line(old)} => {_one_line(new)}"]
    lines = []
    if _is_shown_if_unchanged(old):
        lines += _under(title(indent, DELETE), _value(old, indent, DELETE))
    if _is_shown_if_unchanged(new):
        lines += _under(title(indent, ADD), _value(new, indent, ADD))
    return lines


def _texts(title: Title, old: str, new: str, indent: int, view: DiffView) -> list[str]:
    """Two different texts: as objects if both contain one, and line by line if one has several lines."""
    before, after = _parsed_json_or_yaml(old), _parsed_json_or_yaml(new)
    if before is not None and after is not None and not _same(before[1], after[1], view):
        kind = before[0] if before[0] == after[0] else f"{before[0]} => {after[0]}"
        inside = _difference(lambda _indent, _mark: "", before[1], after[1], indent, view)
        return _under(f"{title(indent, UPDATE)}({kind}) ", inside)
    if "\n" not in old + new:
        return [f"{title(indent, UPDATE)}{_quoted(old)} => {_quoted(new)}"]
    return [title(indent, UPDATE), *_text_lines(old, new, indent + 1)]


def _text_lines(old: str, new: str, indent: int) -> list[str]:
    """The lines of both texts, without those far from any change."""
    a = [line for line in old.split("\n") if line.strip()]
    b = [line for line in new.split("\n") if line.strip()]
    lines: list[str] = []
    operations = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for number, (kind, a1, a2, b1, b2) in enumerate(operations):
        if kind != "equal":
            lines += [_lead(indent, DELETE) + line for line in a[a1:a2]]
            lines += [_lead(indent, ADD) + line for line in b[b1:b2]]
            continue
        before = 0 if number == 0 else _CONTEXT_LINES
        after = 0 if number == len(operations) - 1 else _CONTEXT_LINES
        same = a[a1:a2]
        if len(same) > before + after + 1:
            same = [*same[:before], "...", *same[len(same) - after :]]
        lines += [_INDENT * indent + line for line in same]
    return lines


def _value(value: Value, indent: int, mark: str) -> list[str]:
    """The value: the text after its title, and the lines below."""
    if isinstance(value, ResourceRef):
        value = {"URN": value.urn, **({"ID": value.id} if value.custom else {})}
    if isinstance(value, list) and value:
        lines = ["["]
        for i, item in enumerate(value):
            lines += _under(f"{_lead(indent, mark)}    [{i}]: ", _value(item, indent + 1, mark))
        return [*lines, _INDENT * indent + "]"]
    if isinstance(value, dict) and value:
        return ["{", *lines_of(value, indent + 1, mark), _INDENT * indent + "}"]
    found = _parsed_json_or_yaml(value) if isinstance(value, str) else None
    if found is not None:
        kind, content = found
        return [*_under(f"({kind}) ", _value(content, indent, mark)), ""]
    return [_one_line(value)]


def _one_line(value: Value) -> str:
    if isinstance(value, Secret):
        return "[secret]"
    if isinstance(value, Unknown):
        return "[unknown]"
    if isinstance(value, str):
        return _quoted(value)
    return "<null>" if value is None else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    lines = text.split("\n")
    cut = [line if len(line) <= _MAX_COLUMNS else line[:_MAX_COLUMNS] + "..." for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        cut.append("...")
    return json.dumps("\n".join(cut), ensure_ascii=False)


def _parsed_json_or_yaml(text: str) -> tuple[str, Any] | None:
    """The language of the text and the object or list it contains, if it is JSON or YAML."""
    stripped = text.strip()
    kind, found = "json", None
    if stripped[:1] in ("{", "["):
        try:
            found = json.loads(stripped)
        except ValueError:
            found = None
    if found is None and "\n" in stripped:
        from ruamel.yaml import YAML  # imported here because it is rarely needed and slow to import
        from ruamel.yaml.error import YAMLError

        try:
            kind, found = "yaml", YAML(typ="safe", pure=True).load(stripped)
        except (YAMLError, ValueError):
            return None
    return (kind, _keys_and_scalars_as_text(found)) if isinstance(found, (dict, list)) else None


def _keys_and_scalars_as_text(value: Any) -> Any:
    """The value with text in place of YAML's other types of keys and values, such as dates."""
    if isinstance(value, dict):
        return {str(key): _keys_and_scalars_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_keys_and_scalars_as_text(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


# Which properties and values are shown.


def _same(old: Value, new: Value, view: DiffView) -> bool:
    if isinstance(old, Secret) and isinstance(new, Secret):
        return not view.secrets or values.is_same(old, new)
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(item, new[key], view) for key, item in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(a, b, view) for a, b in zip(old, new, strict=True))
    return values.is_same(old, new)


def _unchanged(old: Properties, new: Properties, key: str, view: DiffView) -> bool:
    return key in old and key in new and _same(old[key], new[key], view)


def _is_omitted(old: Properties, new: Properties, key: str, view: DiffView) -> bool:
    """Whether a preview leaves it out: an existing property whose new value is not known yet."""
    return view.preview and key in old and isinstance(new.get(key), Unknown)


def _is_shown_if_unchanged(value: Value) -> bool:
    """Whether it is shown when unchanged: empty values are not."""
    return value is not None and value != "" and value != [] and value != {}


def _is_leaf(value: Value) -> bool:
    return not isinstance(value, (dict, list, ResourceRef))


def _is_internal_key(key: str) -> bool:
    return key.startswith("__")


# Layout.


def _lead(indent: int, mark: str) -> str:
    space = _INDENT * indent
    return space[:-2] + mark if mark and space else space


def _named(key: str, width: int) -> Title:
    return lambda indent, mark: f"{_lead(indent, mark)}{key:<{width}}: "


def _numbered(number: int) -> Title:
    return lambda indent, mark: f"{_lead(indent - 1, mark)}[{number}]: "


def _under(title: str, lines: list[str]) -> list[str]:
    return [title + lines[0], *lines[1:]]


def _width(keys: Iterable[str]) -> int:
    return max(map(len, keys), default=0)
