"""The daemon's two listening sockets and its HTTP servers."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from localcloud.home import DEFAULT_PORT, HomeState

ADDRESS = "127.0.0.1"


class PortError(Exception):
    """A port cannot be used. The message says which, and what to do."""


def bind(port: int, what: str) -> socket.socket:
    """A listening socket on this machine's loopback address; port 0 is any free port. Raises PortError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise PortError(
            f"port {port} (for {what}) on {ADDRESS} cannot be used: {error.strerror}; "
            "choose another with --port N (N and N+1 are used), or --port 0 for any free ones"
        ) from None
    return listener


def bind_api_and_s3(port: int | None, state: HomeState) -> tuple[socket.socket, socket.socket]:
    """Sockets for the APIs and for S3. With port 0, the ports of the last start are used again if they are free.

    Without a port (None), those of the last start or the default ones are used if they are free, otherwise any.
    """
    if port is None:
        api, s3 = state.api_port or DEFAULT_PORT, state.s3_port or DEFAULT_PORT + 1
        return _bind_or_any(api, "the APIs"), _bind_or_any(s3, "S3")
    if port:
        first = bind(port, "the APIs")
        try:
            return first, bind(port + 1, "S3")
        except PortError:
            first.close()
            raise
    return _bind_or_any(state.api_port, "the APIs"), _bind_or_any(state.s3_port, "S3")


def _bind_or_any(port: int, what: str) -> socket.socket:
    try:
        return bind(port, what)
    except PortError:
        return bind(0, what)


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers and logs: the daemon has its own."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=2,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
