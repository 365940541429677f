"""What the program asks for, and which resource of the old state that is."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import urns
from pulumi_embedded.properties.values import Properties, Value
from pulumi_embedded.state.serialization import Json, Resource


@dataclass(frozen=True)
class Alias:
    """Another name the resource may have had; empty parts are as they are now."""

    urn: str = ""
    name: str = ""
    type: str = ""
    stack: str = ""
    project: str = ""
    parent: str = ""
    no_parent: bool = False


@dataclass
class Goal:
    """One registration."""

    type: str
    name: str
    custom: bool
    parent: str = ""
    inputs: Properties = field(default_factory=dict)
    provider: str = ""
    dependencies: list[str] = field(default_factory=list)
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    protect: bool = False
    retain_on_delete: bool = False
    delete_before_replace: bool | None = None
    ignore_changes: list[str] = field(default_factory=list)
    replace_on_changes: list[str] = field(default_factory=list)
    additional_secret_outputs: list[str] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    deleted_with: str = ""
    custom_timeouts: Json = field(default_factory=dict)
    source_position: str = ""
    read_id: Value = None
    version: str = ""
    plugin_url: str = ""

    def resource(self, urn: str, provider: str, old: Resource | None) -> Resource:
        """The resource as it would be stored, before anything has been done about it."""
        return Resource(
            urn=urn,
            type=self.type,
            custom=self.custom,
            inputs=self.inputs,
            parent=self.parent,
            protect=self.protect,
            dependencies=sorted(self.dependencies),
            provider=provider,
            property_dependencies={key: sorted(found) for key, found in self.property_dependencies.items()},
            additional_secret_outputs=self.additional_secret_outputs,
            custom_timeouts=self.custom_timeouts,
            retain_on_delete=self.retain_on_delete,
            deleted_with=self.deleted_with,
            created=old.created if old else "",
            modified=old.modified if old else "",
            source_position=self.source_position,
            ignore_changes=self.ignore_changes,
            replace_on_changes=self.replace_on_changes,
        )


class OldNames:
    """The names that resources had in the state, for those that the program calls otherwise now."""

    def __init__(self, stack: str, project: str) -> None:
        self._stack = stack
        self._project = project
        self._of_parent: dict[str, str] = {}
        self.taken: dict[str, str] = {}

    def find(self, goal: Goal, urn: str, olds: Mapping[str, Any], news: Container[str] = ()) -> str | None:
        """The URN the resource has in the old state: its own, or the first alias found there.

        `news`: the URNs that are registered already.  Raises EngineError where two resources would have been one.
        """
        if urn in self.taken:
            raise EngineError(
                f"Duplicate resource URN '{urn}' conflicting with alias on resource with URN '{self.taken[urn]}'"
            )
        if urn in olds:
            return urn
        for alias in self.candidates(goal):
            if alias not in olds:
                continue
            other = alias if alias in news else self.taken.get(alias)
            if other is not None:
                raise EngineError(
                    f"Duplicate resource alias '{alias}' applied to resource with URN '{urn}' conflicting with resource "
                    f"with URN '{other}'"
                )
            self.taken[alias] = urn
            self._of_parent[urn] = alias
            return alias
        return None

    def candidates(self, goal: Goal) -> list[str]:
        """All URNs the resource may have had: its aliases, and what follows from its parent's."""
        found = [self._collapse(goal, alias) for alias in goal.aliases]
        parent_was = self._of_parent.get(goal.parent)
        if parent_was:
            now_called = urns.name_of(goal.parent)
            own = [(goal.type, goal.name), *((urns.type_of(urn), urns.name_of(urn)) for urn in found)]
            found += [self._inherited(type_, name, now_called, parent_was) for type_, name in own]
        return list(dict.fromkeys(found))

    def _collapse(self, goal: Goal, alias: Alias) -> str:
        if alias.urn:
            return alias.urn
        parent = alias.parent or goal.parent
        if alias.parent:
            parent = self._of_parent.get(alias.parent, alias.parent)
        if alias.no_parent or (parent and urns.type_of(parent) == urns.STACK_TYPE):
            parent = ""
        return urns.make(
            alias.stack or self._stack,
            alias.project or self._project,
            parent,
            alias.type or goal.type,
            alias.name or goal.name,
        )

    def _inherited(self, type_: str, name: str, parent_now: str, parent_was: str) -> str:
        """A child's name often begins with its parent's; then it was renamed along with it."""
        if name.startswith(parent_now):
            name = urns.name_of(parent_was) + name.removeprefix(parent_now)
        return urns.make(self._stack, self._project, parent_was, type_, name)
