"""Dynamic providers: one `provhost.py` process for each provider resource, and the calls made to it.

The dynamic provider takes no secrets: they are unwrapped before a call, and equal keys are marked again after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from engine import values
from engine.children import Child
from engine.config import Project
from engine.errors import EngineError, NeedsCliError
from engine.state import Resource
from engine.stubs import GRPC_OPTIONS, provider_pb2, provider_pb2_grpc
from engine.urns import PROVIDER_PREFIX, is_provider, name_of, provider_urn, type_of
from engine.values import Properties

PACKAGE: Final = "pulumi-python"
PROVIDER_TYPE: Final = PROVIDER_PREFIX + PACKAGE
# The id of a provider that a preview would make.
UNKNOWN_ID: Final = values.UNKNOWN_TEXT


class ProviderError(EngineError):
    """The provider answered with a failure; the message is its own."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


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

    def __init__(self, child: Child, config: Properties, show: Callable[[str], None]) -> None:
        self._child = child
        self._show = show
        self.config = config
        self._lock = threading.Lock()
        self._stub: Any = None
        self._channel: Any = None

    def check(self, urn: str, old: Properties, new: Properties) -> tuple[Properties, list[CheckFailure]]:
        """The inputs as the provider completes them, and what it does not accept."""
        answer = self._call(
            "Check",
            provider_pb2.CheckRequest(
                urn=urn, olds=_plain(old), news=_plain(new), name=name_of(urn), type=type_of(urn)
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
                olds=_plain(resource.outputs),
                news=_plain(new),
                old_inputs=_plain(old_inputs),
                ignoreChanges=ignore,
                name=name_of(resource.urn),
                type=resource.type,
            ),
        )
        replaces = list(answer.replaces)
        if answer.changes == provider_pb2.DiffResponse.DIFF_UNKNOWN:
            return Diff(False, replaces, answer.deleteBeforeReplace, by_engine=True)
        changes = answer.changes == provider_pb2.DiffResponse.DIFF_SOME
        detailed = dict.fromkeys(answer.diffs, "update")
        detailed.update(dict.fromkeys(replaces, "update-replace"))
        return Diff(changes, replaces, answer.deleteBeforeReplace, detailed)

    def create(self, urn: str, inputs: Properties) -> tuple[str, Properties]:
        """The new resource's id and outputs."""
        answer = self._call(
            "Create",
            provider_pb2.CreateRequest(
                urn=urn, properties=_plain(inputs), name=name_of(urn), type=type_of(urn)
            ),
        )
        if not answer.id:
            raise ProviderError("the provider's create returned no id")
        return answer.id, values.mark_secrets(values.from_struct(answer.properties), inputs)

    def update(self, old: Resource, inputs: Properties, ignore: list[str]) -> Properties:
        """The outputs after the update."""
        answer = self._call(
            "Update",
            provider_pb2.UpdateRequest(
                id=old.id,
                urn=old.urn,
                olds=_plain(old.outputs),
                news=_plain(inputs),
                old_inputs=_plain(old.inputs),
                ignoreChanges=ignore,
                name=name_of(old.urn),
                type=old.type,
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
                properties=_plain(old.outputs),
                old_inputs=_plain(old.inputs),
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
                properties=_plain(old.outputs),
                inputs=_plain(old.inputs),
                name=name_of(old.urn),
                type=old.type,
            ),
        )
        outputs = values.mark_secrets(values.from_struct(answer.properties), old.outputs)
        inputs = None
        if answer.HasField("inputs"):
            inputs = values.mark_secrets(values.from_struct(answer.inputs), old.inputs)
        return answer.id, outputs, inputs

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
            raise ProviderError(str(error.details()).strip() or f"{method} failed without a reason") from None

    def _ready(self) -> Any:
        """The process, once it is up and configured."""
        with self._lock:
            if self._stub is None:
                self._channel, self._stub = _connect(self._child)
                self._child.follow_stdout(self._show)
                config = _plain(self.config)
                variables = {key: str(values.reveal(value)) for key, value in self.config.items()}
                request = provider_pb2.ConfigureRequest(args=config, variables=variables, acceptSecrets=True)
                try:
                    self._stub.Configure(request)
                except grpc.RpcError as error:
                    raise ProviderError(f"the provider could not be configured: {error.details()}") from None
            return self._stub

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        self._child.kill()

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
        self._child.finish()


def _connect(child: Child) -> tuple[Any, Any]:
    port = child.first_line()
    if not port.isdigit():
        raise EngineError(f"the dynamic provider process did not start{': ' + port if port else ''}")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=GRPC_OPTIONS)
    return channel, provider_pb2_grpc.ResourceProviderStub(channel)


def _plain(properties: Mapping[str, Any]) -> Any:
    return values.to_struct(properties, secrets=False, refs=False)


class Providers:
    """All providers of a run, by their references `<urn>::<id>`.

    The first process is started before anybody asks for it: it imports while the engine reads the state.
    """

    def __init__(self, project: Project, show: Callable[[str], None], parallel: int) -> None:
        self._project = project
        self._show = show
        self._parallel = parallel
        self._lock = threading.Lock()
        self._providers: dict[str, Provider] = {}
        self._replaced: list[Provider] = []
        self._spare: Child | None = Child("provhost.py", project)
        self._address = ""

    def listen_at(self, address: str) -> None:
        """Where the engine listens for the providers' messages; to be called before the first is asked for."""
        self._address = address

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
            self._providers[reference] = Provider(self._start(), inputs, self._show)
            if before is not None:
                self._replaced.append(before)

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

    def load(self, resources: list[Resource]) -> None:
        """Make the state's own providers known where this run has not brought its own."""
        for resource in resources:
            if is_provider(resource.type) and resource.type == PROVIDER_TYPE:
                reference = f"{resource.urn}::{resource.id}"
                with self._lock:
                    if reference in self._providers:
                        continue
                self.register(reference, resource.inputs)

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
        return {*self._providers.values(), *self._replaced}

    def _start(self) -> Child:
        child, self._spare = self._spare or Child("provhost.py", self._project), None
        environment = {
            "PULUMI_PROJECT": self._project.name,
            "PULUMI_ROOT_DIRECTORY": str(self._project.folder),
        }
        child.send({"address": self._address, "parallel": self._parallel, "environment": environment})
        child.follow(self._show, stdout=False)
        return child


def check_package(type_: str, name: str) -> None:
    """Refuse resources that need a plugin.  Raises NeedsCliError with the package and the resource's name."""
    package = type_.removeprefix(PROVIDER_PREFIX) if is_provider(type_) else type_.split(":")[0]
    if package != PACKAGE:
        raise NeedsCliError(
            f"resource {name!r} of type {type_}",
            f"the plugin pulumi-resource-{package} is needed, and this engine runs dynamic providers only",
        )
