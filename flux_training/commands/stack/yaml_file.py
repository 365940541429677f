"""Reads the YAML of Pulumi.yaml and Pulumi.<stack>.yaml."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError

TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Keeps dates as text, as Pulumi does, and says where a value does not fit its tag: PyYAML raises a KeyError for `!!bool 1`."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag == TIMESTAMP and isinstance(node, yaml.ScalarNode):
            return str(node.value)
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{node.value!r} is not a valid {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def load_yaml(text: str) -> Any:
    """Raises yaml.YAMLError for whatever cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("lists or sections are nested too deeply") from error
