"""A proxy in front of an S3 server that cuts, stalls, resets, delays, refuses or changes answers."""

import gzip
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PIECE_SECONDS = 0.05
UNREPEATED_HEADERS = ("transfer-encoding", "connection", "date", "server")
XML_ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"


class DownloadFault(StrEnum):
    """What happens to one answer."""

    CUT = "half of the body, then the connection is closed"
    RESET = "half of the body, then the connection is reset"
    STALL = "half of the body, then nothing more"
    SILENT = "no answer at all"
    SLOW = "a few bytes at a time"
    SLOW_HEADERS = "headers that come byte by byte, without an end"
    WRONG = "as many bytes, but others"
    FORBIDDEN = "403"
    UNAVAILABLE = "503"
    TOO_MANY = "429"
    NO_ANSWER = "the connection is closed before the answer"
    WRONG_RANGE = "206 with other bytes than were asked for"
    LONGER = "a Content-Length of more than the body"
    SHORTER = "a Content-Length of less than the body"
    CHUNKED = "a body in chunks, longer than its Content-Length"
    LONGER_CHUNKS = "a body in chunks, one byte too long"
    SHORTER_CHUNKS = "a body in chunks, one byte too short"
    EMPTY = "200 without a body"
    COMPRESSED = "a body that is compressed unasked"
    LOGIN_PAGE = "200 with the login page of a network"
    FOREIGN_404 = "404 of something that is not the bucket"
    REDIRECT = "a redirect to itself"
    NOT_SATISFIABLE = "416"
    RETRY_TOMORROW = "503 with a Retry-After of a day"


HTML = "<html><body>Log in to use this network</body></html>"
# Status, body and headers.
REFUSALS: dict[DownloadFault, tuple[int, str, dict[str, str]]] = {
    DownloadFault.FORBIDDEN: (
        403,
        XML_ERROR.format(code="AccessDenied", message="Error Accessing Authentication Service"),
        {},
    ),
    DownloadFault.UNAVAILABLE: (
        503,
        XML_ERROR.format(code="SlowDown", message="Please reduce your request rate."),
        {},
    ),
    DownloadFault.TOO_MANY: (
        429,
        XML_ERROR.format(code="TooManyRequests", message="Reduce your concurrent request rate."),
        {},
    ),
    DownloadFault.RETRY_TOMORROW: (
        503,
        XML_ERROR.format(code="ServiceUnavailable", message="Please try again."),
        {"Retry-After": "86400"},
    ),
    DownloadFault.NOT_SATISFIABLE: (
        416,
        XML_ERROR.format(code="InvalidRange", message="The requested range is not satisfiable"),
        {},
    ),
    DownloadFault.EMPTY: (200, "", {}),
    DownloadFault.LOGIN_PAGE: (200, HTML, {"Content-Type": "text/html"}),
    DownloadFault.FOREIGN_404: (404, HTML, {"Content-Type": "text/html"}),
}


@dataclass(frozen=True)
class ProxiedRequest:
    """`number` counts the requests for this method and path, from 1 on."""

    method: str
    path: str
    range: str
    number: int


@dataclass
class FaultProxy:
    """Listens while it is open (`with`). `fault_for` decides about each request."""

    upstream: str
    fault_for: Callable[[ProxiedRequest], DownloadFault | None]
    requests: list[ProxiedRequest] = field(default_factory=list)
    sent_bytes: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._server = _FaultServer(("127.0.0.1", 0), _FaultHandler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, method: str, path: str, byte_range: str) -> ProxiedRequest:
        with self._lock:
            self._counts[method, path] += 1
            request = ProxiedRequest(method, path, byte_range, self._counts[method, path])
            self.requests.append(request)
        return request


class _FaultServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """The client may go away at any time."""


