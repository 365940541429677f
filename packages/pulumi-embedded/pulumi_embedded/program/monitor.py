"""The engine's side of Pulumi's gRPC protocol: ResourceMonitor for the program, Engine for its messages.

What the protocol has and this engine does not serve is refused by name; nothing is ignored silently.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlparse

import grpc
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # ships no types

from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.goals import Alias, Goal
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.program.grpc_stubs import (
    GRPC_OPTIONS,
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    resource_pb2,
    resource_pb2_grpc,
)
from pulumi_embedded.properties import values
from pulumi_embedded.properties.values import Properties

# Secrets, references, output values, alias specs, deletedWith are served.  Hooks, transforms and packages are
# named too, and refused when used: the SDK would otherwise ask its user to update the CLI.
_FEATURES: Final[Any] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
_SECONDS: Final = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "\N{MICRO SIGN}s": 1e-6, "ns": 1e-9}
_PART_OF_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|\N{MICRO SIGN}s|ms|[smh])")
_DURATION: Final = re.compile(rf"\+?(0|({_PART_OF_DURATION.pattern})+)")
SUCCESS: Final[Any] = 0
FAIL: Final[Any] = 1
SKIP: Final[Any] = 2


@dataclass(frozen=True)
class ProviderChoice:
    """Which provider is to be asked: a provider resource's reference, or the default of a package's version."""

    version: str = ""
    url: str = ""
    reference: str = ""


@dataclass(frozen=True)
class InvokeResult:
    """What a provider's function returned; `failures`: (argument, reason)."""

    result: Properties
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Registered:
    """What the program learns of a resource it has registered."""

    urn: str
    id: str = ""
    outputs: Properties | None = None
    result: Any = SUCCESS


class Registrar(Protocol):
    """Who does what the program asks for."""

    def register(self, goal: Goal) -> Registered:
        """Make, change or keep a resource."""

    def register_outputs(self, urn: str, outputs: Properties) -> None:
        """Note a component's outputs."""

    def read(self, goal: Goal) -> Registered:
        """Look up a resource that exists already and is nobody's to change."""

    def invoke(self, function: str, arguments: Properties, wanted: ProviderChoice) -> InvokeResult:
        """Call a provider's function."""

    def program_is_done(self) -> None:
        """The program has registered everything; returns when the rest has been done."""


