"""Dynamic providers: one `provhost.py` process for each provider resource, and the calls made to it.

The dynamic provider takes no secrets: they are unwrapped before a call, and equal keys are marked again after.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import GRPC_OPTIONS, provider_pb2, provider_pb2_grpc, status_pb2
from pulumi_embedded.program.processes import Child
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, name_of, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state.serialization import Resource

PACKAGE: Final = "pulumi-python"
PROVIDER_TYPE: Final = PROVIDER_PREFIX + PACKAGE
_DETAILS: Final = "grpc-status-details-bin"
# PropertyDiff.Kind of the protocol.
_KINDS: Final = {
    0: "add",
    1: "add-replace",
    2: "delete",
    3: "delete-replace",
    4: "update",
    5: "update-replace",
}


class ProviderError(EngineError):
    """The provider answered with a failure; the message is its own."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class PartialError(ProviderError):
    """The resource is there, as `id` and `outputs` say, but is not yet as it should be: `reasons`.

    `inputs`: what it is made from now, where a read says so.
    """

    def __init__(self, found: Any) -> None:
        self.id: str = found.id
        self.outputs = values.from_struct(found.properties)
        self.inputs = values.from_struct(found.inputs) if found.HasField("inputs") else None
        self.reasons = list(found.reasons)
        count = len(self.reasons)
        listed = "".join(f"\n\t* {reason}" for reason in self.reasons)
        super().__init__(
            f"{count} error{'s' if count > 1 else ''} occurred:{listed}" if count else "resource init failed"
        )


@dataclass(frozen=True)
class CheckFailure:
    """One input that the provider does not accept."""

    property: str
    reason: str


@dataclass
class Diff:
    """What a provider, or the engine in its place, says about a change."""

    changes: bool
    replaces: list[str] = field(default_factory=list)
    delete_before_replace: bool = False
    detailed: dict[str, str] = field(default_factory=dict)
    by_engine: bool = False