class _FaultHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _FaultServer

    def log_message(self, *_: object) -> None:
        """The proxy keeps its own record."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        proxy, self.close_connection = self.server.proxy, True
        path = urlsplit(self.path).path
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault_for(proxy.note(self.command, path, self.headers.get("Range", "")))
        if fault == DownloadFault.SILENT:
            proxy.closing.wait()
        elif fault == DownloadFault.NO_ANSWER:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == DownloadFault.SLOW_HEADERS:
            self._send_headers_slowly()
        elif fault == DownloadFault.REDIRECT:
            self._send(302, {"Location": f"{proxy.url}{self.path}"}, b"")
        elif fault in REFUSALS:
            status, text, headers = REFUSALS[fault]
            self._send(status, headers, text.encode())
        else:
            self._send(*changed(fault, *self._ask()), fault)

    def _send_headers_slowly(self) -> None:
        """Each byte comes in time."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.proxy.closing.wait(PIECE_SECONDS):
            self.wfile.write(b"x")
            self.wfile.flush()

    def _ask(self) -> tuple[int, dict[str, str], bytes]:
        upstream = urlsplit(self.server.proxy.upstream)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":  # the handler has answered it
                    connection.putheader(name, value)
            connection.endheaders(self._body)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            headers = {name: value for name, value in named.items() if name not in UNREPEATED_HEADERS}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, fault: DownloadFault | None = None
    ) -> None:
        self.send_response(status)
        lengths = {} if "transfer-encoding" in headers else {"content-length": str(len(body))}
        # Otherwise clients would send their next request into a closed connection.
        for name, value in (lengths | dict(headers) | {"connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: DownloadFault | None) -> None:
        proxy = self.server.proxy
        is_broken = fault in (DownloadFault.CUT, DownloadFault.RESET, DownloadFault.STALL)
        sent = body[: len(body) // 2] if is_broken else body
        if fault == DownloadFault.SLOW:
            for at in range(len(sent)):
                if proxy.closing.wait(PIECE_SECONDS):
                    return
                self.wfile.write(sent[at : at + 1])
        else:
            self.wfile.write(sent)
        self.wfile.flush()
        proxy.sent_bytes += len(sent)
        if fault == DownloadFault.STALL:
            proxy.closing.wait()
        elif fault == DownloadFault.RESET:
            time.sleep(0.05)  # what was sent should arrive first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def changed(
    fault: DownloadFault | None, status: int, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """The answer with a fault in its content or headers."""
    match fault:
        case DownloadFault.WRONG if body:
            return status, headers, flipped(body)
        case DownloadFault.WRONG_RANGE if status < 300:
            content_range = f"bytes 7-{6 + len(body)}/{7 + len(body)}"
            return 206, headers | {"content-range": content_range}, flipped(body)
        case DownloadFault.LONGER:
            return status, headers | {"content-length": str(len(body) + 1)}, body
        case DownloadFault.SHORTER if body:
            return status, headers | {"content-length": str(len(body) - 1)}, body
        case DownloadFault.CHUNKED:
            return status, headers | {"transfer-encoding": "chunked"}, in_chunks(body + b"x")
        case DownloadFault.LONGER_CHUNKS | DownloadFault.SHORTER_CHUNKS if body:
            data = body + b"x" if fault == DownloadFault.LONGER_CHUNKS else body[:-1]
            return status, without_length(headers), in_chunks(data)
        case DownloadFault.COMPRESSED:
            data = gzip.compress(body)
            sizes = {"content-encoding": "gzip", "content-length": str(len(data))}
            return status, headers | sizes, data
    return status, headers, body


def in_chunks(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def without_length(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of an answer in chunks."""
    kept = {name: value for name, value in headers.items() if name != "content-length"}
    return kept | {"transfer-encoding": "chunked"}


def flipped(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:] if body else body


def at_random(
    seed: int, rate: float, faults: tuple[DownloadFault, ...]
) -> Callable[[ProxiedRequest], DownloadFault | None]:
    """The same seed gives a request the same fault, however threads interleave."""

    def fault_for(request: ProxiedRequest) -> DownloadFault | None:
        dice = random.Random(f"{seed} {request.method} {request.path} {request.number}")
        return dice.choice(faults) if dice.random() < rate else None

    return fault_for
