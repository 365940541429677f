"""Deletes resources: each after everything that depends on it, in parallel where possible."""

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.steps import StepRunner
from pulumi_embedded.deployment.targets import RunOptions
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties.urns import rename_reference
from pulumi_embedded.state.serialization import Resource


@dataclass
class Deletions:
    """Deletes a set of resources."""

    steps: StepRunner
    listener: Listener
    stopping: threading.Event
    options: RunOptions
    _deleted_urns: set[str] = field(default_factory=set, init=False)
    _waits_for: dict[int, set[int]] = field(default_factory=dict, init=False)

    def delete_all(self, resources: list[Resource], aliases: dict[str, str] | None = None) -> bool:
        """Delete them, and return whether all were deleted. If one is protected, none is deleted."""
        protected = [resource for resource in resources if resource.protect and not resource.delete]
        for resource in protected:
            self.listener.on_message(events.ERROR, resource.urn, _protected_message(resource))
        if protected and not self.steps.preview:
            return False
        self._deleted_urns = {resource.urn for resource in resources if not resource.delete}
        self._waits_for = _dependents(resources, aliases or {})
        return self._run(resources) and not protected

    def _run(self, resources: list[Resource]) -> bool:
        left = {id(resource): resource for resource in resources}
        running: dict[Future[None], Resource] = {}
        succeeded = True
        with ThreadPoolExecutor(max_workers=max(self.options.parallel, 1)) as pool:
            while left or running:
                if not self.stopping.is_set() and (succeeded or self.options.continue_on_error):
                    for key in [key for key in left if not self._waits_for[key]]:
                        resource = left.pop(key)
                        running[pool.submit(self._delete_resource, resource)] = resource
                if not running:
                    return succeeded and not left
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    resource = running.pop(future)
                    if isinstance(future.exception(), EngineError):
                        succeeded = False
                        continue
                    future.result()  # raises other exceptions
                    for waiting in self._waits_for.values():
                        waiting.discard(id(resource))
        return succeeded

    def _delete_resource(self, resource: Resource) -> None:
        op = events.DELETE_REPLACED if resource.delete else events.DELETE
        self.steps.delete_resource(resource, op=op, skip_provider=resource.deleted_with in self._deleted_urns)


def _dependents(resources: list[Resource], aliases: dict[str, str]) -> dict[int, set[int]]:
    """For each resource, by `id()`, the resources that must be deleted before it."""
    by_urn: dict[str, list[Resource]] = {}
    for resource in resources:
        by_urn.setdefault(rename_reference(resource.urn, aliases), []).append(resource)
    found: dict[int, set[int]] = {id(resource): set() for resource in resources}
    for resource in resources:
        for urn in resource.depends_on():
            for dependency in by_urn.get(rename_reference(urn, aliases), []):
                if dependency is not resource:
                    found[id(dependency)].add(id(resource))
    return found


def _protected_message(resource: Resource) -> str:
    return (
        f'resource "{resource.urn}" cannot be deleted\nbecause it is protected. To unprotect the resource, either remove '
        "the `protect` flag from the resource in your Pulumi program and run `pulumi up`, or use the command:\n"
        f"`pulumi state unprotect '{resource.urn}'`"
    )
