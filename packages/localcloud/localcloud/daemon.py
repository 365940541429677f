"""The daemon: both HTTP servers, the autoscaler and the supervisor. `python -m localcloud start` starts it.

It reports on the file descriptor it is given, one JSON object: {"ok": true} once everything answers, or
{"exit": code, "error": message}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from localcloud import page, processes
from localcloud.chaos.services import ServiceFaults
from localcloud.chaos.settings import Chaos
from localcloud.cloudflare.keys import Keys
from localcloud.cloudflare.routes import Cloudflare
from localcloud.database import iso_time, open_database
from localcloud.expect import ExpectMiddleware
from localcloud.home import EXIT_FAILED, EXIT_PORT, Home, HomeError, State, read_json, write_json
from localcloud.kelpie.autoscaler import run_autoscaler
from localcloud.kelpie.jobs import Jobs
from localcloud.kelpie.routes import Account, Kelpie
from localcloud.kelpie.rules import Rules
from localcloud.kelpie.webhooks import Webhooks
from localcloud.request_log import RequestLog, RequestLogMiddleware
from localcloud.retention import run_sweeper
from localcloud.salad.groups import Groups
from localcloud.salad.routes import SaladCloud
from localcloud.sight import sample_path
from localcloud.storage import ObjectStorage, build_storage
from localcloud.supervisor import Supervisor

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
SALAD_PREFIX = "/salad/api/public"
KELPIE_PREFIX = "/kelpie"
CLOUDFLARE_PREFIX = "/cloudflare/client/v4"
PREFIXES = {"salad": SALAD_PREFIX, "kelpie": KELPIE_PREFIX, "cloudflare": CLOUDFLARE_PREFIX}


class PortError(Exception):
    """A port that cannot be had; the message says which and what to do."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own, one for both servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(port: int, what: str) -> socket.socket:
    """A listening socket on this machine only; port 0 is any. Raises PortError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise PortError(
            f"port {port} (for {what}) on {ADDRESS} cannot be used: {error.strerror}; "
            "choose another with --port N (N and N+1 are used), or --port 0 for any free ones"
        ) from None
    return listener


def bind_both(wanted: int, state: State) -> tuple[socket.socket, socket.socket]:
    """Sockets for the APIs and for S3. With port 0, the ports of the last time where they are still free."""
    if wanted:
        first = bind(wanted, "the APIs")
        try:
            return first, bind(wanted + 1, "S3")
        except PortError:
            first.close()
            raise
    bound = []
    for port, what in ((state.api_port, "the APIs"), (state.s3_port, "S3")):
        try:
            bound.append(bind(port, what))
        except PortError:
            bound.append(bind(0, what))
    return bound[0], bound[1]


def connection_of(home: Home, state: State) -> dict[str, Any]:
    """HOME/connection.json's content."""
    page_url = f"http://{ADDRESS}:{state.api_port}/"
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
            "url": page_url.rstrip("/") + SALAD_PREFIX,
            "api_key": state.salad_api_key,
            "organization": state.organization,
            "project": state.project,
        },
        "kelpie": {"url": page_url.rstrip("/") + KELPIE_PREFIX},
        "cloudflare": {
            "url": page_url.rstrip("/") + CLOUDFLARE_PREFIX,
            "account_id": state.cloudflare_account_id,
            "api_token": state.cloudflare_api_token,
        },
        "request_log": str(home.request_log),
    }


def place_api(path: str) -> tuple[str, str] | None:
    """Which service a path of the API port belongs to."""
    for service, prefix in PREFIXES.items():
        if path.startswith(prefix):
            return service, path.removeprefix(prefix) or "/"
    return None


class Cloud:
    """All parts, put together."""

    def __init__(self, home: Home, state: State) -> None:
        self.home, self.state = home, state
        self.settings = settings = home.load_settings()
        self.database = open_database(home.database)
        self.requests = RequestLog(home.request_log)
        kelpie_url = f"http://{ADDRESS}:{state.api_port}{KELPIE_PREFIX}"
        self.chaos = Chaos(home.chaos)
        self.supervisor = Supervisor(home, self.database, settings, state, kelpie_url, self.chaos)
        self.groups = Groups(
            self.database,
            state.organization,
            state.project,
            settings.quota,
            settings.boot_seconds,
            self.supervisor.wake.set,
        )
        self.jobs = Jobs(
            self.database,
            state.user_id,
            settings.heartbeat_seconds,
            settings.work_race_seconds,
            settings.ban_machines,
        )
        self.rules = Rules(self.database, state.user_id)
        self.webhooks = Webhooks()

    def api(self) -> ASGIApp:
        """The page, SaladCloud and Kelpie."""
        state = self.state
        made = iso_time(self.home.state.stat().st_mtime)
        account = Account(state.salad_api_key, state.organization, state.project, state.user_id, made)
        salad = SaladCloud(
            self.groups,
            state.salad_api_key,
            state.organization,
            state.project,
            self.settings.requests_per_minute,
        )
        kelpie = Kelpie(account, self.jobs, self.rules, self.groups, self.webhooks)
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/samples/{job}/{name}", self.sample),
                Mount(CLOUDFLARE_PREFIX, self.cloudflare().app()),
                Mount(SALAD_PREFIX, ServiceFaults(salad.app(), self.chaos, "salad", state.project)),
                Mount(KELPIE_PREFIX, ServiceFaults(kelpie.app(), self.chaos, "kelpie", state.project)),
            ],
            middleware=[Middleware(RequestLogMiddleware, log=self.requests, place=place_api)],
        )

    def cloudflare(self) -> Cloudflare:
        """Buckets and keys of R2."""
        state = self.state
        keys = Keys(self.database, [state.s3_access_key_id])
        storage = ObjectStorage(self.home.objects.resolve())
        return Cloudflare(
            self.database, storage, keys, state.cloudflare_account_id, state.cloudflare_api_token
        )

    async def page(self, _request: Request) -> HTMLResponse:
        """What there is, for people."""
        picture = page.read(self.database, read_json(self.home.chaos))
        content = await asyncio.to_thread(page.render, picture, self.home.objects)
        return HTMLResponse(content, headers={"Content-Security-Policy": page.POLICY})

    async def sample(self, request: Request) -> Response:
        """A picture that a job has drawn."""
        query = "SELECT body FROM jobs WHERE id = ?"
        row = self.database.execute(query, (request.path_params["job"],)).fetchone()
        found = row and sample_path(json.loads(row["body"]), self.home.objects, request.path_params["name"])
        return FileResponse(found) if found else PlainTextResponse("no such sample", 404)

    def s3(self) -> ASGIApp:
        """Object storage."""
        state = self.state
        keys = Keys(open_database(self.home.database, any_thread=True), [state.s3_access_key_id])
        app = build_storage(
            self.home.objects,
            state.s3_access_key_id,
            state.s3_secret_access_key,
            keys,
            self.settings.key_write_seconds,
        )
        return RequestLogMiddleware(ExpectMiddleware(app), self.requests, lambda path: ("s3", path))


