"""All parts of the local cloud, put together into two ASGI applications: the APIs with the web page, and S3."""

import asyncio
import json
import os
import secrets
from collections.abc import Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from localcloud.chaos.services import InjectedFaults
from localcloud.chaos.settings import Chaos
from localcloud.cloudflare.access_keys import AccessKeys
from localcloud.cloudflare.routes import CloudflareRoutes
from localcloud.daemon.ports import ADDRESS
from localcloud.database import open_database, sql_time
from localcloud.home import Home, HomeState, read_json
from localcloud.kelpie.autoscaler import run_autoscaler
from localcloud.kelpie.jobs import JobTable
from localcloud.kelpie.routes import KelpieRoutes
from localcloud.kelpie.rules import RuleTable
from localcloud.kelpie.webhooks import Webhooks
from localcloud.salad.groups import GroupTable
from localcloud.salad.routes import SaladRoutes
from localcloud.salad.supervisor import Supervisor
from localcloud.storage.app import build_storage
from localcloud.storage.lifecycle_rules import run_sweeper
from localcloud.storage.objects import ObjectStorage
from localcloud.web import page
from localcloud.web.expect_continue import ExpectMiddleware
from localcloud.web.job_outputs import sample_path
from localcloud.web.request_log import RequestLog, RequestLogMiddleware
from localcloud.web.routing import Handler

SALAD_PREFIX = "/salad/api/public"
KELPIE_PREFIX = "/kelpie"
CLOUDFLARE_PREFIX = "/cloudflare/client/v4"
# The web page needs no key, so only local host names are accepted. Otherwise another site could read the
# page with a host name that resolves to this address (DNS rebinding).
ONLY_THIS_MACHINE = Middleware(
    TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"], www_redirect=False
)
PREFIXES = {"salad": SALAD_PREFIX, "kelpie": KELPIE_PREFIX, "cloudflare": CLOUDFLARE_PREFIX}


def refuse_other_sites(handler: Handler) -> Handler:
    """Refuses requests of scripts of other sites: browsers name the origin of each."""

    async def checked(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers['host']}":
            return PlainTextResponse("requests from other web sites are refused", 403)
        return await handler(request)

    return checked


def connection_of(home: Home, state: HomeState) -> dict[str, Any]:
    """The content of HOME/connection.json."""
    page_url = f"http://{ADDRESS}:{state.api_port}/"
    api = page_url.rstrip("/")
    return {
        "version": 1,
        "running": True,
        "pid": os.getpid(),
        "page": page_url,
        "s3": {
            "url": f"http://{ADDRESS}:{state.s3_port}",
            "access_key_id": state.s3_access_key_id,
            "secret_access_key": state.s3_secret_access_key,
            "region": "auto",
        },
        "salad": {
            "url": api + SALAD_PREFIX,
            "api_key": state.salad_api_key,
            "organization": state.organization,
            "project": state.project,
        },
        "kelpie": {"url": api + KELPIE_PREFIX},
        "cloudflare": {
            "url": api + CLOUDFLARE_PREFIX,
            "account_id": state.cloudflare_account_id,
            "api_token": state.cloudflare_api_token,
        },
        "request_log": str(home.request_log),
    }


def service_of_api_path(path: str) -> tuple[str, str] | None:
    """(service, path below its base URL) for a path of the API port."""
    for service, prefix in PREFIXES.items():
        if path.startswith(prefix):
            return service, path.removeprefix(prefix) or "/"
    return None


class LocalServices:
    """The services of one home."""

    def __init__(self, home: Home, state: HomeState) -> None:
        self.home, self.state = home, state
        self.settings = settings = home.load_settings()
        self.database = database = open_database(home.database)
        self.chaos = Chaos(home.chaos)
        kelpie_url = f"http://{ADDRESS}:{state.api_port}{KELPIE_PREFIX}"
        self.supervisor = Supervisor(home, database, settings, state, kelpie_url, self.chaos)
        self.groups = GroupTable(database, state, settings, on_change=self.supervisor.wake.set)
        self.jobs = JobTable(database, state.user_id, settings)
        self.rules = RuleTable(database, state.user_id)
        self.webhooks = Webhooks()
        self._requests = RequestLog(home.request_log)

    def api(self) -> ASGIApp:
        """The web page, SaladCloud, Kelpie and Cloudflare."""
        state, chaos = self.state, self.chaos
        created = sql_time(self.home.state.stat().st_mtime)
        salad = SaladRoutes(self.groups, state, self.settings.requests_per_minute).app()
        kelpie = KelpieRoutes(state, created, self.jobs, self.rules, self.groups, self.webhooks).app()
        keys = AccessKeys(self.database, [state.s3_access_key_id])
        cloudflare = CloudflareRoutes(self.database, self._storage(), keys, state).app()
        return Starlette(
            routes=[
                Route("/", refuse_other_sites(self._page), middleware=[ONLY_THIS_MACHINE]),
                Route(
                    "/samples/{job}/{name}", refuse_other_sites(self._sample), middleware=[ONLY_THIS_MACHINE]
                ),
                Mount(CLOUDFLARE_PREFIX, cloudflare),
                Mount(SALAD_PREFIX, InjectedFaults(salad, chaos, "salad", state.project)),
                Mount(KELPIE_PREFIX, InjectedFaults(kelpie, chaos, "kelpie", state.project)),
            ],
            middleware=[Middleware(RequestLogMiddleware, log=self._requests, place=service_of_api_path)],
        )

    def s3(self) -> ASGIApp:
        database = open_database(self.home.database, any_thread=True)
        keys = AccessKeys(database, [self.state.s3_access_key_id])
        app = build_storage(self.home.objects, self.state, keys, self.settings.key_write_seconds)
        return RequestLogMiddleware(ExpectMiddleware(app), self._requests, lambda path: ("s3", path))

    def background_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for ever beside the servers and the supervisor."""
        settings = self.settings
        period, invited = settings.autoscaler_seconds, settings.kelpie_invited
        scaling = run_autoscaler(self.jobs, self.rules, self.groups, period, invited=invited)
        return [scaling, run_sweeper(self._storage())]

    def _storage(self) -> ObjectStorage:
        return ObjectStorage(self.home.objects.resolve())

    async def _page(self, _request: Request) -> HTMLResponse:
        data = page.read_page_data(self.database, read_json(self.home.chaos))
        nonce = secrets.token_urlsafe(16)
        content = await asyncio.to_thread(page.render_page, data, self.home.objects, nonce)
        return HTMLResponse(content, headers=page.page_headers(nonce))

    async def _sample(self, request: Request) -> Response:
        row = self.database.first("SELECT body FROM jobs WHERE id = ?", request.path_params["job"])
        found = row and sample_path(json.loads(row["body"]), self.home.objects, request.path_params["name"])
        headers = page.page_headers(secrets.token_urlsafe(16))
        return FileResponse(found, headers=headers) if found else PlainTextResponse("no such sample", 404)
