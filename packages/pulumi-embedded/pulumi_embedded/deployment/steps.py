"""Doing a step: the provider call, and the state before and after it.

Every change is written down as pending before the provider is called, and its outcome after; see `snapshot.py`.
In a preview nothing is called and nothing written.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pulumi_embedded.deployment import events
from pulumi_embedded.deployment.events import Listener, ResourceStep
from pulumi_embedded.errors import EngineError, StepError
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import is_provider
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import Diff, PartialError, Provider, ProviderError
from pulumi_embedded.providers.registry import Providers
from pulumi_embedded.state.serialization import Pending, Resource, now
from pulumi_embedded.state.snapshot import StateSnapshot


class Steps:
    """Does steps, at most `parallel` at a time."""

    def __init__(
        self,
        providers: Providers,
        listener: Listener,
        snapshot: StateSnapshot | None,
        parallel: int,
        pending: dict[int, Pending],
    ) -> None:
        self._providers = providers
        self._listener = listener
        self._snapshot = snapshot
        self._slots: AbstractContextManager[Any] = (
            threading.Semaphore(parallel) if snapshot else nullcontext()
        )
        self._left_over = pending
        self._under_way = 0
        self._idle = threading.Condition()

    def drain(self) -> None:
        """Return once no step is under way."""
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0)

    def count(self, change: int) -> None:
        """A step has begun (1) or ended (-1)."""
        with self._idle:
            self._under_way += change
            self._idle.notify_all()

    @property
    def preview(self) -> bool:
        """Whether nothing is really done."""
        return self._snapshot is None

    def same(self, old: Resource, new: Resource, alias: tuple[str, str] | None) -> None:
        """Nothing changes but what the program says about the resource (its dependencies, its protection …)."""
        new.id = old.id
        new.outputs = values.make_secret(old.outputs, new.additional_secret_outputs)
        values.keep_ciphertexts(new.inputs, old.inputs)
        if values.same(new.inputs, old.inputs):
            new.inputs = old.inputs  # once in memory
        if self._snapshot:
            self._snapshot.write(put=[new], drop=[old], alias=alias, wait=False)
        self._listener.ended(ResourceStep(events.SAME, new.urn, new.type, old, new))

    def create(
        self,
        new: Resource,
        *,
        replaces: Resource | None = None,
        keep_old: bool = False,
        diff: Diff | None = None,
        alias: tuple[str, str] | None = None,
    ) -> None:
        """Make the resource.  `replaces`: in place of this one, which is gone already or, with `keep_old`, is
        marked to be deleted once everything that depends on it has moved."""
        op = events.CREATE_REPLACEMENT if replaces else events.CREATE
        step = ResourceStep(op, new.urn, new.type, replaces, new, diff)
        with self._running(step):
            if not new.custom:
                new.outputs = {}
            elif is_provider(new.type):
                new.id = str(uuid.uuid4()) if self._snapshot else values.UNKNOWN_TEXT
            elif self._snapshot is None:
                new.outputs = self._foreseen(new, None)
            new.created = new.modified = now()
            if self._snapshot:
                self._create(self._snapshot, new, replaces, keep_old, alias)

    def _create(
        self,
        snapshot: StateSnapshot,
        new: Resource,
        replaces: Resource | None,
        keep_old: bool,
        alias: tuple[str, str] | None,
    ) -> None:
        ended: list[int] = []
        failure: PartialError | None = None
        if new.custom and not is_provider(new.type):
            provider = self._providers.get(new.provider)
            timeout = new.custom_timeouts.get("create", 0)
            operation = snapshot.begin("creating", new)
            try:
                new.id, outputs = self._call(
                    operation, lambda: provider.create(new.urn, new.inputs, timeout=timeout)
                )
            except PartialError as error:
                failure, new.id = error, error.id
                outputs = _half_made(error, new)
            new.outputs = values.make_secret(outputs, new.additional_secret_outputs)
            ended = [operation, *self._resolved(new.urn)]
        if replaces is not None and keep_old:
            replaces.delete = True
            snapshot.write(put=[new, replaces], end=ended, alias=alias)
        else:
            snapshot.write(put=[new], drop=[replaces] if replaces else [], end=ended, alias=alias)
        if failure is not None:
            raise failure

    def update(self, old: Resource, new: Resource, diff: Diff, alias: tuple[str, str] | None) -> None:
        """Change the resource in place."""
        step = ResourceStep(events.UPDATE, new.urn, new.type, old, new, diff)
        with self._running(step):
            new.id = old.id
            new.modified = now()
            if not new.custom:
                new.outputs = old.outputs
            elif self._snapshot is None and not is_provider(new.type):
                new.outputs = self._foreseen(new, old)
            ended: list[int] = []
            failure: PartialError | None = None
            if self._snapshot and new.custom and not is_provider(new.type):
                provider = self._providers.get(new.provider)
                timeout = new.custom_timeouts.get("update", 0)
                operation = self._snapshot.begin("updating", new)
                try:
                    outputs = self._call(
                        operation,
                        lambda: provider.update(old, new.inputs, new.ignore_changes, timeout=timeout),
                    )
                except PartialError as error:
                    failure, outputs = error, _half_made(error, new)
                new.outputs = values.make_secret(outputs, new.additional_secret_outputs)
                ended = [operation]
            values.keep_ciphertexts(new.inputs, old.inputs)
            values.keep_ciphertexts(new.outputs, old.outputs)
            if self._snapshot:
                self._snapshot.write(put=[new], drop=[old], end=ended, alias=alias)
            if failure is not None:
                raise failure

    def delete(
        self, old: Resource, *, op: str, skip_provider: bool, pending_replacement: bool = False
    ) -> None:
        """Take the resource down.  `pending_replacement`: its row stays until the new one has been made."""
        step = ResourceStep(
            op, old.urn, old.type, old, None, None, "retained" if old.retain_on_delete else ""
        )
        with self._running(step):
            if self._snapshot is None:
                return
            ended: list[int] = []
            silent = skip_provider or old.retain_on_delete or old.external or not old.custom
            if not silent and not is_provider(old.type):
                provider = self._providers.get(old.provider)
                operation = self._snapshot.begin("deleting", old)
                self._call(operation, lambda: provider.delete(old))
                ended = [operation]
            if pending_replacement:
                old.pending_replacement = True
                self._snapshot.write(put=[old], end=ended)
            else:
                self._snapshot.write(drop=[old], end=ended)

    def _foreseen(self, new: Resource, old: Resource | None) -> Properties:
        """The outputs in a preview: the inputs, or what a provider that can look ahead says."""
        provider = None if values.has_unknown(new.provider) else self._providers.known(new.provider)
        if provider is None or not provider.supports_preview:
            return new.inputs
        if old is None:
            return provider.create(new.urn, new.inputs, preview=True)[1]
        return provider.update(old, new.inputs, new.ignore_changes, preview=True)

    def read(self, new: Resource, old: Resource | None, provider: Provider) -> None:
        """Look up what is nobody's to change; also in a preview."""
        step = ResourceStep(events.READ, new.urn, new.type, old, new)
        with self._running(step):
            new.id, outputs, inputs = provider.read(new)
            if not new.id:
                raise EngineError(f"resource '{new.urn}' does not exist")
            outputs = values.mark_secrets(outputs, new.inputs)  # there were no outputs to mark them by
            new.inputs = new.inputs if inputs is None else inputs
            new.outputs = values.make_secret(outputs, new.additional_secret_outputs)
            if old is not None:
                values.keep_ciphertexts(new.inputs, old.inputs)
                values.keep_ciphertexts(new.outputs, old.outputs)
            if self._snapshot:
                self._snapshot.write(put=[new], drop=[old] if old else [], wait=False)

    def forget(self, old: Resource) -> None:
        """Drop the row of a resource that was taken down earlier."""
        if self._snapshot:
            self._snapshot.write(drop=[old], wait=False)

    def outputs(self, resource: Resource) -> None:
        """Write down a component's outputs."""
        if self._snapshot:
            self._snapshot.write(put=[resource])

    def replaced(self, old: Resource, new: Resource, diff: Diff) -> None:
        """Say that old and new together are one replacement."""
        self._listener.ended(ResourceStep(events.REPLACE, new.urn, new.type, old, new, diff))

    def _resolved(self, urn: str) -> list[int]:
        """Creates of this resource that an earlier run left without an outcome: the provider has just looked."""
        with self._idle:  # others take theirs
            found = [op for op, pending in self._left_over.items() if pending.resource.urn == urn]
            for op in found:
                del self._left_over[op]
        return found

    def _call(self, operation: int, call: Callable[[], Any]) -> Any:
        """The provider's answer.  A failure ends the operation, except where its outcome is not known."""
        assert self._snapshot is not None  # noqa: S101 - operations exist in a real run only
        try:
            return call()
        except PartialError:
            raise  # the operation ends with the resource's row
        except ProviderError as error:
            if not error.outcome_unknown:
                self._snapshot.write(end=[operation])
            raise

    def _running(self, step: ResourceStep) -> AbstractContextManager[None]:
        return _Running(step, self._listener, self._slots, self.count)