class Monitor(resource_pb2_grpc.ResourceMonitorServicer, engine_pb2_grpc.EngineServicer):
    """Serves one run."""

    def __init__(self, registrar: Registrar, listener: Listener, root: str) -> None:
        self._registrar = registrar
        self._listener = listener
        self._root = root
        self._root_urn = ""
        self.failure: EngineError | None = None

    def GetDeploymentInfo(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the protocol's names
        return resource_pb2.DeploymentInfo(supportedFeatures=_FEATURES)

    def SupportsFeature(self, _request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for GetDeploymentInfo")

    def RegisterResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: self._register(request))

    def RegisterResourceOutputs(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: self._outputs(request))

    def SignalAndWaitForShutdown(self, _request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, self._done)

    def ReadResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: self._read(request))

    def ExistsResource(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse(f"looking for an existing {request.type}"))

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: self._invoke(request))

    def Call(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse(f"the method {request.tok}"))

    def RegisterStackTransform(self, _request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse("a stack transform"))

    def RegisterStackInvokeTransform(self, _request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse("a stack invoke transform"))

    def RegisterResourceHook(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse(f"the resource hook {request.name!r}"))

    def RegisterErrorHook(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse(f"the error hook {request.name!r}"))

    def RegisterPackage(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(context, lambda: _refuse(f"the parameterized package {request.name!r}"))

    def Log(self, request: Any, _context: Any) -> Any:  # noqa: N802
        if self.failure is not None and str(self.failure) in request.message:
            return empty_pb2.Empty()  # the program's echo of what is reported at the end
        self._listener.message(request.severity, request.urn, request.message, ephemeral=request.ephemeral)
        return empty_pb2.Empty()

    def GetRootResource(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return engine_pb2.GetRootResourceResponse(urn=self._root_urn)

    def SetRootResource(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self._root_urn = request.urn
        return engine_pb2.SetRootResourceResponse()

    def RequirePulumiVersion(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return engine_pb2.RequirePulumiVersionResponse()

    def _answer(self, context: Any, work: Callable[[], Any]) -> Any:
        """The answer, or the failure under its own name: an exception in a handler reaches the program as UNKNOWN."""
        try:
            return work()
        except EngineError as error:
            self.failure = self.failure or error
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except Exception as error:  # noqa: BLE001 - kept for the run to report: a bug of this engine
            self.failure = EngineError(f"the engine failed: {type(error).__name__}: {error}")
            self.failure.__cause__ = error
            context.abort(grpc.StatusCode.INTERNAL, str(self.failure))
        return None

    def _register(self, request: Any) -> Any:
        done = self._registrar.register(goal_of(request, self._root))
        return resource_pb2.RegisterResourceResponse(
            urn=done.urn,
            id=done.id,
            object=values.to_struct(done.outputs or {}, secrets=True),
            result=done.result,
        )

    def _read(self, request: Any) -> Any:
        if request.packageRef:
            raise NeedsCliError(f"a parameterized package on {request.type} {request.name!r}")
        done = self._registrar.read(read_goal_of(request, self._root))
        return resource_pb2.ReadResourceResponse(
            urn=done.urn,
            id=done.id,
            properties=values.to_struct(done.outputs or {}, secrets=True),
            result=done.result,
        )

    def _invoke(self, request: Any) -> Any:
        if request.packageRef:
            raise NeedsCliError(f"a parameterized package for the function {request.tok}")
        wanted = ProviderChoice(request.version, request.pluginDownloadURL, request.provider)
        found = self._registrar.invoke(request.tok, values.from_struct(request.args), wanted)
        return provider_pb2.InvokeResponse(
            failures=[provider_pb2.CheckFailure(property=key, reason=why) for key, why in found.failures],
            **{"return": values.to_struct(found.result, secrets=True)},
        )

    def _outputs(self, request: Any) -> Any:
        self._registrar.register_outputs(request.urn, values.from_struct(request.outputs))
        return empty_pb2.Empty()

    def _done(self) -> Any:
        self._registrar.program_is_done()
        return empty_pb2.Empty()


def _refuse(what: str) -> Any:
    raise NeedsCliError(what)


def goal_of(request: Any, root: str) -> Goal:
    """The registration in a message.  Raises NeedsCliError for what is not served."""
    _refuse_unserved(request)
    return Goal(
        type=intern(request.type),
        name=request.name,
        custom=request.custom,
        parent=intern(request.parent),
        inputs=values.from_struct(request.object),
        provider=request.provider,
        dependencies=[intern(urn) for urn in request.dependencies],
        property_dependencies={
            intern(key): [intern(urn) for urn in found.urns]
            for key, found in request.propertyDependencies.items()
        },
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
        ignore_changes=list(request.ignoreChanges),
        replace_on_changes=list(request.replaceOnChanges),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        aliases=[_alias(alias) for alias in request.aliases] + [Alias(urn=urn) for urn in request.aliasURNs],
        deleted_with=request.deletedWith,
        custom_timeouts=_timeouts(request.customTimeouts),
        source_position=_position(request.sourcePosition, root),
        version=request.version,
        plugin_url=request.pluginDownloadURL,
    )


def read_goal_of(request: Any, root: str) -> Goal:
    """The look-up in a message."""
    return Goal(
        type=request.type,
        name=request.name,
        custom=True,
        parent=request.parent,
        inputs=values.from_struct(request.properties),
        provider=request.provider,
        dependencies=list(request.dependencies),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        source_position=_position(request.sourcePosition, root),
        read_id=values.UNKNOWN if request.id == values.UNKNOWN_TEXT else request.id,
        version=request.version,
        plugin_url=request.pluginDownloadURL,
    )


def _refuse_unserved(request: Any) -> None:
    name = f"{request.type} {request.name!r}"
    refused = {
        "a remote component": request.remote,
        "`import_`": request.importId,
        "`transforms`": request.transforms,
        "`state_migrations`": request.state_migrations,
        "`hooks`": any(getattr(request.hooks, field.name) for field in request.hooks.DESCRIPTOR.fields),
        "`replace_with`": request.replace_with,
        "`replacement_trigger`": request.HasField("replacement_trigger")
        and request.replacement_trigger.WhichOneof("kind") not in (None, "null_value"),
        "a parameterized package": request.packageRef,
        "`env_var_mappings`": request.envVarMappings,
        "`hide_diffs`": request.hideDiffs,
    }
    for what, used in refused.items():
        if used:
            raise NeedsCliError(f"{what} on {name}")


def _alias(alias: Any) -> Alias:
    if alias.urn:
        return Alias(urn=alias.urn)
    spec = alias.spec
    return Alias("", spec.name, spec.type, spec.stack, spec.project, spec.parentUrn, spec.noParent)


def _timeouts(timeouts: Any) -> dict[str, float]:
    """Go durations ("5m", "1h30m", "500ms") in seconds, as the state has them.  Raises EngineError where one is none."""
    found = {}
    for name in ("create", "update", "delete"):
        text = getattr(timeouts, name)
        if not text:
            continue
        if not _DURATION.fullmatch(text):
            raise EngineError(f"unable to parse customTimeout Value {text}")
        total = sum(float(count) * _SECONDS[unit] for count, unit in _PART_OF_DURATION.findall(text))
        if total:
            found[name] = values.number(round(total, 9))
    return found


def _position(position: Any, root: str) -> str:
    """`file:///…` as `project:///<path from the project's folder>#<line>`."""
    parsed = urlparse(position.uri)
    if parsed.scheme != "file":
        return ""
    path = posixpath.relpath(unquote(parsed.path), root)
    return f"project:///{path}" + (f"#{position.line}" if position.line else "")


class EngineServer:
    """The gRPC server around a monitor."""

    def __init__(self, parallel: int) -> None:
        # The SDK registers from parallel * 4 threads, and each call waits for its step: fewer would deadlock.
        self._server = grpc.server(ThreadPoolExecutor(max_workers=parallel * 4 + 64), options=GRPC_OPTIONS)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    def start(self, monitor: Monitor) -> None:
        """Serve."""
        resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, self._server)
        engine_pb2_grpc.add_EngineServicer_to_server(monitor, self._server)
        self._server.start()

    def stop(self) -> None:
        """End; calls under way are cut off."""
        self._server.stop(0)
