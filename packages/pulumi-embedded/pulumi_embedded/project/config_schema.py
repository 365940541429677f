"""Checks a stack's configuration against the declarations in Pulumi.yaml: required keys, types, and encryption.

The messages and their order are the CLI's (pkg/workspace/config.go).
"""

import json
import re
from typing import Any, Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.project.config import ConfigValue, Project, full_key, is_config_declaration

_INTEGER: Final = re.compile(r"[+-]?\d+")


def check_config(stack: str, project: Project, values: dict[str, ConfigValue]) -> None:
    """Raises EngineError if a value, or a default of the project, does not match its declaration."""
    declared = {key: found for key, found in sorted(project.config.items()) if is_config_declaration(found)}
    missing = [key for key in declared if full_key(project.name, key) not in values and _is_own(project, key)]
    if missing:
        *others, last = [f"'{key}'" for key in missing]
        listed = f"{', '.join(others)} and {last}" if others else last
        raise EngineError(f"Stack '{stack}' is missing configuration value{'s' if others else ''} {listed}")
    for key, declaration in declared.items():
        value = values.get(full_key(project.name, key))
        if value is None or "type" not in declaration:
            continue
        where = f"Stack '{stack}' with configuration key '{key}' must be"
        if declaration.get("secret") and not value.secret:
            raise EngineError(f"{where} encrypted as it's secret")
        content = json.loads(value.text) if value.is_object else value.text
        if not _has_type(content, declaration):
            raise EngineError(f"{where} of type '{_type_name(declaration)}'")


def _is_own(project: Project, key: str) -> bool:
    return full_key(project.name, key).startswith(f"{project.name}:")


def _has_type(value: Any, declaration: Any) -> bool:
    kind = declaration.get("type")
    if kind == "string":
        return isinstance(value, str)
    if kind == "integer":
        if isinstance(value, str):
            return bool(_INTEGER.fullmatch(value))
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false")
    if kind == "object":
        return isinstance(value, dict)
    items = declaration.get("items")
    return (
        isinstance(value, list) and isinstance(items, dict) and all(_has_type(item, items) for item in value)
    )


def _type_name(declaration: Any) -> str:
    items = declaration.get("items")
    return f"array<{_type_name(items)}>" if isinstance(items, dict) else str(declaration.get("type"))
