"""`flux ui` in a browser while two jobs train on the local cloud: step, sample and end arrive without a reload."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flux_training.clients.connection import connect
from flux_training.clients.waiting import in_parallel
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


@pytest.mark.long
@NEEDS_CHROMIUM
def test_a_thousand_past_runs_are_listed(trained: Checkout) -> None:
    """In the bucket and fetched. The time is printed; it depends on the machine."""
    from playwright.sync_api import expect

    fetched = next((trained.root / "outputs/dev/cat").glob("*/run.json"))
    count = 1000 + len(list((trained.bucket / ".flux/runs").glob("*/*/claim.json")))
    runs = [f"job-{number % 12}/{number:012x}" for number in range(1000)]
    connection = str(trained.root / ".localcloud/connection.json")
    storage = connect("local", {}, {"FLUX_LOCAL_CLOUD": connection}).storage(trained.bucket.name)
    in_parallel(lambda run: storage.put_bytes(f".flux/runs/{run}/claim.json", b"{}"), runs)
    for run in runs:
        here = trained.root / "outputs/dev" / run
        here.mkdir(parents=True)
        for file in ("run.json", "progress.json"):
            (here / file).write_bytes((fetched.parent / file).read_bytes())
    with served(trained) as address, page_in_chromium(address, wait_until="load") as seen:
        page = seen.page
        expect(page.locator("#job-cat .state")).to_have_text("completed", timeout=60_000)
        begun = time.monotonic()
        page.get_by_role("link", name="Past runs").click()
        expect(page.get_by_role("status").last).to_have_text(f"{count} of {count} runs", timeout=60_000)
        page.get_by_label("Job, run or state").fill("job-11")
        expect(page.get_by_role("status").last).to_have_text(f"83 of {count} runs")
        print(f"{count} past runs: usable after {time.monotonic() - begun:.2f} s")
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
    assert seen.console_errors == []
