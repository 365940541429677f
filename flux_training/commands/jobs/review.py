"""The review page: a job's images and captions side by side in a browser, to correct the captions.

Only this machine can reach it, and no other page in the browser can write captions: see private_server.py.
"""

import json
import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flux_training.commands.cli import say
from flux_training.commands.design.private_server import PrivateHandler, PrivateServer
from flux_training.commands.design.style import style_with
from flux_training.training.dataset.captions import has_caption, is_image
from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import size_of
from flux_training.training.files import natural_key, write_atomically
from flux_training.training.names import CAPTION_SUFFIX
from flux_training.training.opening import read_regular_file
from flux_training.training.words import counted

PAGE = Path(__file__).with_name("review_page")
STYLE = "review.css"
STATIC = {
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Lint's code for an empty caption, which may be overwritten.
EMPTY = "caption-empty"
MAX_BODY_BYTES = 64 * 1024


class ReviewServer(PrivateServer):
    """Serves one dataset folder at `address`. `changed` holds the names of images whose captions were changed."""

    def __init__(self, dataset: Path, trigger: str = "") -> None:
        super().__init__(ReviewHandler)
        self.dataset, self.trigger = dataset, trigger
        self.changed: set[str] = set()

    def images(self) -> list[Path]:
        found = [file for file in self.dataset.iterdir() if is_image(file)]
        return sorted(found, key=lambda file: natural_key(file.name))

    def image(self, name: str) -> Path | None:
        """Compares with the existing names, so that no name leads out of the folder."""
        return next((image for image in self.images() if image.name == name), None)

    def save(self, image: Path, before: str, caption: str) -> dict[str, str] | None:
        """Write a caption, unless the file cannot be read or no longer contains what the page showed: then the conflict."""
        if fault := fault_of(image):
            return {"fault": fault}
        current = caption_of(image)
        if current not in (before, caption):
            return {"caption": current}
        if current != caption:
            write_atomically(image.with_suffix(CAPTION_SUFFIX), caption + "\n")
            self.changed.add(image.name)
        return None


def serve(dataset: Path, trigger: str) -> None:
    """Serve the page until Ctrl-C."""
    with ReviewServer(dataset, trigger) as server:
        say(f"Open {server.address}\nEvery change is saved. Ctrl-C ends the review.")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say(f"\n{counted(len(server.changed), 'caption')} changed")


def caption_of(image: Path) -> str:
    """Empty if there is none that can be read."""
    return read_caption(image.with_suffix(CAPTION_SUFFIX)).text


def fault_of(image: Path) -> str:
    """Why the caption cannot be read; empty if it can be, or if there is none."""
    file = image.with_suffix(CAPTION_SUFFIX)
    fault = read_caption(file).fault
    if fault is None or fault.code == EMPTY or not file.exists():
        return ""
    return f"{file.name}: {fault.message}"


def review_page(server: ReviewServer) -> str:
    """The page's HTML. Jinja2 escapes everything from files and captions."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    images = server.images()
    return environment.get_template("review.html.j2").render(
        job=server.dataset.resolve().parent.name,
        trigger=server.trigger,
        missing=sum(not has_caption(image) for image in images),
        cards=[_card(image) for image in images],
    )


def _card(image: Path) -> dict[str, Any]:
    return {
        # A name that is not UTF-8 cannot be shown, but its address must still lead to the file.
        "name": image.name.encode(errors="replace").decode(),
        "address": quote(image.name, errors="surrogateescape"),
        "size": size_of(image) or (1, 1),
        "caption": caption_of(image),
        "fault": fault_of(image),
    }


class ReviewHandler(PrivateHandler):
    server: ReviewServer

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        path = self.authorized_path()
        if path is None:
            return
        if path == "":
            self.answer(200, "text/html; charset=utf-8", review_page(self.server).encode())
        elif path == STYLE:
            self.answer(200, "text/css; charset=utf-8", style_with(PAGE / STYLE).encode())
        elif path in STATIC:
            self.answer(200, STATIC[path], (PAGE / path).read_bytes())
        elif path.startswith("image/") and (image := self.server.image(path.removeprefix("image/"))):
            kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
            self.answer(200, kind, read_regular_file(image))
        else:
            self.refuse(404, "not found")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def do_PUT(self) -> None:  # noqa: N802 - the name that http.server calls
        """`caption/<image>` with {"before", "caption"}: 204 saved; 409 with the conflict if the file has changed."""
        path = self.authorized_path()
        if path is None:
            return
        if not self.is_own_origin:
            self.refuse(403, "only the review page may write")
            return
        image = self.server.image(path.removeprefix("caption/")) if path.startswith("caption/") else None
        if image is None:
            self.refuse(404, "no such image")
            return
        change = self._body()
        if change is None:
            return
        caption = change["caption"].strip()
        if not caption:
            self.refuse(400, "an empty caption is not saved: the trainer would use an empty prompt")
            return
        conflict = self.server.save(image, change["before"].strip(), caption)
        if conflict is None:
            self.answer(204, "text/plain", b"")
        else:
            self.answer(409, "application/json", json.dumps(conflict).encode())

    def _body(self) -> dict[str, str] | None:
        """The request's JSON; None if the request was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdigit():
            self.refuse(415, "send JSON")
            return None
        if int(length) > MAX_BODY_BYTES:
            self.refuse(413, f"a caption has at most {MAX_BODY_BYTES} bytes")
            return None
        try:
            change: Any = json.loads(self.rfile.read(int(length)))
            return {"before": str(change["before"]), "caption": str(change["caption"])}
        except (ValueError, KeyError, TypeError):
            self.refuse(400, "send the caption and what it was before")
            return None
