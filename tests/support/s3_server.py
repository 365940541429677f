"""An S3 server whose answers the test chooses."""

import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, bytes] | tuple[int, bytes, int] | None


class Server(ThreadingHTTPServer):
    """Answers what `reply` says: (status, body), (status, body, announced length), None = hang up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[str, str, bytes], Reply] = lambda *_: (200, b"")
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: in some tests the client hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Passes each request to the server's `reply`."""

    server: Server
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))
        self.server.headers.append(dict(self.headers))
        self.server.bodies.append(body)
        reply = self.server.reply(self.command, self.path, body)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply[0])
        self.send_header("Content-Length", str(reply[2] if len(reply) == 3 else len(reply[1])))
        self.send_header("ETag", f'"{hashlib.md5(reply[1], usedforsecurity=False).hexdigest()}"')
        self.end_headers()
        self.wfile.write(reply[1])
        self.close_connection = len(reply) == 3

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815  (http.server's names)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