def _half_made(error: PartialError, new: Resource) -> Properties:
    """The outputs of a resource that is there and not as it should be; why is noted in it."""
    new.init_errors = error.reasons
    return values.mark_secrets(error.outputs, new.inputs)


class _Running:
    """Around a step: its turn, its time, and what is said about it."""

    def __init__(
        self,
        step: ResourceStep,
        listener: Listener,
        slots: AbstractContextManager[Any],
        count: Callable[[int], None],
    ) -> None:
        self._step = step
        self._listener = listener
        self._slots = slots
        self._count = count

    def __enter__(self) -> None:
        self._count(1)
        self._slots.__enter__()
        self._step.started = time.monotonic()
        try:
            self._listener.began(self._step)
        except (
            BaseException
        ):  # `__exit__` is not called then, and those who wait for this step would wait for ever
            self._slots.__exit__(None, None, None)
            self._count(-1)
            raise

    def __exit__(self, _type: Any, error: BaseException | None, _traceback: Any) -> None:
        self._slots.__exit__(None, None, None)
        self._count(-1)
        self._step.seconds = time.monotonic() - self._step.started
        if error is None:
            self._listener.ended(self._step)
        elif isinstance(error, EngineError):
            self._listener.failed(self._step, str(error))
            raise StepError(str(error)) from None
