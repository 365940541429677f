"""What the program registers, and the URNs that a registration may have in the old state."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import urns
from pulumi_embedded.properties.values import Value
from pulumi_embedded.state.serialization import Resource


@dataclass(frozen=True)
class Alias:
    """A former name of a resource; parts that are empty have not changed."""

    urn: str = ""
    name: str = ""
    type: str = ""
    stack: str = ""
    project: str = ""
    parent: str = ""
    no_parent: bool = False


@dataclass
class Goal(Resource):
    """A registration: the resource that the program wants. `provider` is empty for the default one; there is no URN yet."""

    urn: str = ""
    type: str = ""
    name: str = ""
    delete_before_replace: bool | None = None
    aliases: list[Alias] = field(default_factory=list)
    read_id: Value = None
    version: str = ""
    plugin_url: str = ""

    def resource(self, urn: str, provider: str, old: Resource | None) -> Resource:
        """The resource for the new state, before any step."""
        new = Resource(**{field_.name: getattr(self, field_.name) for field_ in fields(Resource)})
        new.urn, new.provider = urn, provider
        new.dependencies = sorted(self.dependencies)
        new.property_dependencies = {key: sorted(on) for key, on in self.property_dependencies.items()}
        if old is not None:
            new.created, new.modified = old.created, old.modified
        return new


@dataclass
class AliasResolver:
    """Finds the URNs that renamed resources have in the old state. `taken`: old URN → new URN."""

    stack: str
    project: str
    _old_urns: dict[str, str] = field(default_factory=dict, init=False)
    taken: dict[str, str] = field(default_factory=dict, init=False)

    def find_old_urn(
        self, goal: Goal, urn: str, olds: Mapping[str, Any], news: Container[str] = ()
    ) -> str | None:
        """The URN of the resource in the old state: its own, or the first alias that exists there.

        `news`: the URNs registered so far. Raises EngineError if two resources claim the same old one.
        """
        if urn in self.taken:
            raise EngineError(
                f"Duplicate resource URN '{urn}' conflicting with alias on resource with URN '{self.taken[urn]}'"
            )
        if urn in olds:
            return urn
        for alias in self.possible_old_urns(goal):
            if alias not in olds:
                continue
            other = alias if alias in news else self.taken.get(alias)
            if other is not None:
                raise EngineError(
                    f"Duplicate resource alias '{alias}' applied to resource with URN '{urn}' conflicting with resource "
                    f"with URN '{other}'"
                )
            self.taken[alias] = urn
            self._old_urns[urn] = alias
            return alias
        return None

    def possible_old_urns(self, goal: Goal) -> list[str]:
        """All URNs the resource may have had: from its aliases, and from those of its parent."""
        found = [self._old_urn(goal, alias) for alias in goal.aliases]
        old_parent = self._old_urns.get(goal.parent)
        if old_parent:
            new_name = urns.name_of(goal.parent)
            own = [(goal.type, goal.name), *((urns.type_of(urn), urns.name_of(urn)) for urn in found)]
            found += [self._old_urn_of_child(type_, name, new_name, old_parent) for type_, name in own]
        return list(dict.fromkeys(found))

    def _old_urn(self, goal: Goal, alias: Alias) -> str:
        if alias.urn:
            return alias.urn
        parent = alias.parent or goal.parent
        if alias.parent:
            parent = self._old_urns.get(alias.parent, alias.parent)
        if alias.no_parent or (parent and urns.type_of(parent) == urns.STACK_TYPE):
            parent = ""
        return urns.make_urn(
            alias.stack or self.stack,
            alias.project or self.project,
            parent,
            alias.type or goal.type,
            alias.name or goal.name,
        )

    def _old_urn_of_child(self, type_: str, name: str, parent_name: str, old_parent: str) -> str:
        """The old URN of a child. A child whose name begins with its parent's name was renamed together with it."""
        if name.startswith(parent_name):
            name = urns.name_of(old_parent) + name.removeprefix(parent_name)
        return urns.make_urn(self.stack, self.project, old_parent, type_, name)
