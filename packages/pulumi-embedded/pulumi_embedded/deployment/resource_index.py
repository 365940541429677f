"""The resources of the old state and those registered so far, by URN."""

from __future__ import annotations

from dataclasses import dataclass, field

from pulumi_embedded.deployment.goals import AliasResolver, Goal
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import urns
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state.serialization import Resource, StackState


@dataclass
class RegisteredResource:
    """A registration with its resource in the new state and in the old one. `alias`: old and new URN, if they differ."""

    goal: Goal
    new: Resource
    old: Resource | None
    alias: tuple[str, str] | None = None

    @property
    def old_inputs(self) -> Properties:
        return self.old.inputs if self.old else {}


@dataclass
class ResourceIndex:
    """The resources of the old state and those registered so far. Hold the deployment's lock while using it."""

    stack: str
    project: str
    olds: dict[str, Resource]
    aliases: AliasResolver
    news: dict[str, Resource] = field(default_factory=dict)
    _matched: set[int] = field(default_factory=set)

    @classmethod
    def from_state(cls, stack: str, project: str, state: StackState) -> ResourceIndex:
        """The index of a state before any registration."""
        olds = {old.urn: old for old in state.resources if not old.delete}
        return cls(stack, project, olds, AliasResolver(stack, project))

    def add_registration(self, goal: Goal, provider: str) -> RegisteredResource:
        """Add a registration. Raises EngineError if its URN is taken or its parent is missing."""
        urn = self._urn(goal)
        if urn in self.news:
            raise EngineError(f"Duplicate resource URN '{urn}'; try giving it a unique name")
        if goal.parent and goal.parent not in self.news:
            raise EngineError(
                f"the parent {goal.parent} of {goal.type} {goal.name!r} has not been registered"
            )
        old_urn, old = self._find_old(goal, urn)
        new = goal.resource(urn, provider, old)
        self.news[urn] = new
        if old is not None:
            self._matched.add(id(old))
        return RegisteredResource(goal, new, old, (old_urn, urn) if old_urn and old_urn != urn else None)

    def add_unchanged(self, goal: Goal) -> tuple[str, Resource | None]:
        """Add a registration that keeps the resource of the old state. Returns its URN, and that resource if there is one."""
        urn = self._urn(goal)
        _, old = self._find_old(goal, urn)
        if old is not None:
            self.news[urn] = old
        return urn, old

    def has_registration(self, old: Resource) -> bool:
        """Whether this row of the old state belongs to a registration."""
        return id(old) in self._matched

    def _urn(self, goal: Goal) -> str:
        return urns.make_urn(self.stack, self.project, goal.parent, goal.type, goal.name)

    def _find_old(self, goal: Goal, urn: str) -> tuple[str | None, Resource | None]:
        old_urn = self.aliases.find_old_urn(goal, urn, self.olds, self.news)
        return old_urn, self.olds.get(old_urn) if old_urn else None
