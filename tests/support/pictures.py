"""Renews the pictures of README and docs from a stack that `make up` has trained: `make pictures`. Needs Chromium.

Each is what a browser shows, as WebP of 1280 x 800 pixels.
"""

import io
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from flux_training.clients.local_cloud import ensure_local_cloud
from flux_training.commands.cli import outputs_folder
from flux_training.commands.jobs.review import CaptionService, ReviewServer
from flux_training.commands.report.command import images_folder, write_comparison, write_report
from flux_training.commands.report.runs import newest_runs
from flux_training.training.errors import FluxError
from flux_training.training.words import DEFAULT_STACK, make_command
from tests.support.browser import BrowserPage, page_in_chromium

PICTURES = Path("docs/pictures")
QUALITY = 70


def main() -> None:
    """Renew all pictures, or exit with what keeps them from being made."""
    try:
        ensure_local_cloud()
        make_pictures()
    except FluxError as error:
        sys.exit(f"error: {error}")


def make_pictures() -> None:
    """Raises FluxError, RuntimeError if a page has errors."""
    outputs, jobs = outputs_folder(DEFAULT_STACK), images_folder(DEFAULT_STACK)
    runs = newest_runs(outputs, (), DEFAULT_STACK)
    with page_in_chromium(write_report(runs[0], outputs, jobs).resolve().as_uri()) as seen:
        save(seen, "report")
    with tempfile.TemporaryDirectory() as folder:
        comparison = write_comparison(runs, Path(folder) / "compare.html")
        with page_in_chromium(comparison.as_uri()) as seen:
            save(seen, "compare")
    with served_stack() as address, page_in_chromium(address, dark=True, wait_until="load") as seen:
        seen.page.locator(".jobs a").first.click()
        seen.page.locator("#loss svg").first.wait_for()
        for image in seen.page.locator("#samples img").all():
            image.scroll_into_view_if_needed()
            image.evaluate("image => image.decode()")
        # Decoded images are painted with one of the next frames.
        seen.page.evaluate(
            "scrollTo(0, 0); new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        save(seen, "ui")
    with (
        reviewed(jobs / runs[0].job / "dataset", runs[0].trigger) as address,
        page_in_chromium(address) as seen,
    ):
        seen.page.get_by_text("Change all captions shown").click()
        save(seen, "review")


def save(seen: BrowserPage, name: str) -> None:
    """Raises RuntimeError if the page has errors."""
    if seen.console_errors:
        raise RuntimeError(f"{name}: {seen.console_errors}")
    path = PICTURES / f"{name}.webp"
    with Image.open(io.BytesIO(seen.page.screenshot())) as picture:
        picture.convert("RGB").save(path, quality=QUALITY, method=6)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


@contextmanager
def served_stack() -> Iterator[str]:
    """The address of `flux ui`."""
    command = [sys.executable, "-m", "flux_training.commands", "ui"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                up = make_command("up", DEFAULT_STACK)
                raise FluxError(
                    "`./flux ui` ended at once, for the reason above", "", f"{up} deploys the stack"
                )
            yield line.split()[-1]
        finally:
            process.terminate()


@contextmanager
def reviewed(dataset: Path, trigger: str) -> Iterator[str]:
    """The address of the review page of a dataset."""
    model = CaptionService("a model", lambda image: image.name)
    with ReviewServer(dataset, trigger, model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


if __name__ == "__main__":
    main()
