"""A real browser for pages of ours: `with page_in_chromium(url, dark=True, phone=True) as seen: seen.page…`.

Chromium is the machine's own; nothing is downloaded. Tests that use it are marked NEEDS_CHROMIUM.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(
    filter(None, (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH: pages are not looked at"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@dataclass
class Seen:
    """A page, what it wrote to the console, and the hosts that it asked for anything."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def faults(self) -> list[str]:
        """Accessibility faults that axe-core calls serious or critical."""
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


@contextmanager
def page_in_chromium(url: str, dark: bool = False, phone: bool = False) -> Iterator[Seen]:
    """The page at `url`, loaded to its end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context = browser.new_context(
                viewport=PHONE if phone else WIDE, color_scheme="dark" if dark else "light", has_touch=phone
            )
            seen = Seen(context.new_page())
            seen.page.on("console", lambda message: _note(seen, message))
            seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
            seen.page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
            seen.page.goto(url, wait_until="networkidle")
            yield seen
        finally:
            browser.close()


def _note(seen: Seen, message: Any) -> None:
    if message.type in ("error", "warning"):
        seen.complaints.append(message.text)
