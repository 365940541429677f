"""HOME/requests.jsonl: one line for each request, without headers and signatures."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localcloud.database import iso_time

# Maps a request's path to (service, path below the service's base URL), or to None if the
# request is not logged.
Placement = Callable[[str], tuple[str, str] | None]


class RequestLog:
    """Appends lines; may be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: dict[str, object]) -> None:
        # Write each line with a single call, so that lines from different threads do not mix.
        os.write(self._handle, (json.dumps(entry, separators=(",", ":")) + "\n").encode())


class RequestLogMiddleware:
    """Logs each request after it was answered, or with status 0 when its connection broke."""

    def __init__(self, app: ASGIApp, log: RequestLog, place: Placement) -> None:
        self._app, self._log, self._place = app, log, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        placed = self._place(scope["path"]) if scope["type"] == "http" else None
        if placed is None:
            await self._app(scope, receive, send)
            return
        service, path = placed
        measured = {"status": 0, "bytes_in": 0}

        async def counting_receive() -> Message:
            message = await receive()
            measured["bytes_in"] += len(message.get("body") or b"")
            return message

        async def observing_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                measured["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, counting_receive, observing_send)
        finally:
            self._log.write(
                {
                    "time": iso_time(time.time()),
                    "service": service,
                    "client": _client(scope),
                    "method": scope["method"],
                    "path": path,
                    "query": _without_signature(scope["query_string"].decode("latin-1")),
                    **measured,
                }
            )


def _client(scope: Scope) -> str:
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return "node" if b"kelpie-node" in agent else "product"


def _without_signature(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if not name.lower().startswith("x-amz-")])
