"""What a hostile bucket puts into the pages, in a real browser: nothing executes, nothing is requested, and the page stays usable."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_training.commands.plan.page import plan_as_page
from flux_training.commands.plan.pictures import Pictures
from flux_training.commands.report.command import write_comparison, write_report
from flux_training.commands.report.runs import newest_runs
from flux_training.training.runs.changes import Changes, Edited
from flux_training.training.runs.variants import Variants
from tests.commands.runs_folder import HOSTILE, make_run
from tests.commands.test_plan import AGAIN, PLAN
from tests.commands.test_ui import KEYS, CountedWatcher, serving, sound_run
from tests.support.browser import NEEDS_CHROMIUM, BrowserPage, page_in_chromium
from tests.support.hostile_buckets import NUMBERS, TEXTS, spoil_run

SEEDS = [pytest.param(range(3), id="a few"), pytest.param(range(3, 60), id="many", marks=pytest.mark.long)]
SPOILED = ("run.json", "progress.json", "done.json", "manifest.json")
MARKED = "window.isTakenOver = () => typeof alerted !== 'undefined'; window.alert = () => { window.alerted = true; }"


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserPage]:
    with page_in_chromium("about:blank") as seen:
        seen.page.add_init_script(MARKED)
        yield seen


def check(seen: BrowserPage, url: str, host: str = "") -> None:
    """Opens the page."""
    # Ends the requests of the page before.
    seen.page.goto("about:blank")
    seen.console_errors.clear()
    seen.hosts.clear()
    seen.page.goto(url, wait_until="load")
    assert seen.page.locator("h1, h2").first.is_visible()
    assert seen.page.evaluate("isTakenOver()") is False
    # An image of the last poll may be gone.
    errors = [error for error in seen.console_errors if not ("404" in error and "/image/" in error)]
    assert (errors, seen.hosts) == ([], {host})


def spoiled_json(chance: random.Random, path: Path) -> None:
    """Replace some of the values, at any depth."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoil(below) for key, below in value.items()}
        return chance.choice([*TEXTS, *NUMBERS, HOSTILE, [HOSTILE], {}]) if chance.random() < 0.4 else value

    path.write_text(json.dumps(spoil(json.loads(path.read_text()))), encoding="utf-8")


@NEEDS_CHROMIUM
@pytest.mark.parametrize("seeds", SEEDS)
def test_pages_of_fetched_runs(browser: BrowserPage, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        chance, outputs = random.Random(seed), tmp_path / str(seed)
        made = [make_run(outputs, job, caption=HOSTILE) for job in ("cat", "dog")]
        for folder in made:
            for name in SPOILED:
                spoiled_json(chance, folder / name)
            losses = (f"{chance.choice(NUMBERS)},{chance.choice(NUMBERS)}\n" for _ in range(50))
            with (folder / "loss.csv").open("a", encoding="utf-8") as file:
                file.writelines(losses)
        runs = newest_runs(outputs, (), "dev")
        for page in (write_report(runs[0], outputs, tmp_path), write_comparison(runs, outputs / "both.html")):
            check(browser, page.as_uri())


@NEEDS_CHROMIUM
@pytest.mark.parametrize("seeds", SEEDS)
def test_the_live_page_of_a_run(browser: BrowserPage, seeds: range) -> None:
    from playwright.sync_api import expect

    watcher = CountedWatcher({})
    watcher.problem = HOSTILE
    watcher.permits.release()
    with serving(watcher) as server:
        host = f"127.0.0.1:{server.server_port}"
        for seed in seeds:
            watcher.objects.clear()
            watcher.objects |= sound_run()
            spoil_run(random.Random(seed), watcher.objects, KEYS)
            check(browser, f"{server.address}?{seed}#run/cat/{KEYS.run}", host)
            expect(browser.page.locator("#commands code").first).to_contain_text("./flux fetch cat")
        check(browser, f"{server.address}#past", host)


@NEEDS_CHROMIUM
def test_the_plan(browser: BrowserPage, tmp_path: Path) -> None:
    """Earlier captions, names and settings come from the bucket."""
    edited = Edited(HOSTILE, HOSTILE, "| a | </td></table><script>alert(1)</script> [x](javascript:alert(1))")
    changes = Changes((HOSTILE,), (HOSTILE,), (HOSTILE,), ((HOSTILE, HOSTILE),), (edited,), (HOSTILE,))
    job = replace(AGAIN, changes=changes, reasons=(HOSTILE,), images_of=HOSTILE)
    plan = replace(PLAN, jobs=(job,), variants=(Variants(HOSTILE, ("cat",), {HOSTILE: (HOSTILE,)}),))
    page = tmp_path / "plan.html"
    page.write_text(plan_as_page(plan, Pictures()), encoding="utf-8")
    check(browser, page.as_uri())
    assert browser.page.locator("script, img, a").count() == 0
