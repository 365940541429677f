"""Reads the YAML of Pulumi.yaml and Pulumi.<stack>.yaml."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

TIMESTAMP, MERGE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"


class RepeatedKeyError(yaml.YAMLError):
    def __init__(self, key: yaml.ScalarNode) -> None:
        super().__init__(f"{key.value} occurs a second time; delete one")
        self.line = key.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """Keeps dates as text and refuses repeated keys, as Pulumi does, and says where a value does not fit its tag: PyYAML raises a KeyError for `!!bool 1`."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag == TIMESTAMP and isinstance(node, yaml.ScalarNode):
            return str(node.value)
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node)
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{node.value!r} is not a valid {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    found = set[str]()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            if key.value in found:
                raise RepeatedKeyError(key)
            found.add(key.value)


def load_yaml(text: str) -> Any:
    """Raises yaml.YAMLError for whatever cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("lists or sections are nested too deeply") from error
