"""The engine's side of Pulumi's gRPC protocol (docs/protocol.md): the services ResourceMonitor and Engine.

Features that this engine does not support are refused by name; none is ignored silently.
"""

# ruff: noqa: N802 - the methods have the names of the protocol
from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlparse

import grpc
from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # ships no types

from pulumi_embedded.deployment.events import Listener
from pulumi_embedded.deployment.goals import Alias, Goal
from pulumi_embedded.errors import EngineError, NeedsCliError
from pulumi_embedded.program.grpc_stubs import (
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    resource_pb2,
    resource_pb2_grpc,
)
from pulumi_embedded.properties import values
from pulumi_embedded.properties.values import Properties
from pulumi_embedded.providers.provider import CheckFailure

# The features that this engine tells the SDK it supports. Secrets, references, output values, alias specs
# and deletedWith are implemented. Hooks, transforms and packages are refused when a program uses them; if
# they were not listed, the SDK would tell the user to update the CLI.
_FEATURES: Final[Any] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
_SECONDS: Final = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "\N{MICRO SIGN}s": 1e-6, "ns": 1e-9}
_PART_OF_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|\N{MICRO SIGN}s|ms|[smh])")
_DURATION: Final = re.compile(rf"\+?(0|({_PART_OF_DURATION.pattern})+)")
SUCCESS: Final[Any] = 0
FAIL: Final[Any] = 1
SKIP: Final[Any] = 2


@dataclass(frozen=True)
class Registration:
    """The answer to a registration."""

    urn: str
    id: str = ""
    outputs: Properties | None = None
    result: Any = SUCCESS


class Registrar(Protocol):
    """Does what the program asks for."""

    def register_resource(self, goal: Goal) -> Registration:
        """Create, change or keep a resource."""

    def register_outputs(self, urn: str, outputs: Properties) -> None:
        """Record a component's outputs."""

    def read_resource(self, goal: Goal) -> Registration:
        """Look up a resource that exists and that the stack does not manage."""

    def invoke_function(
        self, function: str, arguments: Properties, reference: str, version: str, url: str
    ) -> tuple[Properties, list[CheckFailure]]:
        """Call a function of the provider with this reference, or of the default one for the version.

        Returns its result, and the arguments it does not accept.
        """

    def end_registrations(self) -> None:
        """Called when the program has registered everything. Returns after the deletions."""


def _abort_on_error(call: Callable[[Any, Any], Any]) -> Any:
    """A handler that aborts with the failure's message: gRPC would hide an exception's type and message."""

    def handle(self: Monitor, request: Any, context: Any) -> Any:
        try:
            return call(self, request)
        except EngineError as error:
            self.failure = self.failure or error
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of this engine; the run reports it
            self.failure = EngineError(f"the engine failed: {type(error).__name__}: {error}")
            self.failure.__cause__ = error
            context.abort(grpc.StatusCode.INTERNAL, str(self.failure))

    return handle


