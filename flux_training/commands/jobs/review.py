"""The review page: a job's images and captions side by side in a browser, to correct the captions.

Only this machine can reach it, and no other page in the browser can write captions: see private_server.py.
"""

import json
import mimetypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flux_training.commands.cli import say, say_wrapped
from flux_training.commands.design.private_server import PrivateHandler, PrivateServer
from flux_training.commands.design.style import shared_style_with
from flux_training.commands.jobs.folders import HERE
from flux_training.commands.jobs.set_aside import images_set_aside, restore_set_aside_image, set_image_aside
from flux_training.training.dataset.captions import has_caption, is_image
from flux_training.training.dataset.facts import read_caption
from flux_training.training.dataset.images import read_image_size
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import natural_key, write_atomically
from flux_training.training.jobs.examine import Examiner, JobPlace
from flux_training.training.names import CAPTION_SUFFIX
from flux_training.training.opening import read_regular_file
from flux_training.training.words import counted

PAGE = Path(__file__).with_name("review_page")
STYLE = "review.css"
STATIC = {
    "review.js": "text/javascript; charset=utf-8",
    "review_all.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Lint's code for an empty caption file. Such a file may be overwritten.
EMPTY = "caption-empty"
MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True)
class CaptionService:
    """`service`: the model and who receives the images, in words. `caption` asks for one; raises FluxError if there is none."""

    service: str
    caption: Callable[[Path], str]


class ReviewServer(PrivateServer):
    """Serves one dataset folder at `address`. `changed` holds the names of images whose captions were changed.

    `captioning`: what captions an image again; None if nothing can.
    """

    def __init__(self, dataset: Path, trigger: str = "", captioning: CaptionService | None = None) -> None:
        super().__init__(ReviewHandler)
        self.dataset, self.trigger, self.captioning = dataset, trigger, captioning
        self.changed: set[str] = set()
        self.moving = threading.Lock()

    def images(self) -> list[Path]:
        found = [file for file in self.dataset.iterdir() if is_image(file)]
        return sorted(found, key=lambda file: natural_key(file.name))

    def image(self, name: str) -> Path | None:
        """Compares with the existing names, so that no name leads out of the folder."""
        return next((image for image in self.images() if image.name == name), None)

    def set_aside_image(self, name: str) -> Path | None:
        return next((image for image in images_set_aside(self.dataset) if image.name == name), None)

    def save(self, image: Path, before: str, caption: str) -> dict[str, str] | None:
        """Write a caption, unless the file cannot be read or no longer contains what the page showed: then the conflict."""
        if fault := caption_read_error(image):
            return {"fault": fault}
        current = read_caption_or_empty(image)
        if current not in (before, caption):
            return {"caption": current}
        if current != caption:
            write_atomically(image.with_suffix(CAPTION_SUFFIX), caption + "\n")
            self.changed.add(image.name)
        return None


def serve(dataset: Path, trigger: str, captioning: CaptionService) -> None:
    """Serve the page until Ctrl-C."""
    with ReviewServer(dataset, trigger, captioning) as server:
        say(f"Open {server.address}")
        say_wrapped("Every change is saved. Ctrl-C ends the review.")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say_wrapped(f"\n{counted(len(server.changed), 'caption')} changed")


def read_caption_or_empty(image: Path) -> str:
    """Empty if there is none that can be read."""
    return read_caption(image.with_suffix(CAPTION_SUFFIX)).text


def caption_read_error(image: Path) -> str:
    """Why the caption cannot be read; empty if it can be, or if there is none."""
    file = image.with_suffix(CAPTION_SUFFIX)
    fault = read_caption(file).fault
    if fault is None or fault.code == EMPTY or not file.exists():
        return ""
    return f"{file.name}: {fault.message}"


def findings_by_image(dataset: Path) -> dict[str, list[dict[str, str]]]:
    """What lint finds in the images and captions, by the page's address of the image."""
    job = dataset.parent
    (examined,) = Examiner.of(HERE).examine([JobPlace(job.name, job, job)])
    addresses = {image.stem: _url_of_image(image) for image in dataset.iterdir() if is_image(image)}
    found: dict[str, list[dict[str, str]]] = {}
    for finding in examined.findings:
        place = Path(finding.path)
        if place.parent == dataset and place.stem in addresses:
            shown = {"code": finding.code, "message": finding.message}
            found.setdefault(addresses[place.stem], []).append(shown)
    return found


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
        service=server.captioning.service if server.captioning else "",
        missing=sum(not has_caption(image) for image in images),
        aside=[
            {"name": _shown(image), "address": _url_of_image(image)}
            for image in images_set_aside(server.dataset)
        ],
        cards=[_card(image) for image in images],
    )


