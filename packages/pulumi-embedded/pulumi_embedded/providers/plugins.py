"""Provider plugins: `pulumi-resource-<package>` programs, found as the CLI finds them and spoken to alike."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import provider_pb2
from pulumi_embedded.program.processes import Child
from pulumi_embedded.project.config import Project
from pulumi_embedded.project.selection import home
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, name_of, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import CheckFailure, Provider, connect, plain

_VERSION: Final = "version"
# What the engine keeps beside a provider's own configuration; the provider is not told of it.
INTERNAL: Final = "__internal"
_CALLS: Final = {
    "acceptSecrets": True,
    "acceptResources": True,
    "sends_old_inputs": True,
    "sends_old_inputs_to_delete": True,
}


def package_of(type_: str) -> str:
    """The package that a resource's or a provider's type, or a function, belongs to."""
    return type_.removeprefix(PROVIDER_PREFIX).split(":")[0]


def find(package: str, version: str) -> Path | None:
    """The plugin's program: on the PATH, else of this version (or the latest) in Pulumi's own folder."""
    program = f"pulumi-resource-{package}"
    found = shutil.which(program)
    if found:
        return Path(found)
    folders = (home() / "plugins").glob(f"resource-{package}-v*")
    known = {folder.name.rpartition("-v")[2]: folder for folder in folders if (folder / program).is_file()}
    if version:
        return known[version] / program if version in known else None
    latest = max(known, key=_ordered, default=None)
    return known[latest] / program if latest else None


def _ordered(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def check_there(type_: str, name: str, version: str, what: str = "") -> None:
    """Raises EngineError where the plugin is missing, with its package, the resource, and the way to get it."""
    package = package_of(type_)
    if find(package, version) is None:
        exact = f" v{version}" if version else ""
        raise EngineError(
            f"{what or f'resource {name!r} of type {type_}'} needs the provider plugin pulumi-resource-{package}{exact}, which is neither on "
            f"the PATH nor in the folder `plugins` of PULUMI_HOME. Put it there with `pulumi plugin install resource "
            f"{package}{exact}`, or put a release's program pulumi-resource-{package} on the PATH"
        )


class Plugin(Provider):
    """A plugin process, started when it is first needed."""

    def __init__(
        self, project: Project, urn: str, config: Properties, address: str, show: Callable[[str], None]
    ) -> None:
        self._project = project
        self._urn = urn
        self._address = address
        self._handle: Child | None = None
        self.id = ""
        super().__init__(None, config, show)

    def _start(self) -> Child:
        package = package_of(type_of(self._urn))
        version = str(values.reveal(self.config.get(_VERSION, "")))
        program = find(package, version)
        if program is None:
            check_there(type_of(self._urn), name_of(self._urn), version)
        return Child([str(program), self._address], self._project)

    def _connected(self) -> Any:
        """The process, whether it is configured or not."""
        if self._handle is None:
            self._handle = self._start()
            self._handle.follow(self._show, stdout=False)
            self._channel, self._stub = connect(self._handle)
            self._handle.follow_stdout(self._show)
            self._shake_hands()
        return self._stub

    def _shake_hands(self) -> None:
        folder = str(self._project.folder)
        request = provider_pb2.ProviderHandshakeRequest(
            engine_address=self._address,
            root_directory=folder,
            program_directory=folder,
            configure_with_urn=True,
            invoke_with_preview=True,
        )
        try:
            self._stub.Handshake(request)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:  # older plugins have no such call
                raise EngineError(f"the plugin did not answer: {error.details()}") from None

    def _ready(self) -> Any:
        with self._lock:
            stub = self._connected()
            if not self._configured:
                request = provider_pb2.ConfigureRequest(
                    args=plain(self._own(self.config)),
                    variables=self._variables(),
                    id=self.id,
                    urn=self._urn,
                    name=name_of(self._urn),
                    type=type_of(self._urn),
                    **_CALLS,
                )
                try:
                    self.supports_preview = stub.Configure(request).supportsPreview
                except grpc.RpcError as error:
                    raise EngineError(f"the provider could not be configured: {error.details()}") from None
                self._configured = True
            return stub

    def check_config(self, old: Properties, new: Properties) -> tuple[Properties, list[CheckFailure]]:
        """The provider's configuration as it completes it, and what it does not accept."""
        request = provider_pb2.CheckRequest(
            urn=self._urn,
            olds=plain(self._own(old)),
            news=plain(self._own(new)),
            name=name_of(self._urn),
            type=type_of(self._urn),
        )
        answer = self._early("CheckConfig", request)
        if answer is None:
            return new, []
        inputs = values.mark_secrets(values.from_struct(answer.inputs), new)
        if INTERNAL in new:
            inputs[INTERNAL] = new[INTERNAL]
        failures = [CheckFailure(failure.property, failure.reason) for failure in answer.failures]
        return inputs, failures

    def replaces_on(self, id_: str, old: Properties, new: Properties) -> list[str]:
        """The keys whose change makes another provider of it: what it manages is out of the new one's reach."""
        request = provider_pb2.DiffRequest(
            id=id_,
            urn=self._urn,
            olds=plain(self._own(old)),
            news=plain(self._own(new)),
            old_inputs=plain(self._own(old)),
            name=name_of(self._urn),
            type=type_of(self._urn),
        )
        answer = self._early("DiffConfig", request)
        return list(answer.replaces) if answer is not None else []

    def _early(self, method: str, request: Any) -> Any:
        """The answer to a call that comes before Configure; None where the plugin does not know the call."""
        with self._lock:
            stub = self._connected()
        try:
            return getattr(stub, method)(request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise EngineError(f"{method}: {error.details()}") from None

    def _own(self, config: Properties) -> Properties:
        return {key: value for key, value in config.items() if key != INTERNAL}

    def _variables(self) -> dict[str, str]:
        package = package_of(type_of(self._urn))
        return {
            f"{package}:config:{key}": str(values.reveal(value))
            for key, value in self._own(self.config).items()
            if key != _VERSION
        }

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        if self._handle is not None:
            self._handle.kill()

    def close(self) -> None:
        """End the process; its requests have been answered."""
        if self._channel is not None:
            self._channel.close()
        self.kill()
