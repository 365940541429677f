"""The project that a command works on: found upward from the current folder, as git does. Its name comes from Pulumi.yaml.

A project is this repository itself, or a folder of your own with the tool in flux-training/.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from flux_training.commands.stack.yaml_file import load_yaml
from flux_training.training.errors import BadInput
from flux_training.training.opening import read_regular_file

PROJECT_FILE = "Pulumi.yaml"
PROJECT_VARIABLE = "FLUX_PROJECT"
# The name of the tool's folder in a user's project.
TOOL_FOLDER = "flux-training"
PACKAGE = "flux_training"
# Folders outside a project, such as job folders elsewhere, are treated as parts of this repository.
DEFAULT_NAME = "flux-training"
MAX_FILE_BYTES = 1024 * 1024


def tool_root() -> Path:
    """The folder of this tool: its checkout."""
    return Path(__file__).resolve().parents[3]


def project_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that FLUX_PROJECT names, else the project around the current folder, else that of the tool. Raises BadInput."""
    if named := environ.get(PROJECT_VARIABLE):
        root = Path(named).expanduser().resolve()
        if not is_project(root):
            raise BadInput(
                [f"{root} is not a project: {_why(root)}; set {PROJECT_VARIABLE} to a project's folder"]
            )
        return root
    if found := project_around(Path.cwd()):
        return found
    tool = tool_root()
    return tool.parent if is_project(tool.parent) and tool.name == TOOL_FOLDER else tool


def project_around(folder: Path) -> Path | None:
    """The project that the folder belongs to, as git finds a repository."""
    return next((one for one in (folder, *folder.parents) if is_project(one)), None)


def is_project(folder: Path) -> bool:
    """Whether the folder has a Pulumi.yaml and the tool. Other Pulumi projects do not count."""
    return (folder / PROJECT_FILE).is_file() and (
        (folder / PACKAGE).is_dir() or (folder / TOOL_FOLDER / PACKAGE).is_dir()
    )


def project_name(root: Path) -> str:
    """The `name` in Pulumi.yaml. Raises BadInput."""
    path = root / PROJECT_FILE
    try:
        document = load_yaml(read_regular_file(path, MAX_FILE_BYTES).decode("utf-8-sig"))
    except FileNotFoundError:
        return DEFAULT_NAME
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput([f"{path} cannot be read: {' '.join(str(error).split())}; fix the file"]) from error
    name = document.get("name") if isinstance(document, dict) else None
    if not isinstance(name, str) or not name:
        raise BadInput([f"{path} has no name: a Pulumi project needs one; add a line `name: my-loras`"])
    return name


def _why(folder: Path) -> str:
    if not (folder / PROJECT_FILE).is_file():
        return f"it has no {PROJECT_FILE}"
    return f"it has no {TOOL_FOLDER}/{PACKAGE}; `git submodule update --init` fetches the tool"
