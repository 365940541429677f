"""Faults in the services: Kelpie's 403 when SaladCloud fails, and error pages in HTML from SaladCloud's gateway."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from localcloud.chaos.plan import HTML, fault_reply
from localcloud.chaos.settings import Chaos


class InjectedFaults:
    """Answers with a fault instead of the service when one is due.

    Only requests with a SaladCloud key are affected: for these Kelpie asks SaladCloud, for nodes it does not.
    """

    def __init__(self, app: ASGIApp, chaos: Chaos, service: str, project: str) -> None:
        self._app, self._chaos, self._service, self._project = app, chaos, service, project
        self._faults = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_key = scope["type"] == "http" and any(name == b"salad-api-key" for name, _ in scope["headers"])
        answer = self._fault() if has_key else None
        await (answer or self._app)(scope, receive, send)

    def _fault(self) -> Response | None:
        if self._service == "salad":
            return Response(HTML, 502, media_type="text/html") if self._chaos.is_due("salad-html") else None
        if not self._chaos.is_due("kelpie-403"):
            return None
        self._faults += 1
        fault = fault_reply("403", "kelpie", self._project, self._faults)
        return Response(fault.body, fault.status, media_type="text/plain")
