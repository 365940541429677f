"""Which requests fail, and how a failure is answered.

A fault is drawn from (seed, method, path, number of earlier requests with this method and path), so the same seed causes the same
faults, however threads interleave.
"""

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field, replace

HTML = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>\r\n"
TRANSIENT_TEXTS = (
    "Invalid Project '{project}': fetch failed",
    "Network connection lost.",
    "Error Accessing Authentication Service",
)

# Ways to make a request fail. `drop` closes the connection and `500` answers with an error, each before or
# after the server has handled the request. `cut` ends the response early. `429` is a rate limit. `403` is
# what Kelpie answers when SaladCloud fails.
KINDS = ("drop-before", "drop-after", "429", "500-before", "500-after", "cut", "403")


@dataclass(frozen=True)
class FaultReply:
    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Faults:
    """The share `rate` of all requests fails, and the share `delays` is delayed by up to `max_delay` seconds. Thread-safe."""

    rate: float
    seed: int
    kinds: tuple[str, ...] = KINDS
    delays: float = 0.0
    max_delay: float = 0.2
    counts: Counter[str] = field(default_factory=Counter)
    _requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw_fault(self, service: str, method: str, path: str) -> tuple[str | None, float]:
        """(the fault or None, seconds to wait before it)."""
        with self._lock:
            self._requests[method, path] += 1
            number = self._requests[method, path]
        generator = random.Random(f"{self.seed} {method} {path} {number}")  # noqa: S311 (not for cryptography)
        kind = None
        if generator.random() < self.rate:
            kind = generator.choice([one for one in self.kinds if one != "403" or service == "kelpie"])
        wait = generator.random() * self.max_delay if generator.random() < self.delays else 0.0
        with self._lock:
            self.counts[kind or "none"] += 1
        return kind, wait


def fault_reply(kind: str, service: str, project: str = "proj", number: int = 0) -> FaultReply:
    """The service's own answer when it refuses (429), passes a fault on (403) or fails (500-…)."""
    if kind == "429":
        return TOO_MANY[service]
    if kind == "403":
        text = TRANSIENT_TEXTS[number % len(TRANSIENT_TEXTS)].format(project=project)
        return _kelpie_error_reply(403, "Forbidden", text)
    # SaladCloud's gateway sometimes answers with an HTML page. Cloudflare is assumed to do the same.
    if number % 2 and service in ("salad", "cloudflare"):
        return FaultReply(502, HTML.encode(), "text/html")
    return FAILURES[service]


def _kelpie_error_reply(status: int, error: str, message: str) -> FaultReply:
    body = json.dumps({"error": error, "message": message}).encode()
    return FaultReply(status, body, "text/plain;charset=UTF-8")


def _salad_error_reply(status: int, title: str, detail: str) -> FaultReply:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return FaultReply(status, json.dumps(body).encode(), "application/json")


def _cloudflare_error_reply(status: int, code: int, message: str) -> FaultReply:
    errors = [{"code": code, "message": message}]
    body = {"success": False, "errors": errors, "messages": [], "result": None}
    return FaultReply(status, json.dumps(body).encode(), "application/json")


def _s3(status: int, code: str, message: str) -> FaultReply:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return FaultReply(status, body.encode(), "application/xml")


RETRY_AFTER = (("Retry-After", "1"),)
SLOW_DOWN = "Please wait and consider throttling your request speed"
TOO_MANY = {
    "cloudflare": replace(_cloudflare_error_reply(429, 971, SLOW_DOWN), headers=RETRY_AFTER),
    "kelpie": FaultReply(429, b"error code: 1015", "text/plain; charset=UTF-8", RETRY_AFTER),
    "s3": _s3(429, "TooManyRequests", "Reduce your concurrent request rate for the same object."),
    "salad": replace(
        _salad_error_reply(429, "Too Many Requests", "240 requests a minute are allowed."),
        headers=RETRY_AFTER,
    ),
}
OVERLOADED = "D1_ERROR: D1 DB is overloaded. Requests queued for too long."
TRY_AGAIN = "We encountered an internal error. Please try again."
FAILURES = {
    "cloudflare": _cloudflare_error_reply(500, 10001, TRY_AGAIN),
    "kelpie": _kelpie_error_reply(500, "Internal server error", OVERLOADED),
    "s3": _s3(500, "InternalError", TRY_AGAIN),
    "salad": _salad_error_reply(500, "Internal Server Error", "An unexpected error occurred."),
}
