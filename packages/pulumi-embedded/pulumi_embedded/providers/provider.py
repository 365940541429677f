"""Calls to provider processes, and the dynamic provider: one `dynamic_host.py` process per provider resource.

Providers receive secrets in plain text. The outputs with the same keys are marked as secret again after the call.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import GRPC_OPTIONS, provider_pb2, provider_pb2_grpc, status_pb2
from pulumi_embedded.program.processes import ChildProcess
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, name_of, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.state.serialization import Resource

PACKAGE: Final = "pulumi-python"
PROVIDER_TYPE: Final = PROVIDER_PREFIX + PACKAGE
_DETAILS: Final = "grpc-status-details-bin"
# The protocol's PropertyDiff.Kind.
_KINDS: Final = ("add", "add-replace", "delete", "delete-replace", "update", "update-replace")


class ProviderError(EngineError):
    """The provider reported a failure; the message is the provider's.

    `outcome_unknown`: the provider process ended, so the call may have had its effect.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class PartialError(ProviderError):
    """The resource exists, as described by `id` and `outputs`, but is not in its final state because of `reasons`.

    `inputs`: its new inputs, if a read reports them.
    """

    def __init__(self, failure: Any) -> None:
        self.id: str = failure.id
        self.outputs = values.from_struct(failure.properties)
        self.inputs = values.from_struct(failure.inputs) if failure.HasField("inputs") else None
        self.reasons = list(failure.reasons)
        count = len(self.reasons)
        listed = "".join(f"\n\t* {reason}" for reason in self.reasons)
        super().__init__(
            f"{count} error{'s' if count > 1 else ''} occurred:{listed}" if count else "resource init failed"
        )


@dataclass(frozen=True)
class CheckFailure:
    """An input that the provider does not accept."""

    property: str
    reason: str


@dataclass
class Diff:
    """What a provider says about a change. `by_engine`: the provider left the comparison to the engine."""

    changes: bool
    replaces: list[str] = field(default_factory=list)
    delete_before_replace: bool = False
    detailed: dict[str, str] = field(default_factory=dict)
    by_engine: bool = False


