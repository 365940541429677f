"""Runs the SDK's dynamic provider process (`python -m pulumi.dynamic`) with three changes.

It ends after the current requests when the engine has ended; failures are reported as a message instead of a traceback;
and it serves as many requests at a time as the engine runs steps. To this end `grpc.server` is replaced before the SDK
calls it. The engine starts this file as a script with the program's own interpreter; it must not import the engine.
The settings are one line of JSON on stdin.
"""

import builtins
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

# These exceptions usually mean a bug in the provider's code, so their message includes the source line.
_BUGS = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    ImportError,
    AssertionError,
    NotImplementedError,
)


class _RequestContext:
    """A gRPC context whose `abort` sends a message instead of a traceback."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: Any, details: str) -> None:
        error = sys.exc_info()[1]
        self._context.abort(code, details if error is None else describe_error(error))


def describe_error(error: BaseException) -> str:
    """The exception's message, with its type if the message needs it, and the source line if it is a bug."""
    message = str(error).strip()
    name = type(error).__name__
    is_own_type = not hasattr(builtins, name)
    is_plain = type(error) in (Exception, RuntimeError) or is_own_type
    text = message if message and is_plain else f"{name}: {message}" if message else name
    if isinstance(error, _BUGS) and not is_own_type:
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            text += f"\n  at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}"
    return text


class _RequestCounter(grpc.ServerInterceptor):
    """Counts the running requests, so that the process does not end before they do."""

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
            return serve(request, _RequestContext(context))
        except SystemExit as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"the provider called sys.exit({error.code!r})")
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def exit_with_engine(self) -> None:
        """Wait for the end of stdin and then for the running requests, and exit."""
        sys.stdin.buffer.read()
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)
        os._exit(0)


def main() -> None:
    """Serve until the engine ends."""
    from lazy_automation import import_automation_lazily  # type: ignore[import-not-found]  # beside this script

    sys.path[0] = os.getcwd()  # noqa: PTH109 - replaces this script's folder, as `python -m` would set it
    import_automation_lazily()
    try:
        importlib.import_module(
            "pulumi.dynamic"
        )  # import the SDK now, while the engine prepares the settings
    except ImportError as error:
        print(f"{sys.executable} cannot import the SDK (pip install pulumi): {error}")
        return
    settings = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not settings:
        return
    os.environ.update(settings["environment"])
    counter = _RequestCounter()
    threading.Thread(target=counter.exit_with_engine, daemon=True).start()
    make_server: Any = grpc.server

    def counting_server(_pool: Any, **options: Any) -> Any:
        return make_server(ThreadPoolExecutor(settings["parallel"]), interceptors=[counter], **options)

    grpc.server = counting_server  # type: ignore[assignment]  # takes the arguments that the SDK passes
    sys.argv = ["pulumi.dynamic", settings["address"]]
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
