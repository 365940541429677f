"""Performs steps: the call to the provider, and the state before and after it.

An operation is recorded as pending before its provider call, and its result after it; see `state/snapshot.py`.
A preview calls no provider and writes nothing.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener, ResourceStep
from pulumi_embedded.errors import EngineError, StepError
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import is_provider
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import Diff, PartialError, Provider, ProviderError
from pulumi_embedded.providers.registry import ProviderRegistry
from pulumi_embedded.state.serialization import PendingOperation, Resource, current_time
from pulumi_embedded.state.snapshot import StateSnapshot

RenamedUrn = tuple[str, str] | None


@dataclass
class StepRunner:
    """Performs steps, at most `parallel` at a time. Without a snapshot, it is a preview."""

    providers: ProviderRegistry
    listener: Listener
    snapshot: StateSnapshot | None
    parallel: int
    _slots: AbstractContextManager[Any] = field(init=False)
    _running_steps: int = field(default=0, init=False)
    _idle: threading.Condition = field(default_factory=threading.Condition, init=False)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.parallel) if self.snapshot else nullcontext()

    def wait_until_idle(self) -> None:
        """Wait until no step is running."""
        with self._idle:
            self._idle.wait_for(lambda: self._running_steps == 0)

    @property
    def preview(self) -> bool:
        return self.snapshot is None

    def keep_resource(self, old: Resource, new: Resource, alias: RenamedUrn) -> None:
        """The resource does not change, but options such as its dependencies or its protection may."""
        new.id = old.id
        new.outputs = values.make_secret(old.outputs, new.additional_secret_outputs)
        values.keep_ciphertexts(new.inputs, old.inputs)
        if self.snapshot:
            self.snapshot.record_step(put=[new], drop=[old], alias=alias, wait=False)
        self.listener.on_step_ended(ResourceStep(events.SAME, new.urn, new.type, old, new))

    def create_resource(
        self,
        new: Resource,
        *,
        replaces: Resource | None = None,
        keep_old: bool = False,
        diff: Diff | None = None,
        alias: RenamedUrn = None,
    ) -> None:
        """Create the resource. `replaces`: the resource it replaces, which is deleted already or, with `keep_old`, is
        marked for deletion after everything that depends on it has been updated."""
        op = events.CREATE_REPLACEMENT if replaces else events.CREATE
        with self._running(ResourceStep(op, new.urn, new.type, replaces, new, diff)):
            new.created = new.modified = current_time()
            if is_provider(new.type):
                new.id = str(uuid.uuid4()) if self.snapshot else values.UNKNOWN_TEXT
            if self.snapshot is None:
                new.outputs = self._predicted_outputs(new, None)
                return
            ended, failure = self._call_provider(
                self.snapshot, "creating", new, lambda provider: provider.create(new)
            )
            if ended:
                ended += self._settled_creates(self.snapshot.pending, new.urn)
            put, drop = [new], [replaces] if replaces else []
            if replaces is not None and keep_old:
                replaces.delete = True
                put, drop = [new, replaces], []
            self.snapshot.record_step(put=put, drop=drop, end=ended, alias=alias)
            if failure is not None:
                raise failure

    def _call_provider(
        self,
        snapshot: StateSnapshot,
        kind: str,
        new: Resource,
        call: Callable[[Provider], tuple[str, Properties]],
    ) -> tuple[list[int], PartialError | None]:
        """Let the provider create or update the resource. Returns the operations to end, and the failure if it is partial."""
        if not new.custom or is_provider(new.type):
            return [], None
        provider = self.providers.get_provider(new.provider)
        operation = snapshot.begin_operation(kind, new)
        failure: PartialError | None = None
        try:
            new.id, outputs = self._call(operation, lambda: call(provider))
        except PartialError as error:
            failure = error
            new.id = new.id or error.id
            new.init_errors = error.reasons
            outputs = values.mark_secrets(error.outputs, new.inputs)
        new.outputs = values.make_secret(outputs, new.additional_secret_outputs)
        return [operation], failure

    def update_resource(self, old: Resource, new: Resource, diff: Diff, alias: RenamedUrn) -> None:
        """Change the resource in place."""
        with self._running(ResourceStep(events.UPDATE, new.urn, new.type, old, new, diff)):
            new.id = old.id
            new.modified = current_time()
            if not new.custom:
                new.outputs = old.outputs
            ended: list[int] = []
            failure: PartialError | None = None
            if self.snapshot:
                ended, failure = self._call_provider(
                    self.snapshot, "updating", new, lambda provider: (old.id, provider.update(old, new))
                )
            else:
                new.outputs = self._predicted_outputs(new, old)
            values.keep_ciphertexts(new.inputs, old.inputs)
            values.keep_ciphertexts(new.outputs, old.outputs)
            if self.snapshot:
                self.snapshot.record_step(put=[new], drop=[old], end=ended, alias=alias)
            if failure is not None:
                raise failure

    def delete_resource(
        self, old: Resource, *, op: str, skip_provider: bool, pending_replacement: bool = False
    ) -> None:
        """Delete the resource. `pending_replacement`: its row stays in the state until its replacement exists."""
        note = "retained" if old.retain_on_delete else ""
        with self._running(ResourceStep(op, old.urn, old.type, old, None, None, note)):
            if self.snapshot is None:
                return
            ended: list[int] = []
            only_in_state = skip_provider or old.retain_on_delete or old.external or not old.custom
            if not only_in_state and not is_provider(old.type):
                provider = self.providers.get_provider(old.provider)
                operation = self.snapshot.begin_operation("deleting", old)
                self._call(operation, lambda: provider.delete(old))
                ended = [operation]
            if pending_replacement:
                old.pending_replacement = True
                self.snapshot.record_step(put=[old], end=ended)
            else:
                self.snapshot.record_step(drop=[old], end=ended)

    def _predicted_outputs(self, new: Resource, old: Resource | None) -> Properties:
        """The outputs in a preview: the inputs, or what a provider that supports previews says."""
        if not new.custom or is_provider(new.type):
            return new.outputs
        provider = None if values.has_unknown(new.provider) else self.providers.find_provider(new.provider)
        if provider is None or not provider.supports_preview:
            return new.inputs
        if old is None:
            return provider.create(new, preview=True)[1]
        return provider.update(old, new, preview=True)

    def read_resource(self, new: Resource, old: Resource | None, provider: Provider) -> None:
        """Look up a resource that the stack does not manage, also in a preview."""
        with self._running(ResourceStep(events.READ, new.urn, new.type, old, new)):
            new.id, outputs, inputs = provider.read(new)
            if not new.id:
                raise EngineError(f"resource '{new.urn}' does not exist")
            # `provider.read` marks secrets by the old outputs, but `new` has no outputs yet.
            outputs = values.mark_secrets(outputs, new.inputs)
            new.inputs = new.inputs if inputs is None else inputs
            new.outputs = values.make_secret(outputs, new.additional_secret_outputs)
            if old is not None:
                values.keep_ciphertexts(new.inputs, old.inputs)
                values.keep_ciphertexts(new.outputs, old.outputs)
            if self.snapshot:
                self.snapshot.record_step(put=[new], drop=[old] if old else [], wait=False)

    def drop_from_state(self, old: Resource) -> None:
        """Drop the row of a resource that was deleted by an earlier run."""
        if self.snapshot:
            self.snapshot.record_step(drop=[old], wait=False)

    def save_outputs(self, resource: Resource) -> None:
        """Save a component's outputs."""
        if self.snapshot:
            self.snapshot.record_step(put=[resource])

    def report_replacement(self, old: Resource, new: Resource, diff: Diff) -> None:
        """Report the creation and the deletion together as one replacement."""
        self.listener.on_step_ended(ResourceStep(events.REPLACE, new.urn, new.type, old, new, diff))

    def _settled_creates(self, pending: dict[int, PendingOperation], urn: str) -> list[int]:
        """Creates of this resource with an unknown outcome, which the provider's successful create has settled."""
        with self._idle:  # other threads modify the dict too
            found = [op for op, operation in pending.items() if operation.resource.urn == urn]
            for op in found:
                del pending[op]
        return found

    def _call(self, operation: int, call: Callable[[], Any]) -> Any:
        """The provider's answer. A failure ends the operation, unless its outcome is unknown."""
        assert self.snapshot is not None  # noqa: S101 - previews have no operations
        try:
            return call()
        except PartialError:
            raise  # the operation is ended later, when the resource is recorded in the state
        except ProviderError as error:
            if not error.outcome_unknown:
                self.snapshot.record_step(end=[operation])
            raise

    @contextmanager
    def _running(self, step: ResourceStep) -> Iterator[None]:
        """Wait for a free slot, and report the step's start, end and duration. Raises StepError."""
        self._count(1)
        failure: EngineError | None = None
        try:
            with self._slots:
                step.started = time.monotonic()
                self.listener.on_step_started(step)
                try:
                    yield
                except EngineError as error:
                    failure = error
        finally:
            self._count(-1)
        step.seconds = time.monotonic() - step.started
        if failure is not None:
            self.listener.on_step_failed(step, str(failure))
            raise StepError(str(failure)) from None
        self.listener.on_step_ended(step)

    def _count(self, change: int) -> None:
        with self._idle:
            self._running_steps += change
            self._idle.notify_all()