class Provider:
    """The calls to a provider. Subclasses start and configure its process."""

    supports_preview = False

    def __init__(self, config: Properties, on_line: Callable[[str], None]) -> None:
        self.config = config
        self._on_output_line = on_line
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._channel: Any = None
        self._stub: Any = None
        self._is_configured = False

    def check(self, urn: str, old: Properties, new: Properties) -> tuple[Properties, list[CheckFailure]]:
        """The inputs as completed by the provider, and those it does not accept."""
        request = provider_pb2.CheckRequest(
            olds=plain_struct(old), news=plain_struct(new), randomSeed=os.urandom(32), **identity_fields(urn)
        )
        answer = self._call("Check", request)
        return values.mark_secrets(values.from_struct(answer.inputs), new), check_failures(answer)

    def diff(self, old: Resource, new: Properties, ignore: list[str]) -> Diff:
        """What would change if the resource had the new inputs."""
        request = provider_pb2.DiffRequest(news=plain_struct(new), ignoreChanges=ignore, **_old_values(old))
        return _diff_from(self._call("Diff", request))

    def create(self, new: Resource, *, preview: bool = False) -> tuple[str, Properties]:
        """The new resource's id and outputs; in a preview, what is known of them."""
        request = provider_pb2.CreateRequest(
            properties=plain_struct(new.inputs),
            timeout=new.custom_timeouts.get("create", 0),
            preview=preview,
            **identity_fields(new.urn),
        )
        answer = self._call("Create", request)
        if not answer.id and not preview:
            raise ProviderError("the provider's create returned no id")
        return answer.id, values.mark_secrets(values.from_struct(answer.properties), new.inputs)

    def update(self, old: Resource, new: Resource, *, preview: bool = False) -> Properties:
        """The outputs after the update."""
        request = provider_pb2.UpdateRequest(
            news=plain_struct(new.inputs),
            ignoreChanges=new.ignore_changes,
            timeout=new.custom_timeouts.get("update", 0),
            preview=preview,
            **_old_values(old),
        )
        return values.mark_secrets(values.from_struct(self._call("Update", request).properties), new.inputs)

    def delete(self, old: Resource) -> None:
        request = provider_pb2.DeleteRequest(
            id=old.id,
            properties=plain_struct(old.outputs),
            old_inputs=plain_struct(old.inputs),
            timeout=old.custom_timeouts.get("delete", 0),
            **identity_fields(old.urn),
        )
        self._call("Delete", request)

    def read(self, old: Resource) -> tuple[str, Properties, Properties | None]:
        """The actual resource: its id ("" if it is gone), outputs, and inputs if the provider returns them."""
        request = provider_pb2.ReadRequest(
            id=old.id,
            properties=plain_struct(old.outputs),
            inputs=plain_struct(old.inputs),
            **identity_fields(old.urn),
        )
        answer = self._call("Read", request)
        outputs = values.mark_secrets(values.from_struct(answer.properties), old.outputs)
        inputs = None
        if answer.HasField("inputs"):
            inputs = values.mark_secrets(values.from_struct(answer.inputs), old.inputs)
        return answer.id, outputs, inputs

    def invoke(
        self, function: str, arguments: Properties, *, preview: bool
    ) -> tuple[Properties, list[CheckFailure]]:
        """What a provider function returns, and the arguments it does not accept."""
        request = provider_pb2.InvokeRequest(tok=function, args=plain_struct(arguments), preview=preview)
        answer = self._call("Invoke", request)
        return values.from_struct(getattr(answer, "return")), check_failures(answer)

    def _call(self, method: str, request: Any) -> Any:
        stub = self._configured_stub()
        try:
            return getattr(stub, method)(request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ProviderError(
                    f"the provider process ended during {method} ({error.details()}). The call may have succeeded; run "
                    "`pulumi up` again to check",
                    outcome_unknown=True,
                ) from None
            failure = _init_failure(error)
            if failure is not None:
                raise PartialError(failure) from None
            raise ProviderError(str(error.details()).strip() or f"{method} failed without a reason") from None

    def _configured_stub(self) -> Any:
        """The gRPC stub of the process, once it is running and configured."""
        with self._lock:
            if not self._is_configured:
                self._connect()
                try:
                    self._configure()
                except grpc.RpcError as error:
                    raise ProviderError(f"the provider could not be configured: {error.details()}") from None
                self._is_configured = True
            return self._stub

    def _connect(self) -> None:
        raise NotImplementedError

    def _configure(self) -> None:
        raise NotImplementedError

    def _connect_to(self, child: ChildProcess) -> None:
        """Connect to the process, which prints its port first. Raises EngineError if it does not."""
        port = child.first_line()
        if not port.isdigit():
            raise EngineError(f"the provider process did not start{': ' + port if port else ''}")
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
        self._stub = provider_pb2_grpc.ResourceProviderStub(self._channel)
        child.forward_output(self._on_output_line, stderr=False)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End the process after its current requests."""
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            self._child.finish()


class DynamicProvider(Provider):
    """A process of the SDK that runs the providers of dynamic resources."""

    def __init__(self, child: ChildProcess, config: Properties, on_line: Callable[[str], None]) -> None:
        super().__init__(config, on_line)
        self._child = child

    def _connect(self) -> None:
        if self._stub is None and self._child is not None:
            self._connect_to(self._child)

    def _configure(self) -> None:
        variables = {key: str(values.reveal_secrets(value)) for key, value in self.config.items()}
        self._stub.Configure(
            provider_pb2.ConfigureRequest(
                args=plain_struct(self.config), variables=variables, acceptSecrets=True
            )
        )


def _diff_from(answer: Any) -> Diff:
    replaces = list(answer.replaces)
    if answer.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN:
        return Diff(False, replaces, answer.deleteBeforeReplace, by_engine=True)
    changes = answer.changes == provider_pb2.DiffResponse.DIFF_SOME
    if answer.hasDetailedDiff:
        detailed = {
            path: _KINDS[part.kind] if part.kind < len(_KINDS) else "update"
            for path, part in answer.detailedDiff.items()
        }
        replaces = replaces or sorted(path for path, kind in detailed.items() if kind.endswith("-replace"))
    else:
        detailed = dict.fromkeys(answer.diffs, "update") | dict.fromkeys(replaces, "update-replace")
    return Diff(changes, replaces, answer.deleteBeforeReplace, detailed)


def _init_failure(error: Any) -> Any:
    """The details with which a plugin reports a resource that exists but is not in its final state, or None."""
    for key, content in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in status_pb2.Status.FromString(content).details:
                found = provider_pb2.ErrorResourceInitFailed()
                if detail.Unpack(found):
                    return found
    return None


def _old_values(old: Resource) -> dict[str, Any]:
    """The fields that describe the old resource in a request."""
    return {
        "id": old.id,
        "olds": plain_struct(old.outputs),
        "old_inputs": plain_struct(old.inputs),
        **identity_fields(old.urn),
    }


def identity_fields(urn: str) -> dict[str, Any]:
    """The fields that name a resource in a request."""
    return {"urn": urn, "name": name_of(urn), "type": type_of(urn)}


def check_failures(answer: Any) -> list[CheckFailure]:
    return [CheckFailure(failure.property, failure.reason) for failure in answer.failures]


def plain_struct(properties: Mapping[str, Any]) -> Any:
    """The properties as a message for a provider that accepts neither secrets nor resource references."""
    return values.to_struct(properties, secrets=False, refs=False)