def make_server(app: ASGIApp) -> Server:
    """An HTTP server for the app, without logs of its own."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=2,
    )
    return Server(config)


async def serve(
    home: Home, state: State, sockets: tuple[socket.socket, socket.socket], same_ports: bool, report: Report
) -> None:
    """Run everything until SIGTERM or SIGINT; the nodes are ended before the servers."""
    cloud = Cloud(home, state)
    api, s3 = make_server(cloud.api()), make_server(cloud.s3())
    # S3 has a thread and a loop of its own: a big object's write to disk holds up no heartbeat.
    s3_thread = threading.Thread(target=lambda: asyncio.run(s3.serve([sockets[1]])), name="s3")
    s3_thread.start()
    api_task = asyncio.create_task(api.serve([sockets[0]]))
    try:
        while not (api.started and s3.started):
            if api_task.done() or not s3_thread.is_alive():
                raise RuntimeError(f"a server did not start; see {home.daemon_log}")
            await asyncio.sleep(0.01)
        write_json(home.connection, connection_of(home, state))
        cloud.supervisor.adopt(reachable=same_ports)
        supervising = asyncio.create_task(cloud.supervisor.run())
        scaling = asyncio.create_task(
            run_autoscaler(
                cloud.jobs,
                cloud.rules,
                cloud.groups,
                cloud.settings.autoscaler_seconds,
                invited=cloud.settings.kelpie_invited,
            )
        )
        sweeping = asyncio.create_task(run_sweeper(ObjectStorage(home.objects.resolve())))
        report.send({"ok": True})
        log.info("running, pid %s, ports %s and %s", os.getpid(), state.api_port, state.s3_port)
        await until_signal()
        scaling.cancel()
        sweeping.cancel()
        await cloud.supervisor.close()
        await asyncio.wait([supervising, scaling, sweeping])
    finally:
        home.connection.unlink(missing_ok=True)
        api.should_exit = s3.should_exit = True
        await api_task
        await asyncio.to_thread(s3_thread.join)
        await cloud.webhooks.close()
        cloud.database.close()
    log.info("stopped")


async def until_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


class Report:
    """The pipe to the `start` that waits for this daemon; may be used once."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    def send(self, message: dict[str, Any]) -> None:
        """Say how it went; nobody listening is no error."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._handle, json.dumps(message).encode() + b"\n")
            os.close(self._handle)
        self._handle = None


def run(home: Home, report: Report) -> int:
    """Be the daemon of this home. Gives the exit code."""
    lock = processes.try_lock(home.daemon_lock)
    if lock is None:
        report.send({"exit": EXIT_FAILED, "error": f"another daemon holds {home.daemon_lock}"})
        return EXIT_FAILED
    with lock:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            before = home.load_state()
            sockets = bind_both(home.load_settings().port, before)
            state = replace(before, api_port=sockets[0].getsockname()[1], s3_port=sockets[1].getsockname()[1])
            home.save_state(state)
            asyncio.run(serve(home, state, sockets, state == before, report))
        except PortError as error:
            report.send({"exit": EXIT_PORT, "error": str(error)})
            return EXIT_PORT
        except (HomeError, OSError, RuntimeError) as error:
            log.exception("the daemon ends")
            report.send({"exit": EXIT_FAILED, "error": str(error)})
            return EXIT_FAILED
    return 0


def main() -> int:
    """`python -m localcloud.daemon --home DIR [--report FD]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--report", type=int)
    given = parser.parse_args()
    # Keys and images of this user: all that is made here is for its eyes only.
    os.umask(0o077)
    # `kill -USR1` writes to the log where each thread stands.
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx logs every URL, and a webhook's URL may carry a key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return run(Home(given.home), Report(given.report))


if __name__ == "__main__":
    sys.exit(main())
