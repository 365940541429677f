"""The HTTP server: takes a job id, answers at once, and limits what a caller can make it keep."""

import contextlib
import json
import re
import socket
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
MAX_BODY_BYTES = 16 * 1024
MAX_CONNECTIONS = 32
MAX_QUEUED_IDS = 1000
# The time limit for a whole request. It disconnects callers that send bytes very slowly.
REQUEST_SECONDS = 10.0


class JobIdQueue:
    """A queue of job ids, each at most once."""

    def __init__(self, max_ids: int = MAX_QUEUED_IDS) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._max_ids = max_ids
        self._filled = threading.Condition()

    def put(self, job_id: str) -> bool:
        """False if the queue is full."""
        with self._filled:
            if job_id not in self._ids and len(self._ids) >= self._max_ids:
                return False
            self._ids[job_id] = None
            self._filled.notify()
            return True

    def get(self, timeout: float) -> str | None:
        """The oldest id; None if there is none within `timeout` seconds."""
        with self._filled:
            if not self._ids:
                self._filled.wait(timeout)
            return self._ids.popitem(last=False)[0] if self._ids else None


class WebhookServer(ThreadingHTTPServer):
    """Accepts POST requests with a `job_id` at any path. Closes connections beyond MAX_CONNECTIONS."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, inbox: JobIdQueue) -> None:
        """Raises OSError if the port cannot be used."""
        self.inbox = inbox
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), WebhookHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # The system cannot start more threads.
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = threading.Timer(REQUEST_SECONDS, _disconnect, [request])
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a caller disconnects."""


def _disconnect(connection: socket.socket) -> None:
    """Shut down both directions: closing alone would not wake the thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class WebhookHandler(BaseHTTPRequestHandler):
    server: WebhookServer
    server_version, sys_version = "flux-webhook", ""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length, re.ASCII):
            return self._answer(411, "Content-Length is required")
        if int(length) > MAX_BODY_BYTES:
            return self._answer(413, f"the limit is {MAX_BODY_BYTES} bytes")
        job_id = parse_job_id(self.rfile.read(int(length)))
        if job_id is None:
            return self._answer(400, "send a JSON object with a job_id")
        if not self.server.inbox.put(job_id):
            return self._answer(503, "too many jobs are queued")
        return self._answer(202, "accepted")

    def do_GET(self) -> None:
        self._answer(200, "flux webhook: POST Kelpie's calls here")

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: anyone can send anything."""

    def _answer(self, status: int, message: str) -> None:
        body = f"{message}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def parse_job_id(body: bytes) -> str | None:
    """The job id in a call; None if there is none. Nothing else in a call is trusted."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    job_id = value.get("job_id") if isinstance(value, dict) else None
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None
