"""A web page that only this machine can reach, at a secret address.

Other pages in the browser cannot read it: Host and Origin are checked, and the page cannot be framed or send anything elsewhere.
"""

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PrivateServer(ThreadingHTTPServer):
    """Listens on the loopback address. `address` is the page's, with the secret token."""

    daemon_threads = True

    def __init__(self, handler: type["PrivateHandler"], port: int = 0) -> None:
        """`port` 0: any free port. Raises OSError if the port is in use."""
        super().__init__(("127.0.0.1", port), handler)
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}
        self.address = f"http://127.0.0.1:{self.server_port}/{self.token}/"


class PrivateHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: PrivateServer
    protocol_version = "HTTP/1.1"
    server_version = "flux"
    sys_version = ""
    timeout = 30

    def authorized_path(self) -> str | None:
        """The path below the secret token; None if the request was refused."""
        # Check the Host header. This protects against DNS rebinding, where a foreign host name resolves to this machine.
        if self.headers.get("Host") not in self.server.hosts:
            self.refuse(403, "this page can only be opened on the machine that serves it")
            return None
        # Check the Origin header, which browsers send with every request that another site's script makes.
        if self.headers.get("Origin") is not None and not self.is_own_origin:
            self.refuse(403, "requests from other web sites are refused")
            return None
        token, slash, path = self.path.split("?", 1)[0].removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self.refuse(404, "not found")
            return None
        return unquote(path, errors="surrogateescape")

    @property
    def is_own_origin(self) -> bool:
        return self.headers.get("Origin") in {f"http://{host}" for host in self.server.hosts}

    def refuse(self, status: int, reason: str) -> None:
        # Close the connection: the rest of the request was not read.
        self.close_connection = True
        self.answer(status, "text/plain; charset=utf-8", f"{reason}\n".encode())

    def answer(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        """Names of `headers` have underscores for hyphens."""
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        self.begin(status, {"Content-Type": kind, "Content-Length": str(len(body)), **own})
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Send the status and the headers."""
        self.send_response(status)
        for header, value in {**HEADERS, **headers}.items():
            self.send_header(header, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the requests contain the secret token."""
