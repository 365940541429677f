"""The provider resources of a run: those of the program, and default ones, which are created when first used."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pulumi_embedded.deployment.goals import Goal
from pulumi_embedded.deployment.resource_index import RegisteredResource, ResourceIndex
from pulumi_embedded.deployment.steps import StepRunner
from pulumi_embedded.errors import NeedsCliError
from pulumi_embedded.properties import diffs, values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, is_provider
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import INTERNAL, package_of
from pulumi_embedded.providers.provider import PACKAGE, CheckFailure, Diff, Provider
from pulumi_embedded.providers.registry import ProviderRegistry
from pulumi_embedded.state.serialization import Resource

# Reports the failures of a provider's input check. Raises StepError if there are any.
OnCheckFailures = Callable[[RegisteredResource, list[CheckFailure]], None]


@dataclass
class ProviderResources:
    """Creates and updates them. Hold the deployment's lock while using it."""

    config: Properties
    index: ResourceIndex
    steps: StepRunner
    providers: ProviderRegistry
    on_check_failures: OnCheckFailures
    _defaults: dict[str, str] = field(default_factory=dict, init=False)
    _unconfigured: set[str] = field(default_factory=set, init=False)

    def register_resource(self, goal: Goal) -> RegisteredResource:
        """Add a registration to the index, with the provider it names or the default one of its package."""
        provider = ""
        if goal.custom and is_provider(goal.type):
            goal.inputs = {**goal.inputs, **_plugin_inputs(goal.version, goal.plugin_url)}
        elif goal.custom:
            provider = goal.provider or self.default_reference(
                package_of(goal.type), goal.version, goal.plugin_url
            )
        return self.index.add_registration(goal, provider)

    def default_reference(self, package: str, version: str = "", url: str = "") -> str:
        """The reference of a package's default provider."""
        name = "default" + (f"_{version}" if version else "").replace(".", "_")
        key = f"{package}:{name}"
        if key not in self._defaults:
            goal = Goal(
                type=PROVIDER_PREFIX + package,
                name=name,
                custom=True,
                inputs=self._default_inputs(package),
                version=version,
                plugin_url=url,
            )
            registered = self.register_resource(goal)
            self.apply_provider(registered)
            self._defaults[key] = f"{registered.new.urn}::{registered.new.id}"
        return self._defaults[key]

    def _default_inputs(self, package: str) -> Properties:
        """The configuration of a default provider: the stack's values for its package, or for dynamic ones all values."""
        if package == stack_references.PACKAGE:
            return {}
        if package == PACKAGE:
            return self.config
        prefix = f"{package}:"
        return {
            key.removeprefix(prefix): value for key, value in self.config.items() if key.startswith(prefix)
        }

    def provider_of(self, new: Resource) -> Provider | None:
        """The provider of a resource. None for a component, or if a preview does not know the provider's configuration."""
        if not new.custom or self.is_configuration_unknown(new.provider):
            return None
        return self.providers.get_provider(new.provider)

    def is_configuration_unknown(self, reference: str) -> bool:
        """Whether the provider's configuration is not known yet."""
        return reference in self._unconfigured

    def apply_provider(self, registered: RegisteredResource) -> None:
        """Create or update a provider resource, and make the provider available."""
        new, old = registered.new, registered.old
        is_plugin = package_of(new.type) not in (PACKAGE, stack_references.PACKAGE)
        if is_plugin and not values.has_unknown(new.inputs):
            self._check_plugin(registered)
        new.outputs = {key: value for key, value in new.inputs.items() if key != INTERNAL}
        if old is None:
            self.steps.create_resource(new)
        elif values.is_same(old.outputs, new.outputs):
            self.steps.keep_resource(old, new, registered.alias)
        else:
            diff = diffs.complete_diff(Diff(False, by_engine=True), old.outputs, new.outputs, [])
            self.steps.update_resource(old, new, diff, registered.alias)
        if values.has_unknown(new.inputs):
            self._unconfigured.add(f"{new.urn}::{new.id}")
        else:
            self.providers.register_provider(f"{new.urn}::{new.id}", new.inputs)

    def _check_plugin(self, registered: RegisteredResource) -> None:
        """Let a plugin check its own configuration. Raises StepError after reporting what it does not accept."""
        new, old = registered.new, registered.old
        plugin = self.providers.prepare_plugin(new.urn, new.inputs)
        new.inputs, failures = plugin.check_config(registered.old_inputs, new.inputs)
        self.on_check_failures(registered, failures)
        if old is not None:
            keys = plugin.properties_that_force_replacement(old.id, old.inputs, new.inputs)
            if keys:
                raise NeedsCliError(
                    f"replacing the provider {registered.goal.name!r} because of {', '.join(keys)}"
                )


def _plugin_inputs(version: str, url: str) -> Properties:
    """A provider resource's inputs besides its configuration."""
    if not version and not url:
        return {}
    versions = {"version": version} if version else {}
    return {**versions, INTERNAL: {"pluginDownloadURL": url} if url else {}}
