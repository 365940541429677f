"""`Expect: 100-continue`, ended properly.

boto3 sends a body only after "100 Continue". When the answer is an error instead, the body never comes, and uvicorn would
take the next request on the connection for it. So such an answer closes the connection.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ExpectMiddleware:
    """Adds `Connection: close` to an answer given before an expected body was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == b"expect" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        asked = False

        async def watched() -> Message:
            nonlocal asked
            asked = True
            return await receive()

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not asked:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, watched, closing)
