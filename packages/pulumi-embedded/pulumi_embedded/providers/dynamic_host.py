"""Hosts the SDK's dynamic provider process (`python -m pulumi.dynamic`), unchanged, with three things around it.

Started as a script under the program's own interpreter (it imports nothing of the engine).  It ends when the
engine does, after the requests under way; failures are passed on as a message instead of a traceback; and it
serves as many requests at a time as the engine is asked to run.  Settings: one JSON line on stdin.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

# These speak of a mistake in the provider's code, not of something it found: say where.
_MISTAKES = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    ImportError,
    AssertionError,
    NotImplementedError,
)


class _Context:
    """A request's context whose `abort` carries a message instead of a traceback."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: Any, details: str) -> None:
        error = sys.exc_info()[1]
        self._context.abort(code, details if error is None else describe(error))


def describe(error: BaseException) -> str:
    """What an exception says: its message, with the type where that says more and the place where it is a bug."""
    message = str(error).strip()
    name = type(error).__name__
    plain = type(error) in (Exception, RuntimeError) or not hasattr(builtins, name)
    text = message if message and plain else f"{name}: {message}" if message else name
    if isinstance(error, _MISTAKES) and hasattr(builtins, name):
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            text += f"\n  at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}"
    return text


class _Watcher(grpc.ServerInterceptor):
    """Counts the requests under way and lets none be cut off."""

    def __init__(self) -> None:
        self._idle = threading.Condition()
        self._running = 0

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._serve(handler.unary_unary, request, context),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _serve(self, serve: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        with self._idle:
            self._running += 1
        try:
            return serve(request, _Context(context))
        except SystemExit as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"the provider called sys.exit({error.code!r})")
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def end_with_the_engine(self) -> None:
        """Wait for the end of stdin, then for the requests under way, and end."""
        sys.stdin.buffer.read()
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)
        os._exit(0)


def main() -> None:
    """Serve until the engine ends."""
    sys.path[0] = os.getcwd()  # noqa: PTH109 - in place of this script's folder, as for `python -m`
    # As in runner.py: most of what it makes are modules and classes, which stay.
    gc.set_threshold(100_000, 50, 100)
    try:
        importlib.import_module("pulumi.dynamic")  # while the engine is still busy
    except ImportError as error:
        print(f"{sys.executable} cannot import the SDK (pip install pulumi): {error}")
        return

    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # it serves for minutes, and each request leaves circles behind
    settings = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not settings:
        return
    os.environ.update(settings["environment"])
    watcher = _Watcher()
    threading.Thread(target=watcher.end_with_the_engine, daemon=True).start()
    make_server: Any = grpc.server

    def watched_server(_pool: Any, **options: Any) -> Any:
        return make_server(ThreadPoolExecutor(settings["parallel"]), interceptors=[watcher], **options)

    grpc.server = watched_server  # type: ignore[assignment]  # called as the dynamic provider does
    sys.argv = ["pulumi.dynamic", settings["address"]]
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
