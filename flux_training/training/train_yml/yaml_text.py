"""Changes one value of a YAML text in place and leaves every other byte as it is, including comments and spacing.

ruamel.yaml keeps most comments, but moves those between two entries and rewrites indentation, quotes and line breaks. Here the parser
only locates the value.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Path = Sequence[str | int]


def set_value(text: str, path: Path, literal: str) -> str:
    """The text with the value at `path` replaced by `literal`, which is YAML for a scalar or a flow list.

    Raises KeyError if there is no such value, ValueError if it cannot be replaced in place.
    """
    node = node_at(text, path)
    if node is None:
        raise KeyError(".".join(map(str, path)))
    if _is_empty(node):
        raise ValueError("the key has no value; write one first")
    if not _is_replaceable(node):
        raise ValueError("it is a multi-line block")
    changed = text[: node.start_mark.index] + literal + text[node.end_mark.index :]
    try:
        value = _plain(literal)
    except yaml.YAMLError as error:
        raise ValueError("it is not YAML") from error
    _check_content(changed, _with(_plain(text), path, value))
    return changed


def add_entry(text: str, path: Path, key: str, value: object) -> str:
    """The text with `key: value` as the last entry of the mapping at `path`, which is added if it is missing.

    Raises ValueError if that would change anything else.
    """
    node = node_at(text, path)
    entry = f"{quote_yaml(key)}: {flow_yaml(value)}"
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        head = text[: node.end_mark.index - 1].rstrip()
        changed = f"{head}{', ' if node.value else ''}{entry}{text[len(head) :]}"
    elif isinstance(node, yaml.MappingNode):
        indent = node.value[0][0].start_mark.column
        changed = _insert_lines(text, _content_end(node), [f"{' ' * indent}{entry}"])
    elif node is None or _is_empty(node):
        parent = node_at(text, path[:-1])
        if not isinstance(parent, yaml.MappingNode) or parent.flow_style:
            raise ValueError(f"it has no `{path[-1]}`")
        indent = parent.value[0][0].start_mark.column
        below = f"{' ' * (indent + 2)}{entry}"
        if node is None:
            made = [f"{' ' * indent}{quote_yaml(str(path[-1]))}:", below]
            changed = _insert_lines(text, _content_end(parent), made)
        else:
            changed = _insert_lines(text, node.start_mark.index, [below])
    else:
        raise ValueError(f"its `{path[-1]}` is not a mapping")
    before = _plain(text)
    known = _at(before, path) if node is not None and not _is_empty(node) else {}
    _check_content(changed, _with(before, path, {**known, key: _plain(flow_yaml(value))}))
    return changed


def remove_entry(text: str, path: Path, key: str) -> str:
    """The text without `key` in the mapping at `path`. In a block, its whole lines are removed, with a comment behind the value.

    Raises KeyError if there is no such entry, ValueError if that would change anything else.
    """
    mapping = node_at(text, path)
    entries = mapping.value if isinstance(mapping, yaml.MappingNode) else []
    index = next((index for index, (node, _) in enumerate(entries) if node.value == key), None)
    if index is None or not isinstance(mapping, yaml.MappingNode):
        raise KeyError(".".join(map(str, (*path, key))))
    start, end = entries[index][0].start_mark.index, _content_end(entries[index][1])
    if not mapping.flow_style:
        start, end = text.rfind("\n", 0, start) + 1, text.find("\n", end) + 1 or len(text)
    elif entries[index + 1 :]:
        end = entries[index + 1][0].start_mark.index
    elif index:
        start = _content_end(entries[index - 1][1])
    before = _plain(text)
    left = {name: value for name, value in _at(before, path).items() if name != key}
    changed = text[:start] + text[end:]
    _check_content(changed, _with(before, path, left or ({} if mapping.flow_style else "")))
    return changed


def node_at(text: str, path: Path) -> yaml.Node | None:
    """The node of a value, or None. Raises yaml.YAMLError."""
    node = _parse_nodes(text)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            # If a key is repeated, YAML uses its last value, so search backwards.
            node = next((value for key, value in reversed(node.value) if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            return None
    return node


@functools.lru_cache(maxsize=4)
def _parse_nodes(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def quote_yaml(text: str) -> str:
    """The text as a YAML scalar, without quotes where that is safe in every YAML version."""
    try:
        plain = yaml.safe_load(text) == text and yaml.safe_load(f"{{{text}: [{text}]}}") == {text: [text]}
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        # PyYAML raises one of these exceptions if a value does not fit its tag, such as `!!bool 1`.
        plain = False
    # YAML 1.2 and ai-toolkit read `1e-4` as a number, but PyYAML reads it as text.
    if plain and not _is_number(text):
        return text
    return json.dumps(text, ensure_ascii=False)


def flow_yaml(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str):
        return quote_yaml(value)
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{quote_yaml(str(key))}: {flow_yaml(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow_yaml, value)) + "]"
    return json.dumps(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_replaceable(node: yaml.Node) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return node.style not in ("|", ">")
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


def _is_empty(node: yaml.Node) -> bool:
    """Whether nothing follows the colon."""
    return isinstance(node, yaml.ScalarNode) and node.start_mark.index == node.end_mark.index


def _content_end(node: yaml.Node) -> int:
    """The index behind a value. A block's own end mark would include the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        key, value = node.value[-1]
        # PyYAML gives an alias the position of its anchor, so use the end of the key instead
        # if it is later.
        return max(int(key.end_mark.index), _content_end(value))
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _content_end(node.value[-1])
    return int(node.end_mark.index)


def _insert_lines(text: str, after: int, lines: list[str]) -> str:
    """Inserts the lines below the line that contains the character before `after`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    end = after if text[after - 1 : after] == "\n" else text.find("\n", after) + 1
    if end == 0:
        return text + "".join(newline + line for line in lines) + newline
    return text[:end] + "".join(line + newline for line in lines) + text[end:]


# Consecutive edits parse the same text twice: the result of one edit is the input of the next.
@functools.lru_cache(maxsize=4)
def _plain(text: str) -> Any:
    # Load all scalars as text: the result is only used to check that an edit changed nothing else.
    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader only creates texts, lists and dicts


def _at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def _with(document: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(document, list):
        return [_with(item, rest, value) if index == first else item for index, item in enumerate(document)]
    below = document if isinstance(document, dict) else {}
    return {**below, first: _with(below.get(first), rest, value)}


def _check_content(text: str, expected: Any) -> None:
    """Raises ValueError unless the text has exactly this content; an alias or a tab can be the reason."""
    try:
        if _plain(text) == expected:
            return
    except yaml.YAMLError:
        pass
    raise ValueError("this edit would also change other values in the file")