class Monitor(resource_pb2_grpc.ResourceMonitorServicer, engine_pb2_grpc.EngineServicer):
    """The services for one run."""

    def __init__(self, registrar: Registrar, listener: Listener, root: str) -> None:
        self._registrar = registrar
        self._listener = listener
        self._root = root
        self._root_urn = ""
        self.failure: EngineError | None = None

    def GetDeploymentInfo(self, _request: Any, _context: Any) -> Any:
        return resource_pb2.DeploymentInfo(supportedFeatures=_FEATURES)

    def SupportsFeature(self, _request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for GetDeploymentInfo")

    @_abort_on_error
    def RegisterResource(self, request: Any) -> Any:
        answer = self._registrar.register_resource(goal_from_request(request, self._root))
        return resource_pb2.RegisterResourceResponse(
            urn=answer.urn,
            id=answer.id,
            object=values.to_struct(answer.outputs or {}, secrets=True),
            result=answer.result,
        )

    @_abort_on_error
    def RegisterResourceOutputs(self, request: Any) -> Any:
        self._registrar.register_outputs(request.urn, values.from_struct(request.outputs))
        return empty_pb2.Empty()

    @_abort_on_error
    def SignalAndWaitForShutdown(self, _request: Any) -> Any:
        self._registrar.end_registrations()
        return empty_pb2.Empty()

    @_abort_on_error
    def ReadResource(self, request: Any) -> Any:
        if request.packageRef:
            raise NeedsCliError(f"a parameterized package on {request.type} {request.name!r}")
        answer = self._registrar.read_resource(read_goal_from_request(request, self._root))
        return resource_pb2.ReadResourceResponse(
            urn=answer.urn,
            id=answer.id,
            properties=values.to_struct(answer.outputs or {}, secrets=True),
            result=answer.result,
        )

    @_abort_on_error
    def Invoke(self, request: Any) -> Any:
        if request.packageRef:
            raise NeedsCliError(f"a parameterized package for the function {request.tok}")
        arguments = values.from_struct(request.args)
        result, failures = self._registrar.invoke_function(
            request.tok, arguments, request.provider, request.version, request.pluginDownloadURL
        )
        return provider_pb2.InvokeResponse(
            failures=[provider_pb2.CheckFailure(**vars(failure)) for failure in failures],
            **{"return": values.to_struct(result, secrets=True)},
        )

    def Log(self, request: Any, _context: Any) -> Any:
        if self.failure is not None and str(self.failure) in request.message:
            return empty_pb2.Empty()  # the SDK logs the engine's own error again; it is reported at the end
        self._listener.on_message(request.severity, request.urn, request.message, ephemeral=request.ephemeral)
        return empty_pb2.Empty()

    def GetRootResource(self, _request: Any, _context: Any) -> Any:
        return engine_pb2.GetRootResourceResponse(urn=self._root_urn)

    def SetRootResource(self, request: Any, _context: Any) -> Any:
        self._root_urn = request.urn
        return engine_pb2.SetRootResourceResponse()

    def RequirePulumiVersion(self, _request: Any, _context: Any) -> Any:
        return engine_pb2.RequirePulumiVersionResponse()


# The gRPC calls that this engine does not support, with a description for the error message.
_UNSUPPORTED: Final[dict[str, Callable[[Any], str]]] = {
    "ExistsResource": lambda request: f"looking up an existing {request.type}",
    "Call": lambda request: f"the method {request.tok}",
    "RegisterStackTransform": lambda _: "a stack transform",
    "RegisterStackInvokeTransform": lambda _: "a stack invoke transform",
    "RegisterResourceHook": lambda request: f"the resource hook {request.name!r}",
    "RegisterErrorHook": lambda request: f"the error hook {request.name!r}",
    "RegisterPackage": lambda request: f"the parameterized package {request.name!r}",
}


def _add_unsupported(method: str, name_of: Callable[[Any], str]) -> None:
    def refuse(_monitor: Any, request: Any) -> Any:
        raise NeedsCliError(name_of(request))

    setattr(Monitor, method, _abort_on_error(refuse))


for _method, _name_of in _UNSUPPORTED.items():
    _add_unsupported(_method, _name_of)


def goal_from_request(request: Any, root: str) -> Goal:
    """The registration in a request. Raises NeedsCliError for unsupported features."""
    _refuse_unsupported(request)
    return replace(
        _shared_goal(request, root),
        custom=request.custom,
        inputs=values.from_struct(request.object),
        property_dependencies={key: list(found.urns) for key, found in request.propertyDependencies.items()},
        protect=request.protect,
        retain_on_delete=request.retainOnDelete,
        delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
        ignore_changes=list(request.ignoreChanges),
        replace_on_changes=list(request.replaceOnChanges),
        aliases=[_alias(alias) for alias in request.aliases] + [Alias(urn=urn) for urn in request.aliasURNs],
        deleted_with=request.deletedWith,
        custom_timeouts=_timeouts(request.customTimeouts),
    )


def read_goal_from_request(request: Any, root: str) -> Goal:
    """The look-up in a request."""
    return replace(
        _shared_goal(request, root),
        inputs=values.from_struct(request.properties),
        read_id=values.UNKNOWN if request.id == values.UNKNOWN_TEXT else request.id,
    )


def _shared_goal(request: Any, root: str) -> Goal:
    """What registrations and look-ups have in common."""
    return Goal(
        type=request.type,
        name=request.name,
        custom=True,
        parent=request.parent,
        provider=request.provider,
        dependencies=list(request.dependencies),
        additional_secret_outputs=list(request.additionalSecretOutputs),
        source_position=_source_position(request.sourcePosition, root),
        version=request.version,
        plugin_url=request.pluginDownloadURL,
    )


def _refuse_unsupported(request: Any) -> None:
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
    """Go durations ("5m", "1h30m", "500ms") in seconds, as the state stores them. Raises EngineError if one is invalid."""
    found = {}
    for name in ("create", "update", "delete"):
        text = getattr(timeouts, name)
        if not text:
            continue
        if not _DURATION.fullmatch(text):
            raise EngineError(f"unable to parse customTimeout Value {text}")
        total = sum(float(count) * _SECONDS[unit] for count, unit in _PART_OF_DURATION.findall(text))
        if total:
            found[name] = values.int_if_whole(round(total, 9))
    return found


def _source_position(position: Any, root: str) -> str:
    """`file:///…` as `project:///<path relative to the project's folder>#<line>`."""
    parsed = urlparse(position.uri)
    if parsed.scheme != "file":
        return ""
    path = posixpath.relpath(unquote(parsed.path), root)
    return f"project:///{path}" + (f"#{position.line}" if position.line else "")
