"""Property paths: `a.b[0]["c.d"]`, with `*` for any key or index."""

import json
import re
from typing import Any, Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import values
from pulumi_embedded.properties.values import Properties, Value

Path = list[str | int]
ANY: Final = "*"
_PART: Final = re.compile(r'\.?([^.\[\]"]+)|\[(\d+|\*)\]|\.?\["((?:[^"\\]|\\.)*)"\]')
_PLAIN: Final = re.compile(r"[A-Za-z_$][\w$-]*")


def parse_path(text: str) -> Path:
    """The parts of a path. Raises EngineError if it is invalid."""
    parts: Path = []
    rest = text
    while rest:
        match = _PART.match(rest)
        if not match:
            raise EngineError(f'{text!r} is not a property path; examples: a.b, a[0], a["b.c"]')
        name, index, quoted = match.groups()
        if index is not None:
            parts.append(ANY if index == ANY else int(index))
        else:
            parts.append(name if name is not None else json.loads(f'"{quoted}"'))
        rest = rest[match.end() :]
    return parts


def format_path(path: Path) -> str:
    """The path in Pulumi's notation."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def contains_path(outer: Path, inner: Path) -> bool:
    """Whether `inner` equals `outer` or is inside it."""
    return len(outer) <= len(inner) and all(a in (ANY, b) for a, b in zip(outer, inner, strict=False))


def keep_old_values(inputs: Properties, old: Properties, ignore: list[str]) -> Properties:
    """The inputs with the old values at the ignored paths."""
    for text in ignore:
        inputs = _reset(inputs, old, parse_path(text))
    return inputs


def _reset(new: Value, old: Value, path: Path) -> Any:
    if not path:
        return old
    if isinstance(new, values.Secret):
        inside = _reset(new.value, values.reveal_secrets(old), path)
        return values.Secret(inside)
    if isinstance(old, values.Secret):
        old = old.value
    if isinstance(new, dict) and isinstance(old, dict):
        keys = [key for key in {**old, **new} if path[0] in (ANY, key)]
        changed = dict(new)
        for key in keys:
            if key not in old:
                changed.pop(key, None)
            elif key in new or len(path) == 1:
                changed[key] = _reset(new.get(key), old[key], path[1:])
        return changed
    if isinstance(new, list) and isinstance(old, list):
        return [
            _reset(item, old[i], path[1:]) if path[0] in (ANY, i) and i < len(old) else item
            for i, item in enumerate(new)
        ]
    return new
