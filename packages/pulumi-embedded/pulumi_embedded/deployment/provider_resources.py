"""The provider resources of a run: those the program makes, and default ones, which are made at their first use."""

from __future__ import annotations

from collections.abc import Callable

from pulumi_embedded.deployment.goals import Goal
from pulumi_embedded.deployment.places import Placed, Places
from pulumi_embedded.deployment.steps import Steps
from pulumi_embedded.errors import NeedsCliError
from pulumi_embedded.properties import diffs, values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, is_provider
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import INTERNAL, package_of
from pulumi_embedded.providers.provider import PACKAGE, CheckFailure, Diff, Provider
from pulumi_embedded.providers.registry import Providers
from pulumi_embedded.state.serialization import Resource

# Shows failures of a check.  Raises StepError where there are any.
Tell = Callable[[Placed, list[CheckFailure]], None]


class ProviderResources:
    """To be used under the deployment's lock."""

    def __init__(
        self, config: Properties, places: Places, steps: Steps, providers: Providers, tell: Tell
    ) -> None:
        self._config = config
        self._places = places
        self._steps = steps
        self._providers = providers
        self._tell = tell
        self._defaults: dict[str, str] = {}
        self._unconfigured: set[str] = set()

    def place(self, goal: Goal) -> Placed:
        """Put a registration in its place, under the provider it names or the default one of its package."""
        provider = ""
        if goal.custom and is_provider(goal.type):
            goal.inputs = {**goal.inputs, **_plugin_inputs(goal.version, goal.plugin_url)}
        elif goal.custom:
            provider = goal.provider or self.default(package_of(goal.type), goal.version, goal.plugin_url)
        return self._places.place(goal, provider)

    def default(self, package: str, version: str = "", url: str = "") -> str:
        """The reference of the provider that resources have without naming one."""
        name = "default" + (f"_{version}" if version else "").replace(".", "_")
        key = f"{package}:{name}"
        if key not in self._defaults:
            goal = Goal(
                PROVIDER_PREFIX + package,
                name,
                custom=True,
                inputs=self._inputs_of(package),
                version=version,
                plugin_url=url,
            )
            placed = self.place(goal)
            self.keep(placed)
            self._defaults[key] = f"{placed.new.urn}::{placed.new.id}"
        return self._defaults[key]

    def _inputs_of(self, package: str) -> Properties:
        """The configuration of a default provider: its own part of the stack's, or for dynamic ones all of it."""
        if package == stack_references.PACKAGE:
            return {}
        if package == PACKAGE:
            return self._config
        start = f"{package}:"
        return {
            key.removeprefix(start): value for key, value in self._config.items() if key.startswith(start)
        }

    def of(self, new: Resource) -> Provider | None:
        """The provider of a resource; None for a component, and where a preview does not know its configuration."""
        if not new.custom or self.is_unconfigured(new.provider):
            return None
        return self._providers.get(new.provider)

    def is_unconfigured(self, reference: str) -> bool:
        """Whether the provider's configuration is not known yet."""
        return reference in self._unconfigured

    def keep(self, placed: Placed) -> None:
        """Make or update a provider resource, and let the provider be known."""
        new, old = placed.new, placed.old
        if package_of(new.type) not in (PACKAGE, stack_references.PACKAGE) and not values.has_unknown(
            new.inputs
        ):
            self._check_plugin(placed)
        new.outputs = {key: value for key, value in new.inputs.items() if key != INTERNAL}
        if old is None:
            self._steps.create(new)
        elif values.same(old.outputs, new.outputs):
            self._steps.same(old, new, placed.alias)
        else:
            diff = diffs.complete(Diff(False, by_engine=True), old.outputs, new.outputs, [])
            self._steps.update(old, new, diff, placed.alias)
        if values.has_unknown(new.inputs):
            self._unconfigured.add(f"{new.urn}::{new.id}")
        else:
            self._providers.register(f"{new.urn}::{new.id}", new.inputs)

    def _check_plugin(self, placed: Placed) -> None:
        """Let a plugin look at its own configuration.  Raises StepError once every failure has been shown."""
        new, old = placed.new, placed.old
        plugin = self._providers.prepare(new.urn, new.inputs)
        new.inputs, failures = plugin.check_config(placed.old_inputs, new.inputs)
        self._tell(placed, failures)
        if old is not None:
            keys = plugin.replaces_on(old.id, old.inputs, new.inputs)
            if keys:
                raise NeedsCliError(
                    f"replacing the provider {placed.goal.name!r} because of {', '.join(keys)}"
                )


def _plugin_inputs(version: str, url: str) -> Properties:
    """What a provider's inputs have beside its configuration."""
    if not version and not url:
        return {}
    named = {"version": version} if version else {}
    return {**named, INTERNAL: {"pluginDownloadURL": url} if url else {}}
