"""`flux ui` in a browser while two jobs train on the local cloud: step, sample and end arrive without a reload."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flux_training.clients.connection import connect
from flux_training.clients.waiting import in_parallel
from tests.e2e.checkout import FAST_CLOUD, Checkout, new_checkout
from tests.support.browser import NEEDS_CHROMIUM, page_in_chromium
from tests.training.job_folders import make_job

MAX_MB, MAX_BYTES, MAX_ROWS = 200, 300_000, 100
# Slow enough that two jobs train at the same time while the page is read.
TWELVE_JOBS_CLOUD = f"{FAST_CLOUD} --nodes 2 --step-seconds 0.05"


@dataclass(frozen=True)
class ServedPage:
    """A running `flux ui`."""

    address: str
    pid: int

    def peak_mb(self) -> int:
        """The most memory that the process had at once."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) // 1024

    def cpu_seconds(self) -> float:
        return sum(psutil.Process(self.pid).cpu_times()[:2])


@contextmanager
def served(checkout: Checkout) -> Iterator[ServedPage]:
    """`flux ui` of the checkout, in an interpreter of its own, so that its memory can be measured."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flux_training.commands", "ui"],
        cwd=checkout.root,
        env={**checkout.environment, "PULUMI_CONFIG_PASSPHRASE": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield ServedPage(process.stdout.readline().split()[-1], process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)


def requests_for_status(checkout: Checkout) -> int:
    """How many Kelpie and SaladCloud have answered to anyone but the nodes."""
    lines = (checkout.root / ".localcloud/requests.jsonl").read_text(encoding="utf-8").splitlines()
    sent = [json.loads(line) for line in lines]
    return sum(one["service"] in ("kelpie", "salad") and one["client"] != "node" for one in sent)


@pytest.mark.long
@NEEDS_CHROMIUM
def test_a_training_is_followed_without_a_reload(checkout: Checkout) -> None:
    from playwright.sync_api import expect

    training = checkout.start("up")
    try:
        with served(checkout) as ui, page_in_chromium(ui.address, wait_until="load") as seen:
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
def test_twelve_jobs_are_followed_while_two_train(tmp_path: Path, virtualenv: Path) -> None:
    from playwright.sync_api import expect

    names = ["cat", "dog", *(f"job-{number}" for number in range(10))]
    with new_checkout(tmp_path / "checkout", TWELVE_JOBS_CLOUD, virtualenv=virtualenv) as checkout:
        for seed, name in enumerate(names[2:], 3):
            make_job(checkout.root / "jobs", name, seed=seed)
        checkout.declare(**{name: {} for name in names})
        training = checkout.start("up")
        try:
            with served(checkout) as ui, page_in_chromium(ui.address, wait_until="load") as seen:
                page = seen.page
                expect(page.locator(".jobs .card")).to_have_count(12, timeout=120_000)
                page.evaluate("window.isSamePage = true")
                train = page.locator(".card:has(.state:text-is('training'))")
                expect(train).to_have_count(2, timeout=120_000)
                job = train.first.locator("a").inner_text()
                expect(page.locator(f"#job-{job} .numbers")).to_contain_text(
                    re.compile("step [1-9]"), timeout=60_000
                )
                pending = page.locator(".card:has(.state:text-is('pending'))").last.locator("a")
                pending.click()
                expect(page.locator("#samples")).to_have_text("There are no samples yet.")
                expect(page.locator("#samples img").first).to_be_visible(timeout=120_000)
                expect(page.locator("#facts")).to_contain_text("completed", timeout=120_000)
                page.get_by_role("link", name="All jobs").click()
                expect(page.locator("#summary")).to_contain_text("12 of 12 jobs have ended", timeout=120_000)
                expect(page.locator(".jobs .state.good")).to_have_text(["completed"] * 12)
                page.get_by_role("link", name="Losses").click()
                expect(page.locator(".legend li")).to_have_count(12)
                assert page.evaluate("window.isSamePage") is True
                assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
                assert ui.peak_mb() < MAX_MB
            assert seen.console_errors == []
            assert training.wait(timeout=60) == 0
        finally:
            training.kill()
            training.communicate()


@pytest.mark.long
@NEEDS_CHROMIUM
def test_a_thousand_past_runs_are_listed(trained: Checkout) -> None:
    """In the bucket and fetched. The time and the CPU time are printed; they depend on the machine."""
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
    with served(trained) as ui, page_in_chromium(ui.address, wait_until="load") as seen:
        page = seen.page
        expect(page.locator("#job-cat .state")).to_have_text("completed", timeout=60_000)
        begun, used, asked = time.monotonic(), ui.cpu_seconds(), len(trained.requests())
        page.get_by_role("link", name="Past runs").click()
        expect(page.get_by_role("status").last).to_have_text(f"{count} of {count} runs", timeout=60_000)
        page.get_by_label("Job, run or state").fill("job-11")
        expect(page.get_by_role("status").last).to_have_text(f"83 of {count} runs")
        print(f"{count} past runs: usable after {time.monotonic() - begun:.2f} s", end=", ")
        print(f"{ui.cpu_seconds() - used:.2f} s of CPU, peak {ui.peak_mb()} MB")
        # The mark of the bucket's layout, and one list of keys for each thousand runs.
        assert [entry["service"] for entry in trained.requests()[asked:]] == ["s3"] * 3
        assert page.evaluate("performance.getEntriesByType('resource').at(-1).encodedBodySize") < MAX_BYTES
        assert page.locator("tbody tr").count() <= MAX_ROWS
        assert ui.peak_mb() < MAX_MB
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
    assert seen.console_errors == []
