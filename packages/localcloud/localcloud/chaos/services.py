"""Kelpie's 403 for a fault between it and SaladCloud, and the HTML in which SaladCloud's gateway fails (UPSTREAM.md)."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.chaos.plan import HTML, reply
from localcloud.chaos.settings import Chaos


class ServiceFaults:
    """Answers in a service's place when chaos says so. Only those who come with a SaladCloud key are struck: for them
    Kelpie asks SaladCloud at each request, for nodes it does not.
    """

    def __init__(self, app: ASGIApp, chaos: Chaos, service: str, project: str) -> None:
        self._app, self._chaos, self._service, self._project = app, chaos, service, project
        self._struck = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_key = scope["type"] == "http" and any(name == b"salad-api-key" for name, _ in scope["headers"])
        answer = self._fault() if has_key else None
        await (answer or self._app)(scope, receive, send)

    def _fault(self) -> Response | None:
        if self._service == "salad":
            return Response(HTML, 502, media_type="text/html") if self._chaos.strikes("salad-html") else None
        if not self._chaos.strikes("kelpie-403"):
            return None
        self._struck += 1
        said = reply("403", "kelpie", self._project, self._struck)
        return Response(said.body, said.status, media_type="text/plain")
