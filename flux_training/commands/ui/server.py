"""Serves the page of `flux ui`. It only reads: there is no other method than GET and HEAD."""

import json
import select
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flux_training.commands.cli import outputs_folder
from flux_training.commands.design.private_server import PrivateHandler, PrivateServer
from flux_training.commands.design.style import shared_script, shared_style_with
from flux_training.commands.ui.documents import rows_with_curves
from flux_training.commands.ui.live import LiveStack
from flux_training.commands.ui.past_runs import list_runs
from flux_training.commands.ui.run_view import read_curves, read_image, read_run
from flux_training.commands.watch.logs import LogReader
from flux_training.training.errors import FluxError
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.run import RunKeys

ASSETS = Path(__file__).with_name("assets")
STATIC = {
    "": ("ui.html", "text/html; charset=utf-8"),
    "ui.js": ("ui.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
# The interval of keep-alive messages, which show proxies and the browser that the connection is alive.
KEEP_ALIVE_SECONDS = 15.0
# How often to check whether the page was closed. Until it is noticed, the page counts as open.
CLOSED_CHECK_SECONDS = 0.5
# The maximum number of open streams. A browser opens one for each tab.
MAX_STREAMS = 20
# The maximum number of pictures that are decoded at once, because each needs up to 50 MB.
MAX_PARALLEL_IMAGES = 1
MAX_LOG_LINES = 200


class UiServer(PrivateServer):
    """Serves one stack. `read_offers`: the offers of GPU classes; asks SaladCloud, and raises FluxError."""

    def __init__(self, live: LiveStack, read_offers: Callable[[], dict[str, Any]], port: int = 0) -> None:
        super().__init__(UiHandler, port)
        self.live, self.read_offers = live, read_offers
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.images = threading.BoundedSemaphore(MAX_PARALLEL_IMAGES)


class UiHandler(PrivateHandler):
    """One connection of a browser."""

    server: UiServer

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        path = self.authorized_path()
        if path is None:
            return
        try:
            self._route(path)
        except FluxError as error:
            self.refuse(HTTPStatus.BAD_GATEWAY, str(error))
        except ConnectionError:
            # The browser closed the page, so there is nobody to answer.
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _route(self, path: str) -> None:
        if path in STATIC:
            name, kind = STATIC[path]
            self.answer(200, kind, (ASSETS / name).read_bytes())
        elif path == "ui.css":
            self.answer(200, "text/css; charset=utf-8", shared_style_with(ASSETS / "ui.css").encode())
        elif path == "shared.js":
            self.answer(200, "text/javascript; charset=utf-8", shared_script().encode())
        elif path == "events":
            self._stream()
        elif path == "offers":
            self._answer_json(self.server.read_offers())
        elif path == "losses":
            self._answer_losses()
        elif path == "past":
            self._answer_past_runs()
        else:
            self._route_run(*path.split("/"))

    def _route_run(self, what: str, job: str = "", run: str = "", name: str = "", *more: str) -> None:
        """`run/JOB/RUN`, `image/JOB/RUN/NAME` and `log/JOB`."""
        deployed = self.server.live.deployed
        is_named = JOB_NAME.fullmatch(job) and RUN_ID.fullmatch(run) and not more
        if deployed and what == "run" and is_named and not name:
            storage, keys = deployed.watcher.storage, deployed.layout.run(job, run)
            self._answer_json(read_run(storage, keys, self.server.live.stack))
        elif deployed and what == "image" and is_named:
            self._answer_image(deployed.layout.run(job, run), name)
        elif deployed and what == "log" and not run:
            self._answer_log(job)
        else:
            self.refuse(404, "not found")

    def _answer_losses(self) -> None:
        live = self.server.live
        shown, left_out = rows_with_curves(live.status.rows if live.status else ())
        runs = [row.status.job.keys for row in shown]
        curves = read_curves(live.deployed.watcher.storage, runs) if live.deployed else []
        self._answer_json({"curves": curves, "left_out": left_out})

    def _answer_past_runs(self) -> None:
        deployed, outputs = self.server.live.deployed, outputs_folder(self.server.live.stack)
        runs = list_runs(deployed.watcher.storage, deployed.layout, outputs) if deployed else []
        self._answer_json({"runs": runs})

    def _answer_image(self, keys: RunKeys, name: str) -> None:
        deployed = self.server.live.deployed
        with self.server.images:
            image = read_image(deployed.watcher.storage, keys, name) if deployed else None
        if image is None:
            self.refuse(404, "no such image")
        else:
            # Allow caching: a sample never changes, because its name contains the time at which it was made.
            self.answer(200, "image/webp", image, Cache_Control="private, max-age=86400")

    def _answer_log(self, job: str) -> None:
        deployed, row = self.server.live.deployed, self.server.live.row(job)
        if deployed is None or row is None:
            self.refuse(404, "no such job")
            return
        reader = LogReader(deployed.connection)
        lines = reader.new_lines(row)[-MAX_LOG_LINES:]
        self._answer_json({"lines": lines, "missing": reader.missing})

    def _answer_json(self, document: dict[str, Any]) -> None:
        self.answer(200, "application/json", json.dumps(document, allow_nan=False).encode())

    def _stream(self) -> None:
        """Server-sent events: the stack's document now and after each change."""
        if not self.server.streams.acquire(blocking=False):
            self.refuse(
                503,
                f"the page is already open {MAX_STREAMS} times, which is the limit; close one of its tabs",
            )
            return
        self.close_connection = True
        try:
            with self.server.live.reading():
                self.begin(200, {"Content-Type": "text/event-stream", "Connection": "close"})
                self._send_changes()
        finally:
            self.server.streams.release()

    def _send_changes(self) -> None:
        version, sent_at = 0, time.monotonic()
        while self.command != "HEAD" and not self.server.live.is_closed and not self._is_page_closed():
            newer = self.server.live.newer(version, CLOSED_CHECK_SECONDS)
            if newer is not None:
                version, document = newer
                self.wfile.write(f"data: {json.dumps(document, allow_nan=False)}\n\n".encode())
            elif time.monotonic() - sent_at < KEEP_ALIVE_SECONDS:
                continue
            else:
                self.wfile.write(b":\n\n")
            sent_at = time.monotonic()

    def _is_page_closed(self) -> bool:
        """A browser sends nothing after its request: its connection only becomes readable at its end."""
        return bool(select.select([self.connection], [], [], 0)[0])
