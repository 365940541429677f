"""Bodies of requests: read before their handler and given to it once more, and read as JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

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


def parse_json(raw: bytes) -> Any:
    """What a body says. Raises ValueError for what is no JSON, for Python's NaN and Infinity, and for what this cloud cannot keep.

    That is: nested beyond reason, or text with half a surrogate pair.
    """
    try:
        value = json.loads(raw, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
