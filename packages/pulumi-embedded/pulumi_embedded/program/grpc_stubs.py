"""The gRPC stubs of the PyPI package `pulumi`, without the rest of the SDK.

Importing `pulumi` takes a quarter of a second, 13 % of a small preview's CPU time, and the engine only needs the generated
modules in `pulumi.runtime.proto`. Therefore their parent packages are registered as empty modules with a path.
"""

import importlib.util
import sys
import types
from pathlib import Path


def _register_empty_packages() -> None:
    if "pulumi" in sys.modules:
        return
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.origin is None:
        raise ImportError("the engine needs the PyPI package `pulumi`: `python -m pip install pulumi`")
    root = Path(spec.origin).parent
    for name, path in (("pulumi", root), ("pulumi.runtime", root / "runtime")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


_register_empty_packages()

from pulumi.runtime.proto import (  # noqa: E402 - needs the packages registered above
    engine_pb2,
    engine_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
    status_pb2,
)

__all__ = [
    "engine_pb2",
    "engine_pb2_grpc",
    "events_pb2",
    "events_pb2_grpc",
    "provider_pb2",
    "provider_pb2_grpc",
    "resource_pb2",
    "resource_pb2_grpc",
    "status_pb2",
]

# The same message size limits as in the Pulumi SDK (pulumi/runtime/_grpc_settings.py).
GRPC_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # no proxy, because all connections are local
    ("grpc.max_receive_message_length", 1024 * 1024 * 400),
    ("grpc.max_send_message_length", 1024 * 1024 * 400),
    ("grpc.server_max_unrequested_time_in_server", 30 * 60),
]
