"""All providers of a run, by reference: dynamic providers, plugins, and the built-in one for stack references."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.program.processes import ChildProcess
from pulumi_embedded.project.config import Project
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import is_provider, name_of, provider_urn, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import Plugin, check_installed, package_of
from pulumi_embedded.providers.provider import PACKAGE, PROVIDER_TYPE, DynamicProvider, Provider
from pulumi_embedded.providers.stack_references import StackReferences
from pulumi_embedded.state.serialization import Resource


@dataclass
class ProviderRegistry:
    """All providers of a run, by reference (`<urn>::<id>`).

    The process of the first dynamic provider is started at once, so that it imports while the engine reads the state.
    """

    project: Project
    on_line: Callable[[str], None]
    parallel: int
    stacks: StackReferences
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _prepared: dict[str, Plugin] = field(default_factory=dict, init=False)
    _providers: dict[str, Provider] = field(default_factory=dict, init=False)
    _replaced: list[Provider] = field(default_factory=list, init=False)
    _spare: ChildProcess | None = field(init=False)
    _address: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._spare = self._new_host()

    def _new_host(self) -> ChildProcess:
        return ChildProcess.start_script("program/dynamic_host.py", self.project)

    def set_address(self, address: str) -> None:
        """Set where the engine listens for messages of providers; call this before the first `get`."""
        self._address = address

    def prepare_plugin(self, urn: str, inputs: Properties) -> Plugin:
        """A plugin that can check its configuration before it is configured; `register` uses it later."""
        plugin = Plugin(self.project, urn, inputs, self._address, self.on_line)
        with self._lock:
            before, self._prepared[urn] = self._prepared.get(urn), plugin
        if before is not None:
            before.close()
        return plugin

    def register_provider(self, reference: str, inputs: Properties) -> None:
        """Add a provider. A process that already has this configuration, from the preview, is reused."""
        urn = provider_urn(reference)
        with self._lock:
            for other, known in self._providers.items():
                if provider_urn(other) == urn and values.is_same(
                    values.reveal_secrets(known.config), values.reveal_secrets(inputs)
                ):
                    self._providers[reference] = known
                    return
            before = self._providers.get(reference)
            self._providers[reference] = self._new_provider(reference, inputs)
            if before is not None:
                self._replaced.append(before)

    def _new_provider(self, reference: str, inputs: Properties) -> Provider:
        urn = provider_urn(reference)
        if type_of(urn) == PROVIDER_TYPE:
            return DynamicProvider(self._start_host(), inputs, self.on_line)
        if type_of(urn) == stack_references.PROVIDER_TYPE:
            return self.stacks
        plugin = self._prepared.pop(urn, None)
        plugin = plugin or Plugin(self.project, urn, inputs, self._address, self.on_line)
        plugin.config, plugin.id = inputs, reference.rpartition("::")[2]
        return plugin

    def get_provider(self, reference: str) -> Provider:
        """The provider of a resource. Raises EngineError if it is unknown."""
        with self._lock:
            if reference not in self._providers:
                urn = provider_urn(reference)
                check_package(type_of(urn), name_of(urn))
                raise EngineError(f"unknown provider {reference!r}: the state has no such provider resource")
            return self._providers[reference]

    def find_provider(self, reference: str) -> Provider | None:
        """The provider, if it has been registered."""
        with self._lock:
            return self._providers.get(reference)

    def load_providers(self, resources: list[Resource]) -> None:
        """Register the state's providers that this run has not registered itself."""
        for resource in resources:
            if is_provider(resource.type):
                reference = f"{resource.urn}::{resource.id}"
                with self._lock:
                    if reference in self._providers:
                        continue
                self.register_provider(reference, resource.inputs)

    def close(self) -> None:
        """End all processes after their current requests."""
        threads = [threading.Thread(target=provider.close) for provider in self._all()]
        if self._spare is not None:
            threads.append(threading.Thread(target=self._spare.kill))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kill(self) -> None:
        for provider in self._all():
            provider.kill()
        if self._spare is not None:
            self._spare.kill()

    def _all(self) -> set[Provider]:
        return {*self._providers.values(), *self._replaced, *self._prepared.values()}

    def _start_host(self) -> ChildProcess:
        child, self._spare = self._spare or self._new_host(), None
        environment = {
            "PULUMI_PROJECT": self.project.name,
            "PULUMI_ROOT_DIRECTORY": str(self.project.folder),
        }
        child.send_settings({"address": self._address, "parallel": self.parallel, "environment": environment})
        child.forward_output(self.on_line, stdout=False)
        return child


def check_package(type_: str, name: str, version: str = "", what: str = "") -> None:
    """Raises EngineError if no provider can manage resources of this type."""
    package = package_of(type_)
    if package == stack_references.PACKAGE:
        raise NeedsCliError(f"resource {name!r} of type {type_}")
    if package != PACKAGE:
        check_installed(type_, name, version, what)
