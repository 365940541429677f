"""Updates the state to match the actual resources, which the providers read."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener, ResourceStep
from pulumi_embedded.deployment.targets import RunOptions
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import diffs, values
from pulumi_embedded.properties.urns import STACK_TYPE, is_provider
from pulumi_embedded.providers.provider import Diff, PartialError
from pulumi_embedded.providers.registry import ProviderRegistry
from pulumi_embedded.state.serialization import Resource, StackState, current_time, prune_references
from pulumi_embedded.state.snapshot import StateSnapshot


@dataclass
class Refresh:
    """One refresh of a state. Without a snapshot, only the state in memory is refreshed.

    With `--refresh`, it precedes an update, so its findings are notes and are not counted as changes.
    """

    state: StackState
    providers: ProviderRegistry
    listener: Listener
    snapshot: StateSnapshot | None
    stopping: threading.Event
    options: RunOptions

    def refresh_all(self) -> bool:
        """Read all resources, and return whether every read succeeded. Resources that are gone are dropped with all references.

        Raises EngineError if a target does not exist.
        """
        resources = self.state.resources
        self.options.targets.check_known(
            (resource.urn for resource in resources), "no resource named '{}' found"
        )
        self.providers.load_providers(resources)
        readable = [resource for resource in self.options.targets.select(resources) if _is_readable(resource)]
        with ThreadPoolExecutor(max_workers=max(self.options.parallel, 1)) as pool:
            results = dict(zip(map(id, readable), pool.map(self._read, readable), strict=True))
        self._apply({key: found for key, found in results.items() if not isinstance(found, EngineError)})
        return not self.stopping.is_set() and not any(
            isinstance(found, EngineError) for found in results.values()
        )

    def _apply(self, results: dict[int, Resource | None]) -> None:
        """Put the results into the state. None stands for a resource that is gone."""
        gone = [old for old in self.state.resources if results.get(id(old), old) is None]
        found = [results.get(id(old), old) for old in self.state.resources]
        kept = self.state.resources = [resource for resource in found if resource is not None]
        for resource in kept:
            is_reported = resource.type == STACK_TYPE and not self.options.refresh
            if is_reported and self.options.targets.includes(resource.urn):
                self.listener.on_outputs(resource.outputs, resource.outputs)
        pruned = prune_references(kept, gone)
        if self.snapshot and gone:
            self.snapshot.record_step(put=pruned, drop=gone, wait=False)

    def _read(self, old: Resource) -> Resource | EngineError | None:
        """The actual resource, None if it is gone, or why it could not be read."""
        step = ResourceStep(events.REFRESH, old.urn, old.type, old)
        if self.stopping.is_set():
            return EngineError("canceled")
        self.listener.on_step_started(step)
        try:
            new = self._compare_with_actual(old, step)
        except EngineError as error:
            self.listener.on_step_failed(step, str(error))
            return error
        step.seconds = time.monotonic() - step.started
        step.new = new
        self.listener.on_step_ended(step)
        return new

    def _compare_with_actual(self, old: Resource, step: ResourceStep) -> Resource | None:
        """The actual resource. What differs is noted in the step."""
        new = self._read_actual_resource(old)
        if new is None:
            op, note = events.DELETE, "gone"
        elif _is_same(old, new):
            op, note = events.SAME, ""
            new = old
        else:
            op, note = events.UPDATE, "has drifted"
            new.modified = current_time()
            step.diff = diffs.complete_diff(Diff(False, by_engine=True), old.outputs, new.outputs, [])
            if self.snapshot:
                self.snapshot.record_step(put=[new], wait=False)
        if self.options.refresh:
            step.note = note
        else:
            step.op = op
        return new

    def _read_actual_resource(self, old: Resource) -> Resource | None:
        """The resource as its provider reads it."""
        init_errors: list[str] = []
        try:
            id_, outputs, inputs = self.providers.get_provider(old.provider).read(old)
        except PartialError as error:
            id_, init_errors, inputs = error.id, error.reasons, error.inputs
            outputs = values.mark_secrets(error.outputs, old.outputs)
            inputs = None if inputs is None else values.mark_secrets(inputs, old.inputs)
            listed = "".join(f"\n* {reason}" for reason in init_errors)
            self.listener.on_message(
                events.WARNING, old.urn, f"Refreshed resource is in an unhealthy state:{listed}"
            )
        if not id_:
            return None
        return old.copy(
            id=id_,
            inputs=old.inputs if inputs is None else inputs,
            outputs=values.make_secret(outputs, old.additional_secret_outputs),
            init_errors=init_errors,
            uid=old.uid,
        )


def _is_same(old: Resource, new: Resource) -> bool:
    are_values_same = values.is_same(old.inputs, new.inputs) and values.is_same(old.outputs, new.outputs)
    return are_values_same and old.id == new.id and old.init_errors == new.init_errors


def _is_readable(resource: Resource) -> bool:
    return resource.custom and not is_provider(resource.type) and not resource.pending_replacement
