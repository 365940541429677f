"""`flux ui` in a browser while two jobs train on the local cloud: step, sample and end arrive without a reload."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.checkout import Checkout
from tests.support.browser import NEEDS_CHROMIUM, page_in_chromium


@contextmanager
def served(checkout: Checkout) -> Iterator[str]:
    """The address of the page."""
    process = subprocess.Popen(
        [".venv/bin/python", "-m", "flux_training.commands", "ui"],
        cwd=checkout.root,
        env={**checkout.environment, "PULUMI_CONFIG_PASSPHRASE": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=10)


def requests_for_status(checkout: Checkout) -> int:
    """How many Kelpie and SaladCloud have answered to anyone but the nodes."""
    lines = (checkout.root / ".localcloud/requests.jsonl").read_text(encoding="utf-8").splitlines()
    sent = [json.loads(line) for line in lines]
    return sum(one["service"] in ("kelpie", "salad") and one["client"] != "node" for one in sent)


@NEEDS_CHROMIUM
def test_a_training_is_followed_without_a_reload(checkout: Checkout) -> None:
    from playwright.sync_api import expect

    training = checkout.start("up")
    try:
        with served(checkout) as address, page_in_chromium(address, wait_until="load") as seen:
            page = seen.page
            expect(page.locator("#job-cat .state")).to_be_visible(timeout=120_000)
            page.evaluate("window.isSamePage = true")
            expect(page.locator("#job-dog .numbers")).to_have_text(re.compile(r"step [1-9]"), timeout=120_000)
            page.locator("#job-cat a").click()
            expect(page.locator("#samples img").first).to_be_visible(timeout=120_000)
            expect(page.locator("#loss svg").first).to_be_visible(timeout=60_000)
            page.get_by_role("link", name="All jobs").click()
            expect(page.locator("#job-cat .state")).to_have_text("completed", timeout=120_000)
            expect(page.locator("#job-dog .state")).to_have_text("completed", timeout=120_000)
            assert page.evaluate("window.isSamePage") is True
            assert training.wait(timeout=60) == 0
            before = requests_for_status(checkout)
            page.reload()
            page.locator("#job-cat a").click()
            expect(page.locator("#samples img").last).to_be_visible()
            assert requests_for_status(checkout) == before > 0
        assert seen.console_errors == []
    finally:
        training.kill()
        training.communicate()
