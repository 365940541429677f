"""Decides what happens to a resource: its provider checks and compares it; what else must be deleted if it is replaced."""

import threading
from dataclasses import dataclass, field

from pulumi_embedded.deployment.provider_resources import OnCheckFailures
from pulumi_embedded.deployment.resource_index import RegisteredResource, ResourceIndex
from pulumi_embedded.deployment.targets import ALL, Targets
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.properties import diffs, paths, urns, values
from pulumi_embedded.properties.values import UNKNOWN_TEXT, Properties
from pulumi_embedded.providers.provider import Diff, Provider
from pulumi_embedded.providers.registry import ProviderRegistry
from pulumi_embedded.state.serialization import Resource, StackState


@dataclass
class Cascade:
    """The resources to delete, in order, before a resource is replaced. `finished` is set once no more of them will be deleted."""

    resources: list[Resource]
    finished: threading.Event = field(default_factory=threading.Event)


@dataclass
class Decisions:
    """The decisions of one run. `deleted_first`: which cascade deletes a URN before it is created again."""

    state: StackState
    index: ResourceIndex
    providers: ProviderRegistry
    on_check_failures: OnCheckFailures
    targets: Targets = ALL
    deleted_first: dict[str, Cascade] = field(default_factory=dict, init=False)

    def check_inputs(self, registered: RegisteredResource, provider: Provider | None) -> None:
        """Let the provider check the inputs. Raises StepError after reporting what it does not accept."""
        inputs = registered.goal.inputs
        if registered.old is not None:
            inputs = paths.keep_old_values(inputs, registered.old.inputs, registered.goal.ignore_changes)
        registered.new.inputs = inputs
        if provider is None:
            return
        registered.new.inputs, failures = provider.check(registered.new.urn, registered.old_inputs, inputs)
        self.on_check_failures(registered, failures)

    def check_inputs_as_new(self, registered: RegisteredResource, provider: Provider | None) -> None:
        """Check again without the old resource, whose values the first check may have carried over."""
        if provider is None:
            return
        old, registered.old = registered.old, None
        try:
            self.check_inputs(registered, provider)
        finally:
            registered.old = old

    def diff_resource(self, registered: RegisteredResource, provider: Provider | None) -> Diff | None:
        """How the old and the new resource differ, or None if there is no old one."""
        old, new, goal = registered.old, registered.new, registered.goal
        if old is None:
            return None
        if old.external:
            raise NeedsCliError(
                f"managing the resource {goal.name!r}, which this stack has only read until now,"
            )
        if self.targets.is_named_for_replacement(new.urn):
            return Diff(True, ["id"])
        if old.custom != new.custom or (new.custom and self._has_moved_provider(old, new)):
            return Diff(True, ["provider"])
        if new.deleted_with and new.deleted_with in self.deleted_first:
            return Diff(True, ["deletedWith"])
        if provider is None:
            return diffs.complete_diff(
                Diff(False, by_engine=True), old.inputs, new.inputs, goal.replace_on_changes
            )
        return _provider_diff(provider, old, new.inputs, goal.ignore_changes, goal.replace_on_changes)

    def _has_moved_provider(self, old: Resource, new: Resource) -> bool:
        """Whether the program now names another provider resource, which may be configured for another account."""
        before, after = urns.provider_urn(old.provider), urns.provider_urn(new.provider)
        return self.index.aliases.taken.get(before, before) != after and UNKNOWN_TEXT not in new.provider

    def find_cascade(self, registered: RegisteredResource, diff: Diff) -> list[Resource]:
        """What must be deleted, in order, before the resource is created again. Empty if it is created first."""
        old, goal = registered.old, registered.goal
        if old is None or not diff.changes or not diff.replaces or old.pending_replacement:
            return []
        if not (
            diff.delete_before_replace if goal.delete_before_replace is None else goal.delete_before_replace
        ):
            return []
        dependents = self._dependents_to_replace(old)
        for resource in dependents:
            if resource.protect:
                raise EngineError(
                    f'unable to replace resource "{resource.urn}" as part of replacing "{old.urn}" as it is currently '
                    "marked for protection. To unprotect the resource, either remove the `protect` flag from the "
                    "resource in your Pulumi program and run `pulumi up`, or use the command:\n"
                    f"`pulumi state unprotect '{resource.urn}'`"
                )
        return [*reversed(dependents), old]

    def _dependents_to_replace(self, root: Resource) -> list[Resource]:
        """The old resources that must be replaced because something they depend on is, dependencies first."""
        replaced = {root.urn}
        affected = {root.urn}
        found = []
        for resource in self.state.resources:
            if (
                resource.delete
                or self.index.has_registration(resource)
                or not resource.depends_on() & affected
            ):
                continue
            affected.add(resource.urn)
            if resource.custom and not resource.external and self._must_be_replaced(resource, replaced):
                replaced.add(resource.urn)
                found.append(resource)
        return found

    def _must_be_replaced(self, resource: Resource, replaced: set[str]) -> bool:
        """Ask its provider, with unknown values for the inputs that come from replaced resources."""
        if resource.deleted_with in replaced or urns.provider_urn(resource.provider) in replaced:
            return True
        changing = {key for key, urns_ in resource.property_dependencies.items() if replaced & set(urns_)}
        inputs = {key: values.UNKNOWN if key in changing else value for key, value in resource.inputs.items()}
        if not changing.intersection(inputs):
            return False
        self.providers.load_providers(self.state.resources)
        provider = self.providers.get_provider(resource.provider)
        diff = _provider_diff(
            provider, resource, inputs, resource.ignore_changes, resource.replace_on_changes
        )
        return bool(diff.replaces)


def _provider_diff(
    provider: Provider, old: Resource, inputs: Properties, ignore: list[str], replace_on: list[str]
) -> Diff:
    return diffs.complete_diff(provider.diff(old, inputs, ignore), old.inputs, inputs, replace_on)
