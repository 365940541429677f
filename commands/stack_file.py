"""Pulumi.<stack>.yaml, looked at before any engine runs: does this stack run in the cloud on this machine?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from training.errors import BadInput
from training.settings import StackSettings, nearest, parse_stack_settings

PROJECT = "flux-training"


def uses_local_cloud(root: Path, stack: str) -> bool:
    """Whether the stack's `cloud` is `local`. Raises BadInput when there is no such stack file or it is no YAML."""
    return _config(root, stack).get(f"{PROJECT}:cloud") == "local"


def stack_path(root: Path, stack: str) -> Path:
    return root / f"Pulumi.{stack}.yaml"


def _config(root: Path, stack: str) -> dict[str, Any]:
    path = stack_path(root, stack)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        stacks = sorted(file.name.split(".")[1] for file in root.glob("Pulumi.*.yaml"))
        raise BadInput(
            [
                f"stack {stack}: there is no {path.name}{nearest(stack, stacks)}; stacks here: {', '.join(stacks)}"
            ]
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput([f"{path.name} cannot be read: {' '.join(str(error).split())}; mend it"]) from error
    config = document.get("config") if isinstance(document, dict) else None
    return config if isinstance(config, dict) else {}


def stack_settings(root: Path, stack: str) -> StackSettings:
    """The stack's settings as its file declares them, without its secrets. Raises BadInput with every finding."""
    config = _config(root, stack)
    texts = {
        key: value if isinstance(value, str) else json.dumps(_without_secrets(value))
        for key, value in config.items()
        if not _is_secret(value)
    }
    return parse_stack_settings(PROJECT, texts)


def _is_secret(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"secure"}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_secrets(item) for key, item in value.items() if not _is_secret(item)}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
