"""The local cloud's page in a real browser: accessible, usable by keyboard, updated in place, and inert with what jobs write."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from group_body import group_body, job_body
from localcloud.testing import kelpie_client, run_localcloud, running_cloud, s3_client, salad_client

from tests.commands.runs_folder import HOSTILE
from tests.commands.test_ui import jpeg
from tests.support.browser import NEEDS_CHROMIUM, THEMES, page_in_chromium

OUTPUT = "runs/cat/1/output/"
PROGRESS = {"state": HOSTILE, "message": HOSTILE, "step": 30, "steps": 300, "loss_smoothed": 0.75}
# A node chooses the names.
SAMPLES = ("1__000000010_0.jpg", '2" onerror="alert(1)" #.jpg', "x" * 150 + ".jpg")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Its connection. It has a group, a fault and two jobs with hostile names."""
    home = tmp_path_factory.mktemp("page") / "cloud"
    with running_cloud(home, nodes=0) as connection, salad_client(connection) as salad:
        group = salad.post("/containers", json=group_body("on-the-page", autostart_policy=False)).json()["id"]
        s3 = s3_client(connection)
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key=f"{OUTPUT}progress.json", Body=json.dumps(PROGRESS).encode())
        s3.put_object(Bucket="bkt", Key=f"{OUTPUT}loss.csv", Body=b"step,loss\n1,1.0\n2,0.5\n")
        for name in SAMPLES:
            s3.put_object(Bucket="bkt", Key=f"{OUTPUT}samples/{name}", Body=jpeg())
        for name in (HOSTILE, "n" * 200):
            post_job(connection, group, name)
        assert run_localcloud(home, "chaos", "bad-gpu").returncode == 0
        yield {**connection, "group": group}


def post_job(connection: dict[str, Any], group: str, name: str) -> None:
    during = [{"bucket": "bkt", "prefix": OUTPUT, "local_path": "output/", "direction": "upload"}]
    environment = {"FLUX_JOB": name, "FLUX_RUN_ID": "0123456789ab"}
    with kelpie_client(connection) as kelpie:
        job = job_body(group, environment=environment, sync={"during": during})
        kelpie.post("/jobs", json=job).raise_for_status()


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("dark", "phone"), THEMES)
def test_the_page_is_accessible_and_inert(cloud: dict[str, Any], dark: bool, phone: bool) -> None:
    with page_in_chromium(cloud["page"], dark, phone) as seen:
        page = seen.page
        assert page.locator("h3").all_inner_texts()[0].startswith("n" * 200)
        assert page.locator("script").count() == 1
        images = page.locator(".samples img").evaluate_all("images => images.map((one) => one.naturalWidth)")
        assert images == [64] * 6
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
    assert seen.console_errors == []
    assert seen.hosts == {cloud["page"].split("/")[2]}


@pytest.mark.long
@NEEDS_CHROMIUM
def test_the_page_is_updated_in_place(cloud: dict[str, Any]) -> None:
    """The focus stays where it was, and a cloud that has stopped is named."""
    from playwright.sync_api import expect

    with page_in_chromium(cloud["page"]) as seen:
        page = seen.page
        for _ in range(3):
            page.keyboard.press("Tab")
        focused = "document.activeElement.getAttribute('href')"
        assert "/samples/" in page.evaluate(focused)
        post_job(cloud, cloud["group"], "third")
        expect(page.locator("article")).to_have_count(3, timeout=10_000)
        expect(page).to_have_title("Local cloud: 3 pending")
        assert "/samples/" in page.evaluate(focused)
        page.route("**/*", lambda route: route.abort())
        expect(page.locator("#stopped")).to_be_visible(timeout=10_000)
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        page.unroute_all()
        expect(page.locator("#stopped")).to_be_hidden(timeout=10_000)
