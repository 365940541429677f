"""Which resource of the old state a registration is about, and its place in the new one."""

from __future__ import annotations

from dataclasses import dataclass, field

from pulumi_embedded.deployment.goals import Goal, OldNames
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import urns
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state.serialization import Resource, StackState


@dataclass
class Placed:
    """A registration whose place in old and new state is known.  `alias`: its URN there and here, if they differ."""

    goal: Goal
    new: Resource
    old: Resource | None
    alias: tuple[str, str] | None = None

    @property
    def old_inputs(self) -> Properties:
        """Its inputs in the old state."""
        return self.old.inputs if self.old else {}


@dataclass
class Places:
    """The old state's resources and those registered so far, by URN.  To be used under the deployment's lock."""

    stack: str
    project: str
    olds: dict[str, Resource]
    names: OldNames
    news: dict[str, Resource] = field(default_factory=dict)
    _matched: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, stack: str, project: str, state: StackState) -> Places:
        """The places of a state that nothing has been registered against yet."""
        olds = {old.urn: old for old in state.resources if not old.delete}
        return cls(stack, project, olds, OldNames(stack, project))

    def place(self, goal: Goal, provider: str) -> Placed:
        """Put the registration in its place.  Raises EngineError where that is taken or its parent is not there."""
        urn = self._urn(goal)
        if urn in self.news:
            raise EngineError(f"Duplicate resource URN '{urn}'; try giving it a unique name")
        if goal.parent and goal.parent not in self.news:
            raise EngineError(
                f"the parent {goal.parent} of {goal.type} {goal.name!r} has not been registered"
            )
        was, old = self._old(goal, urn)
        new = goal.resource(urn, provider, old)
        self.news[urn] = new
        if old is not None:
            self._matched.add(id(old))
        return Placed(goal, new, old, (was, urn) if was and was != urn else None)

    def look(self, goal: Goal) -> tuple[str, Resource | None]:
        """The registration's URN, and its resource as the old state has it, which stays in its place."""
        urn = self._urn(goal)
        _, old = self._old(goal, urn)
        if old is not None:
            self.news[urn] = old
        return urn, old

    def is_matched(self, old: Resource) -> bool:
        """Whether a registration has asked for this row of the old state."""
        return id(old) in self._matched

    def _urn(self, goal: Goal) -> str:
        return urns.make(self.stack, self.project, goal.parent, goal.type, goal.name)

    def _old(self, goal: Goal, urn: str) -> tuple[str | None, Resource | None]:
        was = self.names.find(goal, urn, self.olds, self.news)
        return was, self.olds.get(was) if was else None
