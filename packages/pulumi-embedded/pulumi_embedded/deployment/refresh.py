"""Reading every resource as it is, and taking that over into the state.  No program runs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener, ResourceStep
from pulumi_embedded.deployment.targets import Targets
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import diffs, values
from pulumi_embedded.properties.urns import STACK_TYPE, is_provider
from pulumi_embedded.providers.provider import Diff, PartialError
from pulumi_embedded.providers.registry import Providers
from pulumi_embedded.state.serialization import Resource, StackState, now, prune_references
from pulumi_embedded.state.snapshot import StateSnapshot


class Refresh:
    """One refresh of a state; with no snapshot, the state in memory alone.

    `first`: before an update, whose steps are what is counted; the refresh only says what it found.
    """

    def __init__(
        self,
        state: StackState,
        providers: Providers,
        listener: Listener,
        snapshot: StateSnapshot | None,
        *,
        first: bool,
    ) -> None:
        self._state = state
        self._providers = providers
        self._listener = listener
        self._snapshot = snapshot
        self._first = first
        self.stopping = threading.Event()
        self.targets = Targets()

    def run(self, parallel: int) -> bool:
        """Read them all; whether every read worked.  What is gone is dropped, with the references to it.

        Raises EngineError for a target that is no resource.
        """
        self.targets.check_known(
            (resource.urn for resource in self._state.resources), "no resource named '{}' found"
        )
        self._providers.load(self._state.resources)
        readable = [
            resource
            for resource in self._state.resources
            if _is_readable(resource) and self.targets.has(resource.urn)
        ]
        with ThreadPoolExecutor(max_workers=max(parallel, 1)) as pool:
            results = dict(zip(map(id, readable), pool.map(self._read, readable), strict=True))
        kept, gone = [], []
        for resource in self._state.resources:
            found = results.get(id(resource), resource)
            if found is None:
                gone.append(resource)
                if self._snapshot:
                    self._snapshot.write(drop=[resource], wait=False)
            else:
                kept.append(resource if isinstance(found, EngineError) else found)
        self._state.resources = kept
        for resource in kept:
            if resource.type == STACK_TYPE and not self._first and self.targets.has(resource.urn):
                self._listener.outputs(resource.outputs, resource.outputs)
        for resource in prune_references(kept, gone):
            if self._snapshot:
                self._snapshot.write(put=[resource], wait=False)
        return not self.stopping.is_set() and not any(
            isinstance(found, EngineError) for found in results.values()
        )

    def _read(self, old: Resource) -> Resource | EngineError | None:
        """The resource as it is now, None where it is gone, or why it could not be read."""
        step = ResourceStep(events.REFRESH, old.urn, old.type, old, None)
        if self.stopping.is_set():
            return EngineError("canceled")
        self._listener.began(step)
        try:
            new = self._now(old, step)
        except EngineError as error:
            self._listener.failed(step, str(error))
            return error
        step.seconds = time.monotonic() - step.started
        step.new = new
        self._listener.ended(step)
        return new

    def _now(self, old: Resource, step: ResourceStep) -> Resource | None:
        provider = self._providers.get(old.provider)
        unwell: list[str] = []
        try:
            id_, outputs, inputs = provider.read(old)
        except PartialError as error:
            id_, unwell, inputs = error.id, error.reasons, error.inputs
            outputs = values.mark_secrets(error.outputs, old.outputs)
            inputs = None if inputs is None else values.mark_secrets(inputs, old.inputs)
            listed = "".join(f"\n* {reason}" for reason in unwell)
            self._listener.message(
                events.WARNING, old.urn, f"Refreshed resource is in an unhealthy state:{listed}"
            )
        if not id_:
            self._say(step, events.DELETE, "gone")
            return None
        new = old.copy(
            id=id_,
            inputs=old.inputs if inputs is None else inputs,
            outputs=values.make_secret(outputs, old.additional_secret_outputs),
            init_errors=unwell,
        )
        new.uid = old.uid
        same = values.same(old.inputs, new.inputs) and values.same(old.outputs, new.outputs)
        if same and old.id == new.id and old.init_errors == unwell:
            self._say(step, events.SAME, "")
            return old
        new.modified = now()
        self._say(step, events.UPDATE, "has drifted")
        step.diff = diffs.complete(Diff(False, by_engine=True), old.outputs, new.outputs, [])
        if self._snapshot:
            self._snapshot.write(put=[new], wait=False)
        return new

    def _say(self, step: ResourceStep, op: str, note: str) -> None:
        if self._first:
            step.note = note
        else:
            step.op = op


def _is_readable(resource: Resource) -> bool:
    return resource.custom and not is_provider(resource.type) and not resource.pending_replacement
