"""Pages in a real browser: `with page_in_chromium(url, dark=True, phone=True) as shown: shown.page…`.

The browser is the Chromium on the PATH; nothing is downloaded. Tests that use it are marked NEEDS_CHROMIUM.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

CHROMIUM = next(
    filter(None, (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH (apt-get install chromium)"
)
FLAGS = [
    "--headless",
    "--hide-scrollbars",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Ends the browser. Tests do so when the last of them has ended.
END = ExitStack()
atexit.register(END.close)
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


# (dark, phone): for tests that look at a page in each.
THEMES = [
    pytest.param(True, True, id="dark, phone"),
    # The other tests of pages look at them like this.
    pytest.param(False, False, id="light, wide", marks=pytest.mark.long),
    pytest.param(False, True, id="light, phone", marks=pytest.mark.long),
    pytest.param(True, False, id="dark, wide", marks=pytest.mark.long),
]


@dataclass
class BrowserPage:
    """A page, the errors and warnings on its console, and the hosts that it requested anything from."""

    page: Any
    console_errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def accessibility_violations(self) -> list[str]:
        """What axe-core calls serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{fault['id']}: {node['html']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@cache
def _shared_chromium() -> str:
    """The address of the Chromium that all tests of a process share: to start one takes as long as a test needs it."""
    assert CHROMIUM is not None
    folder = END.enter_context(tempfile.TemporaryDirectory(prefix="chromium-"))
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": folder},
    )
    END.callback(_kill, psutil.Process(process.pid))
    assert process.stderr is not None
    address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on "))
    # A full pipe would stop the browser.
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return address


def _kill(browser: psutil.Process) -> None:
    """Also its other processes, which would still write into its folder."""
    processes = [*browser.children(recursive=True), browser]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


@contextmanager
def page_in_chromium(
    url: str, dark: bool = False, phone: bool = False, wait_until: str = "networkidle"
) -> Iterator[BrowserPage]:
    """The page at `url`, loaded to its end. A page that keeps a stream open never becomes idle: `wait_until="load"`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(_shared_chromium())
        try:
            context = browser.new_context(
                viewport=PHONE if phone else WIDE, color_scheme="dark" if dark else "light", has_touch=phone
            )
            shown = BrowserPage(context.new_page())
            shown.page.on("console", lambda message: _note(shown, message))
            shown.page.on("pageerror", lambda error: shown.console_errors.append(str(error)))
            shown.page.on("request", lambda request: shown.hosts.add(urlsplit(request.url).netloc))
            shown.page.goto(url, wait_until=wait_until)
            yield shown
        finally:
            browser.close()


def _note(shown: BrowserPage, message: Any) -> None:
    if message.type in ("error", "warning"):
        shown.console_errors.append(f"{message.text} ({message.location['url']})")
