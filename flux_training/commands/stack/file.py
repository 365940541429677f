"""Pulumi.<stack>.yaml, looked at before any engine runs: does this stack run in the cloud on this machine, what does it declare?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from flux_training.training.errors import BadInput
from flux_training.training.settings import StackSettings, parse_stack_settings
from flux_training.training.words import nearest

PROJECT = "flux-training"


# What stands in an encrypted value's place for who needs no secret.
ENCRYPTED = "encrypted"


def uses_local_cloud(root: Path, stack: str) -> bool:
    """Whether the stack's `cloud` is `local`. Raises BadInput when there is no such stack file or it is no YAML."""
    return stack_config(root, stack).get(f"{PROJECT}:cloud") == "local"


def stack_settings(root: Path, stack: str) -> StackSettings:
    """What a stack declares, without its secrets, without an engine, without a passphrase. Raises BadInput with every finding."""
    texts = {key: _as_pulumi_gives_it(value) for key, value in stack_config(root, stack).items()}
    return parse_stack_settings(PROJECT, texts)


def stack_path(root: Path, stack: str) -> Path:
    return root / f"Pulumi.{stack}.yaml"


def stack_config(root: Path, stack: str) -> dict[str, Any]:
    """`config` of the stack's file; empty when it has none. Raises BadInput when there is no such file or it is no YAML."""
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
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def _as_pulumi_gives_it(value: Any) -> str:
    """Objects as JSON text, the rest as text."""
    plain = _without_secrets(value)
    return plain if isinstance(plain, str) else json.dumps(plain, default=str)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"secure"}:
            return ENCRYPTED
        return {key: _without_secrets(entry) for key, entry in value.items()}
    return [_without_secrets(entry) for entry in value] if isinstance(value, list) else value
