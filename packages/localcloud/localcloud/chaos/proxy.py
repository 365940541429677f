"""A proxy that loses, delays, cuts and refuses requests and answers between a client and the local cloud.

Requests are forwarded unchanged, with their Host header, so that S3 signatures stay valid. Bodies are held in memory.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from localcloud.chaos.plan import Faults, fault_reply

ADDRESS = "127.0.0.1"
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect"})
UPSTREAM_SECONDS = 60
# On a slow line, data is sent in pieces of this size.
PIECE_BYTES = 16 * 1024
# These services have one port together.
API_SERVICES = ("kelpie", "salad", "cloudflare")
# The web page, whose requests never fail.
PAGE = "page"

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Exchange:
    """A request and the server's answer, which may not have reached the client."""

    service: str
    method: str
    target: str
    request_headers: Headers
    request_body: bytes
    status: int
    headers: Headers
    body: bytes


class Proxy:
    """Listens on a free port and forwards to `upstream` (http://host:port). Use it in a `with` statement, or `open` it."""

    def __init__(
        self,
        upstream: str,
        service_of: Callable[[str], str],
        faults: Faults | None = None,
        on_exchange: Callable[[Exchange], None] | None = None,
        bytes_a_second: int | None = None,
    ) -> None:
        self.upstream = urlsplit(upstream)
        self.service_of, self.faults, self.on_exchange = service_of, faults, on_exchange
        self.bytes_a_second = bytes_a_second
        self._server = _ProxyServer((ADDRESS, 0), _ProxyHandler)
        self._server.proxy = self
        self.url = f"http://{ADDRESS}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def open(self) -> Self:
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients whose connections break are expected."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _ProxyServer

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """The local cloud logs requests itself."""

    def parse_request(self) -> bool:
        is_valid = super().parse_request()
        if is_valid:
            # Make all HTTP methods use the same handler.
            setattr(self, f"do_{self.command}", self._serve)
        return is_valid

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self._read_body()
        self._wait_for_slow_line(len(body))
        path = urlsplit(self.path).path
        service = proxy.service_of(path)
        kind, wait = None, 0.0
        if proxy.faults and service != PAGE:
            kind, wait = proxy.faults.draw_fault(service, self.command, path)
        time.sleep(wait)
        if kind == "drop-before":
            self._hang_up()
        elif kind in ("429", "403", "500-before"):
            self._send_fault(kind, service)
        else:
            self._forward(service, body, kind)

    def _forward(self, service: str, body: bytes, kind: str | None) -> None:
        status, headers, answer = self._ask(body)
        if self.server.proxy.on_exchange:
            given = list(self.headers.items())
            exchange = Exchange(service, self.command, self.path, given, body, status, headers, answer)
            self.server.proxy.on_exchange(exchange)
        if kind == "drop-after" or (kind == "cut" and len(answer) < 2):
            self._hang_up()
        elif kind == "500-after":
            self._send_fault(kind, service)
        else:
            self._send(status, headers, answer, cut=kind == "cut")

    def _ask(self, body: bytes) -> tuple[int, Headers, bytes]:
        upstream = self.server.proxy.upstream
        host = upstream.hostname or ADDRESS
        connection = http.client.HTTPConnection(host, upstream.port, timeout=UPSTREAM_SECONDS)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            if body or self.command in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send_fault(self, kind: str, service: str) -> None:
        proxy = self.server.proxy
        fault = fault_reply(kind, service, number=proxy.faults.counts[kind] if proxy.faults else 0)
        headers = [("Content-Type", fault.content_type), *fault.headers]
        self._send(fault.status, headers, fault.body, cut=False)

    def _send(self, status: int, headers: Headers, body: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = str(len(body))
        if self.command == "HEAD":
            length = next((value for name, value in headers if name.lower() == "content-length"), length)
        if status >= 200 and status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self._write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _write(self, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self._wait_for_slow_line(len(piece))
            self.wfile.write(piece)

    def _wait_for_slow_line(self, size: int) -> None:
        """Wait as long as `size` bytes take on a slow line."""
        if self.server.proxy.bytes_a_second:
            time.sleep(size / self.server.proxy.bytes_a_second)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body


def api_service(path: str) -> str:
    """The service that a path of the API port belongs to."""
    first = path.split("/")[1]
    return first if first in API_SERVICES else PAGE


def s3_service(_path: str) -> str:
    return "s3"


def connection_through_proxy(connection: Mapping[str, Any], api: str, s3: str) -> dict[str, Any]:
    """A copy of HOME/connection.json with the addresses `api` and `s3` (http://host:port)."""
    page = connection["page"].rstrip("/")
    moved = {**connection, "page": f"{api}/", "s3": {**connection["s3"], "url": s3}}
    for service in API_SERVICES:
        entry = connection[service]
        moved[service] = {**entry, "url": entry["url"].replace(page, api, 1)}
    return moved
