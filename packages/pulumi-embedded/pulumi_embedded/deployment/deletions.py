"""Deleting many resources: each after everything that depends on it, in parallel where nothing stands between."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.steps import Steps
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties.urns import rename
from pulumi_embedded.state.serialization import Resource


class _Settings(Protocol):
    @property
    def continue_on_error(self) -> bool:
        """Whether to go on after a failure."""

    @property
    def parallel(self) -> int:
        """How many at a time."""


class Deletes:
    """One round of deletions."""

    def __init__(
        self, steps: Steps, listener: Listener, settings: _Settings, stopping: threading.Event
    ) -> None:
        self._steps = steps
        self._listener = listener
        self._settings = settings
        self._stopping = stopping
        self._going: set[str] = set()
        self._waits_for: dict[int, set[int]] = {}

    def run(self, resources: list[Resource], aliases: dict[str, str] | None = None) -> bool:
        """Delete them; whether all of them are gone.  Protected ones are named before anything is touched."""
        protected = [resource for resource in resources if resource.protect and not resource.delete]
        for resource in protected:
            self._listener.message(events.ERROR, resource.urn, _protected(resource))
        if protected and not self._steps.preview:
            return False
        self._going = {resource.urn for resource in resources if not resource.delete}
        self._waits_for = _dependents(resources, aliases or {})
        return self._run(resources) and not protected

    def _run(self, resources: list[Resource]) -> bool:
        left = {id(resource): resource for resource in resources}
        running: dict[Future[None], Resource] = {}
        good = True
        with ThreadPoolExecutor(max_workers=max(self._settings.parallel, 1)) as pool:
            while left or running:
                if not self._stopping.is_set() and (good or self._settings.continue_on_error):
                    for key in [key for key in left if not self._waits_for[key]]:
                        resource = left.pop(key)
                        running[pool.submit(self._delete, resource)] = resource
                if not running:
                    return good and not left
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    good = self._settle(future, running.pop(future)) and good
        return good

    def _settle(self, future: Future[None], resource: Resource) -> bool:
        """Note one outcome; what had to wait for a resource that is still there waits on."""
        error = future.exception()
        if error is None:
            for waiting in self._waits_for.values():
                waiting.discard(id(resource))
            return True
        if not isinstance(error, EngineError):
            raise error
        return False

    def _delete(self, resource: Resource) -> None:
        op = events.DELETE_REPLACED if resource.delete else events.DELETE
        self._steps.delete(resource, op=op, skip_provider=resource.deleted_with in self._going)


def _dependents(resources: list[Resource], aliases: dict[str, str]) -> dict[int, set[int]]:
    """For each resource, by id(), those that have to go before it."""
    by_urn: dict[str, list[Resource]] = {}
    for resource in resources:
        by_urn.setdefault(rename(resource.urn, aliases), []).append(resource)
    found: dict[int, set[int]] = {id(resource): set() for resource in resources}
    for resource in resources:
        for urn in resource.depends_on():
            for target in by_urn.get(rename(urn, aliases), []):
                if target is not resource:
                    found[id(target)].add(id(resource))
    return found


def _protected(resource: Resource) -> str:
    return (
        f'resource "{resource.urn}" cannot be deleted\nbecause it is protected. To unprotect the resource, remove the '
        "`protect` flag from the resource in your Pulumi program and run `up`"
    )
