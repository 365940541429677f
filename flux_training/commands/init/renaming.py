"""Gives what a project has made another project's name: settings, states, and the owner marks in results and services."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_training.clients.stack.services import StackServices
from flux_training.commands.results.outputs import INDEX
from flux_training.commands.stack.yaml_file import load_yaml
from flux_training.training.errors import BadInput
from flux_training.training.files import write_atomically
from flux_training.training.runs.retention import own_rules, replace_own_rules
from flux_training.training.runs.run import OWNER_VARIABLE

# The resource types of container groups in Pulumi's state.
GROUP_TYPES = ("flux:ContainerGroup", "flux:DevGroup")


@dataclass(frozen=True)
class ProjectRename:
    """`old` and `new` are names of projects."""

    old: str
    new: str

    @property
    def is_needed(self) -> bool:
        return self.old != self.new

    def rename_settings(self, text: str, name: str) -> str:
        """The text of the file `name` with the settings of the project below `config` renamed. Raises BadInput."""
        renamed = re.sub(rf"(?m)^(\s*[\"']?){re.escape(self.old)}:(?=\w)", rf"\g<1>{self.new}:", text)
        if _config_section(renamed) != self._renamed(_config_section(text), lambda value: value):
            raise BadInput(
                [
                    f"{name}: its settings cannot be renamed; write each `{self.old}:` below `config` on a line of its own"
                ]
            )
        return renamed

    def rename_state(self, deployment: Any, stack: str) -> Any:
        """What `pulumi stack export` prints: URNs, owners, and the settings in the inputs of providers."""
        prefix, root = f"urn:pulumi:{stack}::", f"pulumi:pulumi:Stack::{self.old}-{stack}"

        def rename(value: str) -> str:
            if value.startswith(f"{prefix}{self.old}::"):
                value = f"{prefix}{self.new}{value.removeprefix(f'{prefix}{self.old}')}"
                return (
                    f"{value.removesuffix(root)}{root.replace(self.old, self.new)}"
                    if value.endswith(root)
                    else value
                )
            return self.rename_owner(value)

        return self._renamed(deployment, rename)

    def rename_owner(self, owner: str) -> str:
        """`<project>/<stack>` of this project; other texts as they are."""
        return f"{self.new}{owner.removeprefix(self.old)}" if owner.startswith(f"{self.old}/") else owner

    def _renamed(self, value: Any, rename: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return rename(value)
        if isinstance(value, list):
            return [self._renamed(entry, rename) for entry in value]
        if not isinstance(value, dict):
            return value
        old = f"{self.old}:"
        return {
            f"{self.new}:{key.removeprefix(old)}" if key.startswith(old) else key: self._renamed(
                entry, rename
            )
            for key, entry in value.items()
        }


def rename_results(outputs: Path, renaming: ProjectRename) -> None:
    """In the index of each fetched run, which says whose results its folder has."""
    for index in outputs.glob(f"*/*/*/{INDEX}"):
        found = json.loads(index.read_text(encoding="utf-8"))
        found["owner"] = renaming.rename_owner(found.get("owner") or "")
        write_atomically(index, json.dumps(found, indent=2, sort_keys=True) + "\n")


def group_names(deployment: Any) -> list[str]:
    """The container groups in a state."""
    resources = deployment["deployment"].get("resources") or []
    return [one["outputs"]["name"] for one in resources if one["type"].endswith(GROUP_TYPES)]


def rename_owner_marks(stack: StackServices, groups: Iterable[str], old: str, new: str) -> None:
    """Write the owner `new` where the bucket and the container groups carry `old`. May be repeated. Raises ServiceError."""
    mark, storage = stack.mark, stack.storage
    if mark is not None and mark.owner == old:
        rules = storage.lifecycle_rules()
        if days := own_rules(rules, old):
            storage.put_lifecycle_rules(replace_own_rules(replace_own_rules(rules, old, {}), new, days))
        storage.put_bytes(stack.layout.owner, mark.model_copy(update={"owner": new}).to_json())
    salad = stack.connection.salad()
    for name in groups:
        group = salad.get_group(name)
        if group is not None and group.environment_value(OWNER_VARIABLE) == old:
            salad.patch_group(name, {"container": {"environment_variables": {OWNER_VARIABLE: new}}})


def _config_section(text: str) -> Any:
    document = load_yaml(text)
    return document.get("config") if isinstance(document, dict) else None
