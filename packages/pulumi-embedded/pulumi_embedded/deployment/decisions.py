"""What is to happen to one resource: its provider checks and compares it; what else has to go when it is replaced."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pulumi_embedded.deployment.places import Placed, Places
from pulumi_embedded.deployment.provider_resources import Tell
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.properties import diffs, paths, urns, values
from pulumi_embedded.properties.values import UNKNOWN_TEXT
from pulumi_embedded.providers.provider import Diff, Provider
from pulumi_embedded.providers.registry import Providers
from pulumi_embedded.state.serialization import Resource, StackState


@dataclass
class Cascade:
    """What is deleted, in order, before a resource is made again; `over`: as much of that has been done as will be."""

    resources: list[Resource]
    over: threading.Event = field(default_factory=threading.Event)


class Decisions:
    """Decides for one run.  `gone`: the URNs of what is deleted to be made again, and the cascade that deletes it."""

    def __init__(self, state: StackState, places: Places, providers: Providers, tell: Tell) -> None:
        self._state = state
        self._places = places
        self._providers = providers
        self._tell = tell
        self.gone: dict[str, Cascade] = {}

    def check(self, placed: Placed, provider: Provider | None) -> None:
        """Let the provider check the inputs.  Raises StepError once every failure has been shown."""
        inputs = placed.goal.inputs
        if placed.old is not None:
            inputs = paths.reset(inputs, placed.old.inputs, placed.goal.ignore_changes)
        placed.new.inputs = inputs
        if provider is None:
            return
        placed.new.inputs, failures = provider.check(placed.new.urn, placed.old_inputs, inputs)
        self._tell(placed, failures)

    def check_anew(self, placed: Placed, provider: Provider | None) -> None:
        """Check without the old resource: the first check carried over what only held for that."""
        if provider is None:
            return
        old, placed.old = placed.old, None
        try:
            self.check(placed, provider)
        finally:
            placed.old = old

    def diff(self, placed: Placed, provider: Provider | None) -> Diff | None:
        """How old and new differ; None where there is no old."""
        old, new, goal = placed.old, placed.new, placed.goal
        if old is None:
            return None
        if old.external:
            raise NeedsCliError(f"managing {goal.name!r}, which this stack has only read until now,")
        if old.custom != new.custom or (new.custom and self._moved_provider(old, new)):
            return Diff(True, ["provider"])
        if new.deleted_with and new.deleted_with in self.gone:
            return Diff(True, ["deletedWith"])
        said = Diff(False, by_engine=True)
        if provider is not None:
            said = provider.diff(old, old.inputs, new.inputs, goal.ignore_changes) or said
        return diffs.complete(said, old.inputs, new.inputs, goal.replace_on_changes)

    def _moved_provider(self, old: Resource, new: Resource) -> bool:
        """Whether another provider resource manages it now: its configuration may reach another place."""
        before, after = urns.provider_urn(old.provider), urns.provider_urn(new.provider)
        return self._places.names.taken.get(before, before) != after and UNKNOWN_TEXT not in new.provider

    def cascade_of(self, placed: Placed, diff: Diff) -> list[Resource]:
        """What is to be deleted before `placed` is made again, in order; empty unless that comes first."""
        old, goal = placed.old, placed.goal
        if old is None or not diff.changes or not diff.replaces or old.pending_replacement:
            return []
        first = (
            diff.delete_before_replace if goal.delete_before_replace is None else goal.delete_before_replace
        )
        if not first:
            return []
        dependents = self._dependents_to_replace(old)
        for resource in dependents:
            if resource.protect:
                raise EngineError(
                    f'unable to replace resource "{resource.urn}" as part of replacing "{old.urn}" as it is currently '
                    "marked for protection. To unprotect the resource, remove the `protect` flag from the resource in "
                    "your Pulumi program and run `up`"
                )
        return [*reversed(dependents), old]

    def _dependents_to_replace(self, root: Resource) -> list[Resource]:
        """Those of the old state that would be replaced by a change of what they depend on, in the state's order.

        A provider is asked with unknowns in place of the values that come from resources that go.
        """
        going = {root.urn}
        touched = {root.urn}
        found = []
        for resource in self._state.resources:
            if resource.delete or self._places.is_matched(resource) or not resource.depends_on() & touched:
                continue
            touched.add(resource.urn)
            if resource.custom and not resource.external and self._would_go(resource, going):
                going.add(resource.urn)
                found.append(resource)
        return found

    def _would_go(self, resource: Resource, going: set[str]) -> bool:
        if resource.deleted_with in going or urns.provider_urn(resource.provider) in going:
            return True
        changing = {key for key, found in resource.property_dependencies.items() if going.intersection(found)}
        inputs = {key: values.UNKNOWN if key in changing else value for key, value in resource.inputs.items()}
        if not changing.intersection(inputs):
            return False
        self._providers.load(self._state.resources)
        provider = self._providers.get(resource.provider)
        said = provider.diff(resource, resource.inputs, inputs, resource.ignore_changes) or Diff(
            False, by_engine=True
        )
        return bool(diffs.complete(said, resource.inputs, inputs, resource.replace_on_changes).replaces)
