"""A request's body read before its handler, and given to it once more."""

from __future__ import annotations

from typing import Any

from starlette.types import Message, Receive


async def read_body(receive: Receive, most: int) -> bytes:
    """The body; what is bigger than `most` bytes is cut somewhere after them, so that whoever parses it refuses it."""
    body, more = b"", True
    while more and len(body) <= most:
        message = await receive()
        body += message.get("body") or b""
        more = message.get("more_body", False)
    return body


def again(body: bytes) -> Receive:
    """A receive that gives the body once more."""
    parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    return receive
