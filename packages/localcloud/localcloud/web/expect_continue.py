"""Close the connection after a request with `Expect: 100-continue` was answered without reading its body.

boto3 sends a body only after "100 Continue". When the answer is an error instead, the body never comes, and uvicorn would read the
next request on the connection as that body.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ExpectMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == b"expect" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        body_was_read = False

        async def observed_receive() -> Message:
            nonlocal body_was_read
            body_was_read = True
            return await receive()

        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not body_was_read:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, observed_receive, closing_send)