class Provider:
    """The calls of one configured provider process."""

    def __init__(self, child: Child | None, config: Properties, show: Callable[[str], None]) -> None:
        self._child = child
        self._show = show
        self._configured = False
        self.config = config
        self.supports_preview = False
        self._lock = threading.Lock()
        self._stub: Any = None
        self._channel: Any = None

    def check(self, urn: str, old: Properties, new: Properties) -> tuple[Properties, list[CheckFailure]]:
        """The inputs as the provider completes them, and what it does not accept."""
        answer = self._call(
            "Check",
            provider_pb2.CheckRequest(
                urn=urn,
                olds=plain(old),
                news=plain(new),
                name=name_of(urn),
                type=type_of(urn),
                randomSeed=os.urandom(32),
            ),
        )
        failures = [CheckFailure(failure.property, failure.reason) for failure in answer.failures]
        return values.mark_secrets(values.from_struct(answer.inputs), new), failures

    def diff(
        self, resource: Resource, old_inputs: Properties, new: Properties, ignore: list[str]
    ) -> Diff | None:
        """What the provider says would change, or None where it leaves that to the engine."""
        answer = self._call(
            "Diff",
            provider_pb2.DiffRequest(
                id=resource.id,
                urn=resource.urn,
                olds=plain(resource.outputs),
                news=plain(new),
                old_inputs=plain(old_inputs),
                ignoreChanges=ignore,
                name=name_of(resource.urn),
                type=resource.type,
            ),
        )
        replaces = list(answer.replaces)
        if answer.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN:
            return Diff(False, replaces, answer.deleteBeforeReplace, by_engine=True)
        changes = answer.changes == provider_pb2.DiffResponse.DIFF_SOME
        if answer.hasDetailedDiff:
            found = {path: _KINDS.get(part.kind, "update") for path, part in answer.detailedDiff.items()}
            replaces = replaces or sorted({path for path, kind in found.items() if kind.endswith("-replace")})
            return Diff(changes, replaces, answer.deleteBeforeReplace, found)
        detailed = dict.fromkeys(answer.diffs, "update")
        detailed.update(dict.fromkeys(replaces, "update-replace"))
        return Diff(changes, replaces, answer.deleteBeforeReplace, detailed)

    def create(
        self, urn: str, inputs: Properties, *, timeout: float = 0, preview: bool = False
    ) -> tuple[str, Properties]:
        """The new resource's id and outputs; in a preview as far as they can be foreseen."""
        answer = self._call(
            "Create",
            provider_pb2.CreateRequest(
                urn=urn,
                properties=plain(inputs),
                timeout=timeout,
                name=name_of(urn),
                type=type_of(urn),
                preview=preview,
            ),
        )
        if not answer.id and not preview:
            raise ProviderError("the provider's create returned no id")
        return answer.id, values.mark_secrets(values.from_struct(answer.properties), inputs)

    def update(
        self,
        old: Resource,
        inputs: Properties,
        ignore: list[str],
        *,
        timeout: float = 0,
        preview: bool = False,
    ) -> Properties:
        """The outputs after the update."""
        answer = self._call(
            "Update",
            provider_pb2.UpdateRequest(
                id=old.id,
                urn=old.urn,
                olds=plain(old.outputs),
                news=plain(inputs),
                old_inputs=plain(old.inputs),
                ignoreChanges=ignore,
                timeout=timeout,
                name=name_of(old.urn),
                type=old.type,
                preview=preview,
            ),
        )
        return values.mark_secrets(values.from_struct(answer.properties), inputs)

    def delete(self, old: Resource) -> None:
        """Take the resource down."""
        self._call(
            "Delete",
            provider_pb2.DeleteRequest(
                id=old.id,
                urn=old.urn,
                properties=plain(old.outputs),
                old_inputs=plain(old.inputs),
                timeout=old.custom_timeouts.get("delete", 0),
                name=name_of(old.urn),
                type=old.type,
            ),
        )

    def read(self, old: Resource) -> tuple[str, Properties, Properties | None]:
        """The resource as it is: id ("" where it is gone), outputs, and inputs where the provider gives them."""
        answer = self._call(
            "Read",
            provider_pb2.ReadRequest(
                id=old.id,
                urn=old.urn,
                properties=plain(old.outputs),
                inputs=plain(old.inputs),
                name=name_of(old.urn),
                type=old.type,
            ),
        )
        outputs = values.mark_secrets(values.from_struct(answer.properties), old.outputs)
        inputs = None
        if answer.HasField("inputs"):
            inputs = values.mark_secrets(values.from_struct(answer.inputs), old.inputs)
        return answer.id, outputs, inputs

    def invoke(
        self, function: str, arguments: Properties, *, preview: bool
    ) -> tuple[Properties, list[tuple[str, str]]]:
        """What the provider's function returns, and which arguments it does not accept."""
        request = provider_pb2.InvokeRequest(tok=function, args=plain(arguments), preview=preview)
        answer = self._call("Invoke", request)
        failures = [(failure.property, failure.reason) for failure in answer.failures]
        return values.from_struct(getattr(answer, "return")), failures

    def _call(self, method: str, request: Any) -> Any:
        stub = self._ready()
        try:
            return getattr(stub, method)(request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ProviderError(
                    f"the provider process ended during {method} ({error.details()}); what it was doing may have "
                    "been done: the next `up` looks",
                    outcome_unknown=True,
                ) from None
            found = _init_failure(error)
            if found is not None:
                raise PartialError(found) from None
            raise ProviderError(str(error.details()).strip() or f"{method} failed without a reason") from None

    def _ready(self) -> Any:
        """The process, once it is up and configured."""
        with self._lock:
            if self._stub is None:
                assert self._child is not None  # noqa: S101 - a provider without one brings its own way
                self._channel, self._stub = connect(self._child)
                self._child.follow_stdout(self._show)
                config = plain(self.config)
                variables = {key: str(values.reveal(value)) for key, value in self.config.items()}
                request = provider_pb2.ConfigureRequest(args=config, variables=variables, acceptSecrets=True)
                try:
                    self._stub.Configure(request)
                except grpc.RpcError as error:
                    raise ProviderError(f"the provider could not be configured: {error.details()}") from None
            return self._stub

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            self._child.finish()


def _init_failure(error: Any) -> Any:
    """What a plugin says of a resource that exists and is not as it should be; None where it says nothing such."""
    for key, content in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in status_pb2.Status.FromString(content).details:
                found = provider_pb2.ErrorResourceInitFailed()
                if detail.Unpack(found):
                    return found
    return None


def connect(child: Child) -> tuple[Any, Any]:
    """Channel and stub of the provider that has said its port.  Raises EngineError where it has not."""
    port = child.first_line()
    if not port.isdigit():
        raise EngineError(f"the dynamic provider process did not start{': ' + port if port else ''}")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
    return channel, provider_pb2_grpc.ResourceProviderStub(channel)


def plain(properties: Mapping[str, Any]) -> Any:
    """The properties as a message for a provider that takes neither secrets nor references."""
    return values.to_struct(properties, secrets=False, refs=False)
