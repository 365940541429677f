"""The gRPC stubs of the PyPI package `pulumi`, without the SDK around them.

Importing `pulumi` itself costs a quarter of a second that the engine does not need: only the generated modules
under `pulumi.runtime.proto` are loaded, by giving their parent packages a path and no code.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path


def _bare_packages() -> None:
    if "pulumi" in sys.modules:
        return
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.origin is None:
        raise ImportError("the engine needs the PyPI package `pulumi`, which is not installed here")
    root = Path(spec.origin).parent
    for name, path in (("pulumi", root), ("pulumi.runtime", root / "runtime")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


_bare_packages()

# After the packages they live in have been put up.
from pulumi.runtime.proto import (  # noqa: E402
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
    status_pb2,
)

__all__ = [
    "engine_pb2",
    "engine_pb2_grpc",
    "provider_pb2",
    "provider_pb2_grpc",
    "resource_pb2",
    "resource_pb2_grpc",
    "status_pb2",
]

# The SDK's own limits (sdk/python runtime/_grpc_settings.py).
GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", 1024 * 1024 * 400),
    ("grpc.max_send_message_length", 1024 * 1024 * 400),
    ("grpc.server_max_unrequested_time_in_server", 30 * 60),
]
