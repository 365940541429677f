"""A server with OpenAI's interface for captions, which fails as a test plans. `with captioner(plan) as server: …`.

Images are told apart by their width: FIRST_WIDTH + number. The tests' images are small enough not to be reduced.
"""

import base64
import gzip
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

# (word in a plan, parameter that is refused)
REFUSED_PARAMETERS = (
    ("no max_completion_tokens", "max_completion_tokens"),
    ("no limit", "max_completion_tokens"),
    ("no limit", "max_tokens"),
    ("no structure", "response_format"),
)
FIRST_WIDTH = 64
HEIGHT = 64
# (number of the image, attempt from 1) → what to do with the request.
Plan = Callable[[int, int], str]


def make_images(dataset: Path, count: int) -> list[Path]:
    """Images 1 to `count`, which the server can distinguish."""
    dataset.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(1, count + 1):
        file = dataset / f"{number:05}.jpg"
        Image.new("RGB", (FIRST_WIDTH + number, HEIGHT), (number % 256, 80, 160)).save(file)
        files.append(file)
    return files


class CaptionServer(ThreadingHTTPServer):
    """`asked`, `captioned` count by image; `keys`, `prompts` and `bodies` are what clients sent; `max_at_once` is the largest number of parallel requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, plan: Plan, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), CaptionHandler)
        self.plan, self.delay = plan, delay
        self.lock = threading.Lock()
        self.asked: Counter[int] = Counter()
        self.captioned: Counter[int] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.prompts: list[str] = []
        self.now = self.max_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def captioner(plan: Plan = lambda _number, _attempt: "ok", delay: float = 0.0) -> Iterator[CaptionServer]:
    server = CaptionServer(plan, delay)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class CaptionHandler(BaseHTTPRequestHandler):
    server: CaptionServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        url = body["messages"][0]["content"][1]["image_url"]["url"]
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
            number = picture.width - FIRST_WIDTH
        server = self.server
        with server.lock:
            server.asked[number] += 1
            attempt = server.asked[number]
            server.keys.add(self.headers.get("Authorization", ""))
            server.prompts.append(body["messages"][0]["content"][0]["text"])
            server.bodies.append({key: value for key, value in body.items() if key != "messages"})
            server.now += 1
            server.max_at_once = max(server.max_at_once, server.now)
        try:
            time.sleep(server.delay)
            self._behave(server.plan(number, attempt), number, body)
        finally:
            with server.lock:
                server.now -= 1

    def _behave(self, how: str, number: int, body: dict[str, Any]) -> None:
        refused = next((name for word, name in REFUSED_PARAMETERS if word in how and name in body), None)
        if how == "refuse always":
            refused = "max_completion_tokens"
        if refused:
            self._send(400, {"error": {"message": f"Unsupported parameter: {refused}"}}, {})
            return
        if how.startswith("no "):
            how = "ok"
        errors = {
            "context": 400,
            "500": 500,
            "503": 503,
            "429": 429,
            "429 for hours": 429,
            "400": 400,
            "401": 401,
            "404": 404,
            "quota": 429,
        }
        if how.startswith("answer "):
            status, name, value, text = how.removeprefix("answer ").split("|", 3)
            self._send_raw(int(status), text.encode(), {name: value})
        elif how == "drip":
            self._drip(b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")
        elif how == "drip headers":
            self._drip(b"", b"X-Header: 1\r\n")
        elif how == "bomb":
            self._send_raw(200, gzip.compress(bytes(20_000_000)), {"Content-Encoding": "gzip"})
        elif how.startswith("plain only") and len(body) > 2:
            said = {"error": {"message": how.split(": ")[1]}}
            self._send(int(how.split(": ")[0].split()[-1]), said, {})
        elif how == "hang up":
            self.close_connection = True
            self.connection.close()
        elif how in errors:
            code = "insufficient_quota" if how == "quota" else None
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            headers = {"429": {"Retry-After": "0"}, "429 for hours": {"Retry-After": "25920"}}.get(how, {})
            self._send(
                errors[how], {"error": {"message": f"{how}, says the server to {key}", "code": code}}, headers
            )
        elif how == "half":
            self._send_raw(200, json.dumps(self._completion("ok", number)).encode()[:40], {})
        else:
            self._send(200, self._completion(how, number), {})

    def _drip(self, first: bytes, piece: bytes) -> None:
        """A piece at a time, until the client goes."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + first)
        with suppress(OSError):
            while True:
                self.wfile.write(piece)
                time.sleep(0.02)

    def _completion(self, how: str, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": f"A square, number {number}.",
            "refusal": None,
        }
        if how.startswith("say "):
            message["content"] = how.removeprefix("say ")
        finish = "stop"
        if how == "refuse":
            message |= {"content": None, "refusal": "I cannot describe this person."}
        elif how == "sorry":
            message["content"] = "I'm sorry, but I can't help with that."
        elif how == "cut":
            message["content"], finish = "A square that", "length"
        elif how == "filter":
            message["content"], finish = "", "content_filter"
        elif how == "empty":
            message["content"] = " \n"
        elif how == "poor":
            # Small servers send no usage, no refusal and no finish reason.
            return {"choices": [{"message": {"content": '"A square,\nnumber one."'}}]}
        if how in ("ok", "long"):
            with self.server.lock:
                self.server.captioned[number] += 1
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1000 if how == "long" else 10},
        }

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._send_raw(status, json.dumps(body).encode(), headers)

    def _send_raw(self, status: int, raw: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass
