"""Pulumi's home folder, and the selected stack of each project, which the CLI stores in the same file:

`$PULUMI_HOME/workspaces/<project>-<sha1 of the project file's path>-workspace.json`
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from pulumi_embedded.state.stores import replace_file


def home() -> Path:
    return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")


def _selection_file(project: str, project_file: Path) -> Path:
    path_hash = hashlib.sha1(str(project_file).encode(), usedforsecurity=False).hexdigest()
    return home() / "workspaces" / f"{project}-{path_hash}-workspace.json"


def selected(project: str, project_file: Path, url: str) -> str | None:
    """The selected stack of the project, if any."""
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(_selection_file(project, project_file).read_bytes())
        name = (settings.get("stacks") or {}).get(url) or settings.get("stack")
        return str(name).rsplit("/", 1)[-1] if name else None
    return None


def select(project: str, project_file: Path, url: str, stack: str | None) -> None:
    """Select a stack, or deselect it with None."""
    path = _selection_file(project, project_file)
    settings = {}
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(path.read_bytes())
    stacks = dict(settings.get("stacks") or {})
    stacks.pop(url, None)
    settings.pop("stack", None)
    if stack is not None:
        stacks[url] = settings["stack"] = f"organization/{project}/{stack}"
    settings["stacks"] = stacks
    replace_file(path, json.dumps(settings, indent=4).encode())
