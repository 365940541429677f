"""Pulumi's home folder, and what was chosen in earlier commands, in the CLI's files:

$PULUMI_HOME/workspaces/<project>-<sha1 of the project file's path>-workspace.json   the selected stack of a project
$PULUMI_HOME/credentials.json                                                       the backend of `pulumi login`
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from pulumi_embedded.errors import EngineError
from pulumi_embedded.state.stores import replace_file

_NEXT_STEP: Final = "set PULUMI_HOME to a folder that can be written"


def pulumi_home() -> Path:
    """Raises EngineError if the user has no home folder."""
    try:
        return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    except RuntimeError:
        raise EngineError(f"HOME is not set, and this user has no home folder; {_NEXT_STEP}") from None


def _selection_file(project: str, project_file: Path) -> Path:
    path_hash = hashlib.sha1(str(project_file).encode(), usedforsecurity=False).hexdigest()
    return pulumi_home() / "workspaces" / f"{project}-{path_hash}-workspace.json"


def selected_stack(project: str, project_file: Path, url: str) -> str | None:
    """The selected stack of the project, if any."""
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(_selection_file(project, project_file).read_bytes())
        name = (settings.get("stacks") or {}).get(url) or settings.get("stack")
        return str(name).rsplit("/", 1)[-1] if name else None
    return None


def select_stack(project: str, project_file: Path, url: str, stack: str | None) -> None:
    """Select a stack, or deselect it with None."""
    path = _selection_file(project, project_file)
    settings = _read(path)
    stacks = dict(settings.get("stacks") or {})
    stacks.pop(url, None)
    settings.pop("stack", None)
    if stack is not None:
        stacks[url] = settings["stack"] = f"organization/{project}/{stack}"
    settings["stacks"] = stacks
    try:
        replace_file(path, json.dumps(settings, indent=4).encode())
    except OSError as error:
        raise EngineError(f"{path} cannot be written ({error.strerror}); {_NEXT_STEP}") from None


def current_backend() -> str | None:
    """The backend of the last `login`, if any."""
    url = _read(_credentials_file()).get("current")
    return url if isinstance(url, str) and url else None


def set_current_backend(url: str | None) -> None:
    """Log in to a backend, or out of the present one with None. Other entries of the file stay."""
    content = _read(_credentials_file())
    for part in ("accessTokens", "accounts"):
        entries = {
            key: value for key, value in content.get(part, {}).items() if key != content.get("current")
        }
        content[part] = entries
    content["current"] = url or ""
    if url:
        content["accessTokens"][url], content["accounts"][url] = "", {}
    replace_file(_credentials_file(), json.dumps(content, indent=4).encode())


def _credentials_file() -> Path:
    return pulumi_home() / "credentials.json"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}
