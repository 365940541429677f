"""Which request meets which fault: decided by a seed, and the answers that stand for a fault.

The fate of a request is drawn from (seed, method, path, how often that was asked before), so that it does not depend on
how threads interleave: the same seed meets the same faults.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

HTML = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>\r\n"
TRANSIENT_TEXTS = ("Invalid Project '{project}': fetch failed", "Network connection lost.")

# The server never sees the request; it acts and nobody hears of it; it refuses; it fails before or after acting; what it
# says is cut in the middle; Kelpie's 403 for a fault between it and SaladCloud (UPSTREAM.md).
KINDS = ("drop-before", "drop-after", "429", "500-before", "500-after", "cut", "403")


@dataclass(frozen=True)
class Reply:
    """An answer that stands for a fault."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Faults:
    """The plan: `rate` of all requests fail, `delays` of the others wait up to `most_delay` seconds first. Thread-safe."""

    rate: float
    seed: int
    kinds: tuple[str, ...] = KINDS
    delays: float = 0.0
    most_delay: float = 0.2
    met: Counter[str] = field(default_factory=Counter)
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, service: str, method: str, path: str) -> tuple[str | None, float]:
        """(the fault, seconds to wait before it); None is none."""
        with self._lock:
            self._asked[method, path] += 1
            number = self._asked[method, path]
        # S311: a test's dice, no cryptography.
        dice = random.Random(f"{self.seed} {method} {path} {number}")  # noqa: S311
        kind = None
        if dice.random() < self.rate:
            kind = dice.choice([one for one in self.kinds if one != "403" or service == "kelpie"])
        wait = dice.random() * self.most_delay if dice.random() < self.delays else 0.0
        with self._lock:
            self.met[kind or "none"] += 1
        return kind, wait


def reply(kind: str, service: str, project: str = "proj", number: int = 0) -> Reply:
    """What the service says when it refuses (429), passes a fault on (403) or fails (500-…), each in its own way."""
    if kind == "429":
        return _too_many(service)
    if kind == "403":
        text = TRANSIENT_TEXTS[number % len(TRANSIENT_TEXTS)].format(project=project)
        return _kelpie(403, "Forbidden", text)
    if service == "kelpie":
        return _kelpie(
            500, "Internal server error", "D1_ERROR: D1 DB is overloaded. Requests queued for too long."
        )
    if service == "s3":
        return _s3(500, "InternalError", "We encountered an internal error. Please try again.")
    # SaladCloud's gateway answers in HTML now and then (UPSTREAM.md); Cloudflare's is not known to do otherwise.
    if number % 2:
        return Reply(502, HTML.encode(), "text/html")
    if service == "cloudflare":
        return _cloudflare(500, 10001, "We encountered an internal error. Please try again.")
    return _problem(500, "Internal Server Error", "An unexpected error occurred.")


def _too_many(service: str) -> Reply:
    if service == "kelpie":
        return Reply(429, b"error code: 1015", "text/plain; charset=UTF-8", (("Retry-After", "1"),))
    if service == "s3":
        return _s3(429, "TooManyRequests", "Reduce your concurrent request rate for the same object.")
    if service == "cloudflare":
        refused = _cloudflare(429, 971, "Please wait and consider throttling your request speed")
        return Reply(refused.status, refused.body, refused.content_type, (("Retry-After", "1"),))
    problem = _problem(429, "Too Many Requests", "240 requests a minute are allowed.")
    return Reply(problem.status, problem.body, problem.content_type, (("Retry-After", "1"),))


def _kelpie(status: int, error: str, message: str) -> Reply:
    body = json.dumps({"error": error, "message": message}).encode()
    return Reply(status, body, "text/plain;charset=UTF-8")


def _problem(status: int, title: str, detail: str) -> Reply:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Reply(status, json.dumps(body).encode(), "application/json")


def _cloudflare(status: int, code: int, message: str) -> Reply:
    """Its envelope (localcloud/cloudflare/routes.py)."""
    body = {
        "success": False,
        "errors": [{"code": code, "message": message}],
        "messages": [],
        "result": None,
    }
    return Reply(status, json.dumps(body).encode(), "application/json")


def _s3(status: int, code: str, message: str) -> Reply:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, body.encode(), "application/xml")
