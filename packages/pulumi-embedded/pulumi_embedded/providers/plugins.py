"""Provider plugins: `pulumi-resource-<package>` programs, found where the CLI finds them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

from pulumi_embedded.errors import EngineError
from pulumi_embedded.program.grpc_stubs import provider_pb2
from pulumi_embedded.program.processes import ChildProcess
from pulumi_embedded.project.config import Project
from pulumi_embedded.project.selection import pulumi_home
from pulumi_embedded.properties import values
from pulumi_embedded.properties.urns import PROVIDER_PREFIX, name_of, type_of
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import (
    CheckFailure,
    Provider,
    check_failures,
    identity_fields,
    plain_struct,
)

_VERSION: Final = "version"
# The key under which the state stores the engine's own data in a provider's inputs. It is not
# sent to the provider.
INTERNAL: Final = "__internal"


def package_of(type_: str) -> str:
    """The package of a resource type, provider type or function."""
    return type_.removeprefix(PROVIDER_PREFIX).split(":")[0]


def find_plugin(package: str, version: str) -> Path | None:
    """The plugin's program: on the PATH, otherwise with this version (or the latest one) in Pulumi's home folder."""
    program = f"pulumi-resource-{package}"
    found = shutil.which(program)
    if found:
        return Path(found)
    folders = (pulumi_home() / "plugins").glob(f"resource-{package}-v*")
    known = {folder.name.rpartition("-v")[2]: folder for folder in folders if (folder / program).is_file()}
    if version:
        return known[version] / program if version in known else None
    latest = max(known, key=_version_key, default=None)
    return known[latest] / program if latest else None


def _version_key(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def check_installed(type_: str, name: str, version: str, what: str = "") -> None:
    """Raises EngineError if the plugin is missing; the message says how to install it."""
    package = package_of(type_)
    if find_plugin(package, version) is None:
        exact = f" v{version}" if version else ""
        raise EngineError(
            f"{what or f'resource {name!r} of type {type_}'} needs the provider plugin pulumi-resource-{package}{exact}, which is neither on "
            f"the PATH nor in the folder `plugins` of PULUMI_HOME. Install it with `pulumi plugin install resource "
            f"{package}{exact}`, or put the program pulumi-resource-{package} of a release on the PATH"
        )


class Plugin(Provider):
    """A plugin process, started when it is first needed."""

    def __init__(
        self, project: Project, urn: str, config: Properties, address: str, on_line: Callable[[str], None]
    ) -> None:
        super().__init__(config, on_line)
        self._project = project
        self._urn = urn
        self._address = address
        self.id = ""

    def _connect(self) -> None:
        if self._stub is None:
            self._child = self._start()
            self._child.forward_output(self._on_output_line, stdout=False)
            self._connect_to(self._child)
            self._handshake()

    def _start(self) -> ChildProcess:
        type_, version = type_of(self._urn), str(values.reveal_secrets(self.config.get(_VERSION, "")))
        check_installed(type_, name_of(self._urn), version)
        return ChildProcess([str(find_plugin(package_of(type_), version)), self._address], self._project)

    def _handshake(self) -> None:
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
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:  # older plugins do not implement this call
                raise EngineError(f"the plugin did not answer: {error.details()}") from None

    def _configure(self) -> None:
        request = provider_pb2.ConfigureRequest(
            args=plain_struct(_without_internal(self.config)),
            variables=self._variables(),
            id=self.id,
            acceptSecrets=True,
            acceptResources=True,
            sends_old_inputs=True,
            sends_old_inputs_to_delete=True,
            **identity_fields(self._urn),
        )
        self.supports_preview = self._stub.Configure(request).supportsPreview

    def check_config(self, old: Properties, new: Properties) -> tuple[Properties, list[CheckFailure]]:
        """The provider's configuration as completed by it, and the values it does not accept."""
        request = provider_pb2.CheckRequest(
            olds=plain_struct(_without_internal(old)),
            news=plain_struct(_without_internal(new)),
            **identity_fields(self._urn),
        )
        answer = self._call_before_configure("CheckConfig", request)
        if answer is None:
            return new, []
        inputs = values.mark_secrets(values.from_struct(answer.inputs), new)
        if INTERNAL in new:
            inputs[INTERNAL] = new[INTERNAL]
        return inputs, check_failures(answer)

    def properties_that_force_replacement(self, id_: str, old: Properties, new: Properties) -> list[str]:
        """The configuration keys whose change makes it another provider, which cannot manage the old one's resources."""
        before = plain_struct(_without_internal(old))
        request = provider_pb2.DiffRequest(
            id=id_,
            olds=before,
            news=plain_struct(_without_internal(new)),
            old_inputs=before,
            **identity_fields(self._urn),
        )
        answer = self._call_before_configure("DiffConfig", request)
        return list(answer.replaces) if answer is not None else []

    def _call_before_configure(self, method: str, request: Any) -> Any:
        """The answer, or None if the plugin does not have this call."""
        with self._lock:
            self._connect()
        try:
            return getattr(self._stub, method)(request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise EngineError(f"{method}: {error.details()}") from None

    def _variables(self) -> dict[str, str]:
        package = package_of(type_of(self._urn))
        return {
            f"{package}:config:{key}": str(values.reveal_secrets(value))
            for key, value in _without_internal(self.config).items()
            if key != _VERSION
        }

    def close(self) -> None:
        """Kill the process: plugins do not end with their stdin, and all requests have been answered."""
        if self._channel is not None:
            self._channel.close()
        self.kill()


def _without_internal(config: Properties) -> Properties:
    return {key: value for key, value in config.items() if key != INTERNAL}
