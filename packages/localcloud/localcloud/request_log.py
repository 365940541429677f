"""HOME/requests.jsonl: one line a request, without a header or a signature in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Tells (service, path below the service's base URL) from a request's path; None: not logged (the page).
Placement = Callable[[str], tuple[str, str] | None]


class RequestLog:
    """Appends whole lines, from any thread."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: dict[str, object]) -> None:
        """One write call a line, so that lines of two threads never mix."""
        os.write(self._handle, (json.dumps(entry, separators=(",", ":")) + "\n").encode())


class RequestLogMiddleware:
    """Notes each request once its answer has been sent (or its connection has broken: status 0)."""

    def __init__(self, app: ASGIApp, log: RequestLog, place: Placement) -> None:
        self._app, self._log, self._place = app, log, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        placed = self._place(scope["path"]) if scope["type"] == "http" else None
        if placed is None:
            await self._app(scope, receive, send)
            return
        service, path = placed
        seen = {"status": 0, "bytes_in": 0}

        async def counted() -> Message:
            message = await receive()
            seen["bytes_in"] += len(message.get("body") or b"")
            return message

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, counted, watched)
        finally:
            self._log.write(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "service": service,
                    "client": _client(scope),
                    "method": scope["method"],
                    "path": path,
                    "query": _harmless(scope["query_string"].decode("latin-1")),
                    **seen,
                }
            )


def _client(scope: Scope) -> str:
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return "node" if b"kelpie-node" in agent else "product"


def _harmless(query: str) -> str:
    """The query without what signs a URL."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if not name.lower().startswith("x-amz-")])
