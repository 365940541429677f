"""Request bodies: read them in a middleware, pass them on to the application, parse them as JSON."""

import json
from typing import Any, NoReturn

from starlette.types import Message, Receive


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Read the body. One of more than `max_bytes` is cut off after that, so that it cannot be parsed."""
    body, more = b"", True
    while more and len(body) <= max_bytes:
        message = await receive()
        body += message.get("body") or b""
        more = message.get("more_body", False)
    return body


def replay_body(body: bytes) -> Receive:
    """A `receive` that delivers a body that was already read."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def parse_json(raw: bytes) -> Any:
    """Parse JSON. Raises ValueError also for NaN, Infinity, deep nesting and lone surrogates, which json.loads accepts or crashes on."""
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\ud" in raw.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")
