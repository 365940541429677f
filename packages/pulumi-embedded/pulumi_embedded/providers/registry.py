"""All providers of a run, by their references: dynamic ones, plugins, and the built-in one for stack references."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.program.processes import Child
from pulumi_embedded.project.config import Project
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import is_provider, name_of, provider_urn, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers import stack_references
from pulumi_embedded.providers.plugins import Plugin, check_there, package_of
from pulumi_embedded.providers.provider import PACKAGE, PROVIDER_TYPE, Provider
from pulumi_embedded.providers.stack_references import StackReferences
from pulumi_embedded.state.serialization import Resource


class Providers:
    """All providers of a run, by their references `<urn>::<id>`.

    The first process is started before anybody asks for it: it imports while the engine reads the state.
    """

    def __init__(
        self, project: Project, show: Callable[[str], None], parallel: int, stacks: StackReferences
    ) -> None:
        self._project = project
        self._stacks = stacks
        self._show = show
        self._parallel = parallel
        self._lock = threading.Lock()
        self._prepared: dict[str, Plugin] = {}
        self._providers: dict[str, Provider] = {}
        self._replaced: list[Provider] = []
        self._spare: Child | None = Child.script("providers/dynamic_host.py", project)
        self._address = ""

    def listen_at(self, address: str) -> None:
        """Where the engine listens for the providers' messages; to be called before the first is asked for."""
        self._address = address

    def prepare(self, urn: str, inputs: Properties) -> Plugin:
        """A plugin that can be asked about its configuration before it has got it; `register` takes it over."""
        made = Plugin(self._project, urn, inputs, self._address, self._show)
        with self._lock:
            before, self._prepared[urn] = self._prepared.get(urn), made
        if before is not None:
            before.close()
        return made

    def register(self, reference: str, inputs: Properties) -> None:
        """Let the provider be known; a process that has its configuration already (a preview's) is kept."""
        urn = provider_urn(reference)
        with self._lock:
            for other, known in self._providers.items():
                if provider_urn(other) == urn and values.same(
                    values.reveal(known.config), values.reveal(inputs)
                ):
                    self._providers[reference] = known
                    return
            before = self._providers.get(reference)
            self._providers[reference] = self._make(reference, inputs)
            if before is not None:
                self._replaced.append(before)

    def _make(self, reference: str, inputs: Properties) -> Provider:
        urn = provider_urn(reference)
        if type_of(urn) == PROVIDER_TYPE:
            return Provider(self._start(), inputs, self._show)
        if type_of(urn) == stack_references.PROVIDER_TYPE:
            return self._stacks
        plugin = self._prepared.pop(urn, None)
        plugin = plugin or Plugin(self._project, urn, inputs, self._address, self._show)
        plugin.config, plugin.id = inputs, reference.rpartition("::")[2]
        return plugin

    def get(self, reference: str) -> Provider:
        """The provider of a resource.  Raises EngineError where the state does not know it."""
        with self._lock:
            if reference not in self._providers:
                urn = provider_urn(reference)
                check_package(type_of(urn), name_of(urn))
                raise EngineError(
                    f"unknown provider {reference!r}: the state holds no such provider resource"
                )
            return self._providers[reference]

    def known(self, reference: str) -> Provider | None:
        """The provider, if it has been registered."""
        with self._lock:
            return self._providers.get(reference)

    def load(self, resources: list[Resource]) -> None:
        """Make the state's own providers known where this run has not brought its own."""
        for resource in resources:
            if is_provider(resource.type):
                reference = f"{resource.urn}::{resource.id}"
                with self._lock:
                    if reference in self._providers:
                        continue
                self.register(reference, resource.inputs)  # a plugin's process starts when it is needed

    def close(self) -> None:
        """End all processes; each finishes what it is doing."""
        threads = [threading.Thread(target=provider.close) for provider in self._all()]
        if self._spare is not None:
            threads.append(threading.Thread(target=self._spare.kill))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kill(self) -> None:
        """End all processes at once."""
        for provider in self._all():
            provider.kill()
        if self._spare is not None:
            self._spare.kill()

    def _all(self) -> set[Provider]:
        return {*self._providers.values(), *self._replaced, *self._prepared.values()}

    def _start(self) -> Child:
        child, self._spare = self._spare or Child.script("providers/dynamic_host.py", self._project), None
        environment = {
            "PULUMI_PROJECT": self._project.name,
            "PULUMI_ROOT_DIRECTORY": str(self._project.folder),
        }
        child.send({"address": self._address, "parallel": self._parallel, "environment": environment})
        child.follow(self._show, stdout=False)
        return child


def check_package(type_: str, name: str, version: str = "", what: str = "") -> None:
    """Refuse resources that nobody here can manage.  Raises EngineError with the package and the resource's name."""
    package = package_of(type_)
    if package == stack_references.PACKAGE:
        raise NeedsCliError(f"resource {name!r} of type {type_}")
    if package != PACKAGE:
        check_there(type_, name, version, what)
