"""The review page: a job's images and captions side by side in a browser, captions corrected where they stand.

It is served to this machine only, below a word that nobody can guess; other pages the browser has open can neither read
nor write it (Host and Origin are checked, nothing of it may be framed or sent elsewhere). Standard library only.
"""

from __future__ import annotations

import html
import json
import mimetypes
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from flux_training.commands.cli import say
from flux_training.training.dataset.captions import has_caption, is_image
from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import size_of
from flux_training.training.files import natural_key, write_atomically
from flux_training.training.names import CAPTION_SUFFIX

PAGE = Path(__file__).with_name("review_page")
STATIC = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# What lint calls a caption of nothing: that one may be written over.
EMPTY = "caption-empty"
LARGEST_BODY = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ReviewServer(ThreadingHTTPServer):
    """Serves one dataset folder at `address`. `changed` are the names of the images whose captions were changed."""

    daemon_threads = True

    def __init__(self, dataset: Path, trigger: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dataset, self.trigger = dataset, trigger
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}
        self.address = f"http://127.0.0.1:{self.server_port}/{self.token}/"
        self.changed: set[str] = set()

    def images(self) -> list[Path]:
        found = [file for file in self.dataset.iterdir() if is_image(file)]
        return sorted(found, key=lambda file: natural_key(file.name))

    def image(self, name: str) -> Path | None:
        """The image of this name; looked up among those there are, so that no name leads out of the folder."""
        return next((image for image in self.images() if image.name == name), None)

    def save(self, image: Path, before: str, caption: str) -> dict[str, str] | None:
        """Write a caption, unless the file no longer says what the page showed (then what it says now), or cannot be read (then why)."""
        if fault := fault_of(image):
            return {"fault": fault}
        now = caption_of(image)
        if now not in (before, caption):
            return {"caption": now}
        if now != caption:
            write_atomically(image.with_suffix(CAPTION_SUFFIX), caption + "\n")
            self.changed.add(image.name)
        return None


def serve(dataset: Path, trigger: str) -> None:
    """Serve the page until Ctrl-C."""
    with ReviewServer(dataset, trigger) as server:
        say(f"Open {server.address}\nCaptions are saved as you go. Ctrl-C ends.")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say(f"\n{len(server.changed)} captions changed")


def caption_of(image: Path) -> str:
    """The caption as it stands, or nothing where there is none that can be read."""
    return read_caption(image.with_suffix(CAPTION_SUFFIX)).text


def fault_of(image: Path) -> str:
    """Why there is a caption that cannot be read; empty where it can be, is empty, or there is none."""
    file = image.with_suffix(CAPTION_SUFFIX)
    fault = read_caption(file).fault
    if fault is None or fault.code == EMPTY or not file.exists():
        return ""
    return f"{file.name}: {fault.message}"


def page(server: ReviewServer) -> str:
    """The page's HTML. All that is shown of files and captions is escaped."""
    images = server.images()
    cards = "\n".join(_card(image, number, len(images)) for number, image in enumerate(images, 1))
    job = server.dataset.resolve().parent.name
    missing = sum(not has_caption(image) for image in images)
    template = (PAGE / "review.html").read_text(encoding="utf-8")
    values = {
        "JOB": job,
        "COUNT": f"{len(images)} images",
        "MISSING": str(missing),
        "TRIGGER": server.trigger,
    }
    for key, value in values.items():
        template = template.replace(f"%{key}%", html.escape(value))
    return template.replace("%CARDS%", cards)


def _card(image: Path, number: int, count: int) -> str:
    # A name may hold bytes that are no UTF-8: they cannot be shown, but the address must find the file.
    shown, address = image.name.encode(errors="replace").decode(), quote(image.name, errors="surrogateescape")
    name, caption = html.escape(shown), html.escape(caption_of(image))
    width, height = size_of(image) or (1, 1)
    link = f"image/{address}"
    fault = html.escape(fault_of(image))
    kept = f' readonly data-fault="{fault}"' if fault else ""
    return f"""<li class="card" id="image-{number}">
  <figure><a href="{link}" target="_blank" rel="noreferrer"><img src="{link}" alt="{name}, full size" loading="lazy" width="{width}" height="{height}"></a></figure>
  <div class="words">
    <h2><label for="caption-{number}">{name}</label> <span class="place">{number} of {count}</span></h2>
    <textarea id="caption-{number}" data-image="{address}" rows="5" spellcheck="true"{kept} aria-describedby="state-{number}">
{caption}</textarea>
    <p class="state" id="state-{number}" role="status"></p>
  </div>
</li>"""


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version = "flux-review"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        if path == "":
            self._answer(200, "text/html; charset=utf-8", page(self.server).encode())
        elif path in STATIC:
            self._answer(200, STATIC[path], (PAGE / path).read_bytes())
        elif path.startswith("image/") and (image := self.server.image(path.removeprefix("image/"))):
            kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
            self._answer(200, kind, image.read_bytes())
        else:
            self._refuse(404, "there is no such thing here")

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def do_PUT(self) -> None:
        """`caption/<image>` with {"before", "caption"}: 204 saved, 409 {"caption"} when the file says something else, 409 {"fault"} when it cannot be read."""
        path = self._path()
        if path is None:
            return
        if self.headers.get("Origin") not in {f"http://{host}" for host in self.server.hosts}:
            self._refuse(403, "only the review page itself may write")
            return
        image = self.server.image(path.removeprefix("caption/")) if path.startswith("caption/") else None
        if image is None:
            self._refuse(404, "there is no such image")
            return
        change = self._body()
        if change is None:
            return
        caption = change["caption"].strip()
        if not caption:
            self._refuse(400, "an empty caption is not saved: the trainer would use an empty prompt")
            return
        conflict = self.server.save(image, change["before"].strip(), caption)
        if conflict is None:
            self._answer(204, "text/plain", b"")
        else:
            self._answer(409, "application/json", json.dumps(conflict).encode())

    def _path(self) -> str | None:
        """What is asked for below the token; None when the request was refused."""
        # A page elsewhere can give its own name this address (DNS rebinding): then Host is that name.
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(403, "this page is for this machine only")
            return None
        token, slash, path = self.path.split("?", 1)[0].removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(404, "there is no such thing here")
            return None
        return unquote(path, errors="surrogateescape")

    def _body(self) -> dict[str, str] | None:
        """The request's JSON; None when the request was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdigit():
            self._refuse(415, "send JSON")
            return None
        if int(length) > LARGEST_BODY:
            self._refuse(413, f"a caption has at most {LARGEST_BODY} bytes")
            return None
        try:
            change: Any = json.loads(self.rfile.read(int(length)))
            return {"before": str(change["before"]), "caption": str(change["caption"])}
        except (ValueError, KeyError, TypeError):
            self._refuse(400, "send the caption and what it was before")
            return None

    def _refuse(self, status: int, why: str) -> None:
        # What was sent with the request is not read, so this connection cannot be used again.
        self.close_connection = True
        self._answer(status, "text/plain; charset=utf-8", f"{why}\n".encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's, and the token belongs in no log."""
