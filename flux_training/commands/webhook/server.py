"""The HTTP side: takes a hint, answers at once, and cannot be made to keep more than a little of anything."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
MOST_BYTES = 16 * 1024
MOST_CONNECTIONS = 32
MOST_HINTS = 1000
# For all of a request: a caller that sends a byte now and then is cut off.
REQUEST_SECONDS = 10.0


class Inbox:
    """The ids of jobs to look at, each once however often it is named."""

    def __init__(self, most: int = MOST_HINTS) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most
        self._filled = threading.Condition()

    def put(self, job_id: str) -> bool:
        """False when it is full."""
        with self._filled:
            if job_id not in self._ids and len(self._ids) >= self._most:
                return False
            self._ids[job_id] = None
            self._filled.notify()
            return True

    def get(self, timeout: float) -> str | None:
        """The id that has waited longest; None when none came in `timeout` seconds."""
        with self._filled:
            if not self._ids:
                self._filled.wait(timeout)
            return self._ids.popitem(last=False)[0] if self._ids else None


class Receiver(ThreadingHTTPServer):
    """Takes POSTs with a `job_id` at any path. At most MOST_CONNECTIONS at once: one more is closed unheard."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, inbox: Inbox) -> None:
        """Raises OSError when the port cannot be had."""
        self.inbox = inbox
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        clock = threading.Timer(REQUEST_SECONDS, _cut_off, [request])
        clock.daemon = True
        clock.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            clock.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is nothing to speak of."""


def _cut_off(connection: socket.socket) -> None:
    """Both ways: closing alone would leave the thread that reads from it waiting."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    server_version, sys_version = "flux-webhook", ""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length, re.ASCII):
            return self._answer(411, "a Content-Length is needed")
        if int(length) > MOST_BYTES:
            return self._answer(413, f"at most {MOST_BYTES} bytes are taken")
        job_id = job_id_of(self.rfile.read(int(length)))
        if job_id is None:
            return self._answer(400, "a JSON object with a job_id is expected")
        if not self.server.inbox.put(job_id):
            return self._answer(503, "too many jobs wait to be looked at")
        return self._answer(202, "noted")

    def do_GET(self) -> None:
        self._answer(200, "flux webhook: POST Kelpie's calls here")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what strangers send does not belong on a terminal."""

    def _answer(self, status: int, words: str) -> None:
        body = f"{words}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def job_id_of(body: bytes) -> str | None:
    """The id that a call names; None when it names none. Nothing else of a call is believed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    job_id = value.get("job_id") if isinstance(value, dict) else None
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None
