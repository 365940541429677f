"""Pulumi.<stack>.yaml, looked at before any engine runs: does this stack run in the cloud on this machine?"""

from __future__ import annotations

from pathlib import Path

import yaml

from training.errors import BadInput
from training.settings import nearest

PROJECT = "flux-training"


def uses_local_cloud(root: Path, stack: str) -> bool:
    """Whether the stack's `cloud` is `local`. Raises BadInput when there is no such stack file or it is no YAML."""
    path = root / f"Pulumi.{stack}.yaml"
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
    return isinstance(config, dict) and config.get(f"{PROJECT}:cloud") == "local"