def _card(image: Path) -> dict[str, Any]:
    return {
        "name": _shown(image),
        "address": _url_of_image(image),
        "size": read_image_size(image) or (1, 1),
        "caption": read_caption_or_empty(image),
        "fault": caption_read_error(image),
    }


def _shown(image: Path) -> str:
    """The name; what is not UTF-8 in it cannot be shown."""
    return image.name.encode(errors="replace").decode()


def _url_of_image(image: Path) -> str:
    """Leads to the file whatever its name is."""
    return quote(image.name, errors="surrogateescape")


class ReviewHandler(PrivateHandler):
    server: ReviewServer

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        path = self.authorized_path()
        if path is None:
            return
        if path == "":
            self.answer(200, "text/html; charset=utf-8", review_page(self.server).encode())
        elif path == STYLE:
            self.answer(200, "text/css; charset=utf-8", shared_style_with(PAGE / STYLE).encode())
        elif path == "findings":
            self._answer_json(200, findings_by_image(self.server.dataset))
        elif path in STATIC:
            self.answer(200, STATIC[path], (PAGE / path).read_bytes())
        elif (path.startswith("image/") and (image := self.server.image(path.removeprefix("image/")))) or (
            path.startswith("aside/") and (image := self.server.set_aside_image(path.removeprefix("aside/")))
        ):
            self._answer_image(image)
        else:
            self.refuse(404, "not found")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def do_PUT(self) -> None:  # noqa: N802 - the name that http.server calls
        """`caption/<image>` saves, `aside/<image>` sets aside or puts back, `again/<image>` asks a model for a caption."""
        path = self.authorized_path()
        if path is None:
            return
        if not self.is_own_origin:
            self.refuse(403, "only the review page may change captions")
            return
        what, _, name = path.partition("/")
        actions = {"caption": self._save, "aside": self._set_aside, "again": self._caption_again}
        body = self._body()
        if body is None:
            return
        is_aside = what == "aside" and body.get("aside") is False
        image = self.server.set_aside_image(name) if is_aside else self.server.image(name)
        if what not in actions or image is None:
            self.refuse(404, "no such image")
        else:
            actions[what](image, body)

    def _save(self, image: Path, change: dict[str, Any]) -> None:
        """{"before", "caption"}: 204 saved; 409 with the conflict if the file has changed."""
        before, caption = change.get("before"), change.get("caption")
        if not isinstance(before, str) or not isinstance(caption, str):
            self.refuse(400, "the request must contain the new caption and the one that it replaces")
        elif not caption.strip():
            self.refuse(400, "an empty caption is not saved, because the trainer would use an empty prompt")
        elif conflict := self.server.save(image, before.strip(), caption.strip()):
            self._answer_json(409, conflict)
        else:
            self.answer(204, "text/plain", b"")

    def _set_aside(self, image: Path, change: dict[str, Any]) -> None:
        """{"aside": true or false}: 204 moved; 409 if a file is in the way."""
        if not isinstance(change.get("aside"), bool):
            self.refuse(400, "the request must say whether to set the image aside or to put it back")
            return
        try:
            with self.server.moving:
                (set_image_aside if change["aside"] else restore_set_aside_image)(image)
        except (BadInput, OSError) as error:
            self.refuse(409, str(error))
        else:
            self.answer(204, "text/plain", b"")

    def _caption_again(self, image: Path, _change: dict[str, Any]) -> None:
        """200 with {"caption"}, which is not saved yet; 502 with the reason if the model gave none."""
        if self.server.captioning is None:
            self.refuse(404, "no model was given")
            return
        try:
            caption = self.server.captioning.caption(image)
        except FluxError as error:
            self.refuse(502, str(error))
        else:
            self._answer_json(200, {"caption": caption})

    def _answer_image(self, image: Path) -> None:
        kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
        self.answer(200, kind, read_regular_file(image))

    def _answer_json(self, status: int, document: object) -> None:
        self.answer(status, "application/json", json.dumps(document).encode())

    def _body(self) -> dict[str, Any] | None:
        """The request's JSON; None if the request was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json" or not length.isdigit():
            self.refuse(415, "send JSON")
            return None
        if int(length) > MAX_BODY_BYTES:
            self.refuse(413, f"a caption has at most {MAX_BODY_BYTES} bytes")
            return None
        try:
            found = json.loads(self.rfile.read(int(length)))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.refuse(400, "send a JSON object")
            return None
        return found
