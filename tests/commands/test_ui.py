"""The live page: who may read it, what a hostile node can put into it, and how often the services are asked."""

import http.client
import io
import json
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.kelpie import Job
from flux_training.clients.results import CHANGED_CONFIG
from flux_training.clients.salad import Instance
from flux_training.commands.design.private_server import HEADERS
from flux_training.commands.ui.documents import MAX_CURVES, expected_usd, rows_with_curves, stack_document
from flux_training.commands.ui.live import DeployedStack, LiveStack
from flux_training.commands.ui.past_runs import list_runs
from flux_training.commands.ui.run_view import MAX_PROMPTS, MAX_STEPS, read_curves, read_image, read_run
from flux_training.commands.ui.server import MAX_STREAMS, UiServer
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.commands.watch.watcher import ClusterInfo, JobRow, StackStatus, Watcher
from flux_training.training.bill import show_dollars
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run import Layout, run_id
from flux_training.training.runs.run_state import RunState
from tests.commands.runs_folder import HOSTILE, make_run
from tests.support import pictures
from tests.support.browser import NEEDS_CHROMIUM, THEMES, page_in_chromium
from tests.support.hostile_buckets import as_storage, spoil_run
from tests.training.job_folders import TRAIN_YML

LAYOUT = Layout("p/")
CONFIG, MANIFEST = TRAIN_YML.format(name="cat", steps=20, save_every=10).encode(), b'{"images": {}}'
KEYS = LAYOUT.run("cat", run_id(MANIFEST, CONFIG))
SAMPLE = "1795392457384__000000010_0.jpg"
# Every address of the server.
PATHS = (
    *("", "ui.js", "shared.js", "ui.css", "icon.svg", "events", "losses", "past", "offers"),
    *(f"run/cat/{KEYS.run}", f"image/cat/{KEYS.run}/{SAMPLE}", "log/cat"),
)


def row(name: str = "cat", state: RunState = RunState.RUNNING, step: int = 3, problem: str = "") -> JobRow:
    progress = RunProgress(state="training", step=step, loss=0.5, eta_seconds=1800, gpu_seconds=3600)
    job = StackJob(name, KEYS.run, "j", 20, LAYOUT.run(name, KEYS.run))
    return JobRow(JobStatus(job, state, progress=progress, queue_job=Job(id="j", container_group_id="g", status="running")),
                  0.4, 0.4, "machine", "", problem)  # fmt: skip


def jpeg(width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 20, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def sound_run() -> dict[str, bytes]:
    return {
        KEYS.progress: b'{"state": "training", "step": 10, "steps": 20, "loss_first": 0.9, "loss_smoothed": 0.5, "restarts": 1}',
        KEYS.record: b'{"created_at": "2026-11-23T00:00:00Z", "estimate": {"usd": 0.3}}',
        f"{KEYS.output}loss.csv": b"step,loss\n1,1.0\n2,0.5\n",
        f"{KEYS.config}train.yml": CONFIG,
        f"{KEYS.config}manifest.json": MANIFEST,
        f"{KEYS.output}samples/{SAMPLE}": jpeg(),
        f"{KEYS.output}samples/notes.txt": b"not a sample",
    }


class CountedWatcher:
    """In place of a Watcher: each read waits for a permit of the test and makes one step."""

    local = True
    clusters: Mapping[str, ClusterInfo] = {}

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.storage = as_storage(objects)
        self.jobs = [row().status.job]
        self.names = ["cat"]
        self.reads = 0
        self.permits = threading.Semaphore(0)
        self.problem = ""

    def read(self) -> StackStatus:
        self.permits.acquire()
        self.reads += 1
        if self.problem == "down":
            raise ServiceError("Kelpie does not answer")
        return StackStatus([row(name, step=self.reads, problem=self.problem) for name in self.names])


def deployed_with(watcher: CountedWatcher) -> DeployedStack:
    return DeployedStack(cast(Watcher, watcher), cast(Connection, SimpleNamespace(cloud="local")), LAYOUT)


def offers_of(watcher: CountedWatcher) -> dict[str, Any]:
    if watcher.problem == "down":
        raise ServiceError("SaladCloud does not answer")
    rows = [("RTX 5090", "0.450", "3", "2.0 h", "$0.90"), (HOSTILE, "-", "-", "-", "unknown")]
    clusters = [{"heading": "RTX 5090 at priority high", "rows": rows}]
    return {"columns": ("GPU class", "$/hour", "Free", "Time", "Dollars"), "clusters": clusters, "note": "*"}


def live_with(watcher: CountedWatcher) -> LiveStack:
    return LiveStack("dev", lambda: deployed_with(watcher))


@contextmanager
def serving(watcher: CountedWatcher) -> Iterator[UiServer]:
    live = live_with(watcher)
    with UiServer(live, lambda: offers_of(watcher)) as server:
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,)),
            threading.Thread(target=live.run),
        ]
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            live.close()
            watcher.permits.release()
            server.shutdown()
            for thread in threads:
                thread.join(10)


@pytest.fixture
def watcher() -> CountedWatcher:
    return CountedWatcher(sound_run())


@pytest.fixture
def server(watcher: CountedWatcher) -> Iterator[UiServer]:
    """One survey has been made."""
    watcher.permits.release()
    with serving(watcher) as made:
        made.live.read()
        yield made


def ask(
    server: UiServer, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{server.server_port}"} | dict(headers or {})).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_another_site_cannot_read(server: UiServer, headers: dict[str, str], path: str) -> None:
    """DNS rebinding sends a foreign Host, a script of another site its Origin."""
    status, body, _ = ask(server, f"/{server.token}/{path}", headers=headers)
    assert (status, b"cat" in body) == (403, False)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/x/",
        "/x/events",
        "/TOKEN",
        "/TOKEN/ui.py",
        "/TOKEN/../server.py",
        "/TOKEN/run/cat",
        "/TOKEN/run/cat/..",
        f"/TOKEN/run/..%2fdog/{KEYS.run}",
        f"/TOKEN/run/cat/{KEYS.run}/x",
        f"/TOKEN/image/cat/{KEYS.run}/notes.txt",
        f"/TOKEN/image/cat/{KEYS.run}/..%2f..%2frun.json",
        f"/TOKEN/image/cat/{KEYS.run}/{SAMPLE}/x",
        "/TOKEN/log/dog",
    ],
)
def test_nothing_else_can_be_read(server: UiServer, path: str) -> None:
    assert ask(server, path.replace("TOKEN", server.token))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_page_only_reads(server: UiServer, method: str) -> None:
    assert ask(server, f"/{server.token}/", method)[0] == 501


def test_every_answer_has_the_security_headers(server: UiServer) -> None:
    kept = HEADERS.items() - {("Cache-Control", "no-store")}
    for path in (*(set(PATHS) - {"events", "log/cat"}), "nothing"):
        _, _, headers = ask(server, f"/{server.token}/{path}")
        assert kept <= headers.items(), path


def test_a_sample_is_encoded_again(server: UiServer) -> None:
    """No byte that a node wrote reaches the browser."""
    status, body, headers = ask(server, f"/{server.token}/image/cat/{KEYS.run}/{SAMPLE}")
    assert (status, headers["Content-Type"], body[8:12]) == (200, "image/webp", b"WEBP")


@pytest.mark.parametrize(
    "data", [b"", b"<script>alert(1)</script>", b"\xff\xd8\xff\xe0JFIF", jpeg(5000, 4000)]
)
def test_what_is_no_usual_image_is_not_served(data: bytes) -> None:
    assert read_image(as_storage({f"{KEYS.output}samples/{SAMPLE}": data}), KEYS, SAMPLE) is None


def test_a_run_is_read_from_the_bucket() -> None:
    found = read_run(as_storage(sound_run()), KEYS, "dev")
    assert found["prompts"][0] == {"prompt": "a photo of tr1gger", "samples": [{"step": 10, "name": SAMPLE}]}
    assert dict(found["figures"]) == {
        "Steps": "10 of 20",
        "Loss": "0.9000 → 0.5000",
        "GPU time": "",
        "Restarts": "1",
    }
    assert dict(found["times"])["Cost estimated before"] == "$0.30"
    assert (len(found["curve"]["points"]), found["findings"]) == (2, [])


def test_a_small_estimate_is_not_shown_as_zero() -> None:
    record = {KEYS.record: b'{"created_at": "2026-11-23T00:00:00Z", "estimate": {"usd": 0.004}}'}
    found = read_run(as_storage(sound_run() | record), KEYS, "dev")
    assert dict(found["times"])["Cost estimated before"] == "$0.0040"


def test_the_losses_of_all_jobs_are_read_once_each() -> None:
    """Of spoiled losses, only the readable lines count."""
    dog = LAYOUT.run("dog", KEYS.run)
    objects = sound_run() | {f"{dog.output}loss.csv": b"step,loss\n1,nan\n<b>,1\n3,0.25\n"}
    waiting = LAYOUT.run("fox", KEYS.run)
    curves = read_curves(as_storage(objects), [dog, KEYS, waiting])
    assert [(curve["label"], curve["points"]) for curve in curves] == [
        ("dog", [(3, 0.25)]),
        ("cat", [(1, 1.0), (2, 0.5)]),
    ]


def test_running_jobs_come_first_into_the_chart_of_losses() -> None:
    states = [RunState.STALLED, RunState.RUNNING] * MAX_CURVES
    rows = [row("waiting", RunState.PENDING, step=0)]
    rows += [row(f"job-{number}", state) for number, state in enumerate(states)]
    shown, left_out = rows_with_curves(rows)
    assert [one.name for one in shown] == [f"job-{number}" for number in range(1, 2 * MAX_CURVES, 2)]
    assert left_out == MAX_CURVES


def test_prompts_of_another_train_yml_are_not_shown() -> None:
    other = {f"{KEYS.config}train.yml": CONFIG.replace(b"a photo of", b"send money to")}
    found = read_run(as_storage(sound_run() | other), KEYS, "dev")
    assert found["prompts"][0]["prompt"] == "prompt 1"
    assert found["findings"] == [CHANGED_CONFIG]


def test_a_hostile_run_stays_small_and_readable() -> None:
    for seed in range(60):
        objects = sound_run()
        spoil_run(random.Random(seed), objects, KEYS)
        text = json.dumps(read_run(as_storage(objects), KEYS, "dev"), allow_nan=False)
        assert len(text) < 200_000, f"seed {seed}"


def test_a_flood_of_samples_is_thinned_out() -> None:
    names = (f"1__{step:09}_{prompt}.jpg" for step in range(100) for prompt in range(60))
    objects = {f"{KEYS.output}samples/{name}": b"x" for name in names}
    prompts = read_run(as_storage(objects), KEYS, "dev")["prompts"]
    assert (len(prompts), max(len(one["samples"]) for one in prompts)) == (MAX_PROMPTS, MAX_STEPS)


@pytest.mark.parametrize(
    ("state", "expected"), [(RunState.RUNNING, 0.6), (RunState.STALLED, 0.4)], ids=["running", "ended"]
)
def test_the_expected_cost_includes_the_time_left(state: RunState, expected: float) -> None:
    assert expected_usd(row(state=state)) == pytest.approx(expected)


def test_the_document_names_the_next_step_when_nothing_is_deployed() -> None:
    assert "`make up`" in stack_document("dev", None, {}, True, "")["note"]


def test_a_cloud_that_moved_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `make down` and `make cloud` it may listen on other ports."""
    monkeypatch.setattr("flux_training.commands.ui.live.OUTPUTS_SECONDS", 0)
    before, after = CountedWatcher({}), CountedWatcher({})
    before.problem = "down"
    found = iter([before, after])
    live = LiveStack("dev", lambda: deployed_with(next(found)))
    for watcher in (before, after):
        watcher.permits.release()
        live.read()
    assert (before.reads, after.reads, live.status is not None) == (1, 1, True)


def test_the_document_counts_the_nodes_of_each_cluster() -> None:
    nodes = {
        name: Instance(id=name, state=state)
        for name, state in (("a", "running"), ("b", "running"), ("c", "creating"))
    }
    document = stack_document("dev", StackStatus([row()]), {"group": ClusterInfo(nodes, 0.25)}, False, "")
    assert document["clusters"] == [
        {"name": "group", "nodes": {"running": 2, "creating": 1}, "usd_an_hour": 0.25}
    ]


def events(server: UiServer) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", f"/{server.token}/events", headers={"Host": f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream"
    try:
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))
    finally:
        answer.close()
        connection.close()


def test_all_open_pages_share_one_survey(watcher: CountedWatcher) -> None:
    """As many requests as one `flux status --watch`, however many pages are open."""
    with serving(watcher) as server:
        streams = [events(server) for _ in range(3)]
        readers = [threading.Thread(target=next, args=(stream,)) for stream in streams]
        for reader in readers:
            reader.start()
        watcher.permits.release()
        for reader in readers:
            reader.join(10)
        for step in (2, 3):
            watcher.permits.release()
            assert [next(stream)["jobs"][0]["step"] for stream in streams] == [step] * 3
        assert watcher.reads == 3


def test_closed_pages_make_room_for_others(server: UiServer) -> None:
    """Reloading often must not end in "the page is open 20 times"."""
    for _ in range(MAX_STREAMS):
        next(open_page := events(server))
        open_page.close()
    for _ in range(MAX_STREAMS):
        assert server.streams.acquire(timeout=10)


def test_offers_are_asked_for_when_the_page_is_opened(watcher: CountedWatcher, server: UiServer) -> None:
    status, body, _ = ask(server, f"/{server.token}/offers")
    assert (status, json.loads(body)["clusters"][0]["rows"][0][0]) == (200, "RTX 5090")
    watcher.problem = "down"
    assert ask(server, f"/{server.token}/offers")[:2] == (502, b"SaladCloud does not answer\n")


def test_a_service_that_does_not_answer_is_named_and_the_jobs_stay(watcher: CountedWatcher) -> None:
    live = live_with(watcher)
    watcher.permits.release(2)
    live.read()
    watcher.problem = "down"
    live.read()
    newest = live.newer(0, 0)
    assert newest is not None
    assert (newest[1]["error"], newest[1]["jobs"][0]["step"]) == ("Kelpie does not answer", 1)


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("dark", "phone"), THEMES)
def test_the_pages_are_accessible_and_inert(dark: bool, phone: bool) -> None:
    """With texts of a hostile node in every place that shows one."""
    from playwright.sync_api import expect

    objects = sound_run()
    objects[KEYS.progress] = json.dumps(
        {"state": HOSTILE, "message": HOSTILE, "gpu": HOSTILE, "step": HOSTILE}
    ).encode()
    watcher = CountedWatcher(objects)
    watcher.problem = HOSTILE
    watcher.permits.release()
    with serving(watcher) as server, page_in_chromium(server.address, dark, phone, "load") as seen:
        page = seen.page
        expect(page.locator("#job-cat .alarm")).to_have_text(HOSTILE)
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        page.locator("#job-cat a").press("Enter")
        expect(page.locator("#message")).to_have_text(HOSTILE)
        expect(page.locator("#findings")).to_contain_text("step is not valid")
        expect(page.locator("#samples img").first).to_be_visible()
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        page.get_by_role("link", name="Losses").press("Enter")
        expect(page.locator(".legend")).to_have_text("cat")
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        page.get_by_role("link", name="GPU classes").press("Enter")
        expect(page.locator("tbody th").last).to_have_text(HOSTILE)
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        assert page.locator("script").count() == 2
    assert seen.console_errors == []
    assert seen.hosts == {f"127.0.0.1:{server.server_port}"}


@NEEDS_CHROMIUM
def test_the_page_is_live_only_after_the_first_answer(watcher: CountedWatcher) -> None:
    from playwright.sync_api import expect

    with serving(watcher) as server, page_in_chromium(server.address, wait_until="load") as seen:
        page = seen.page
        # Not wait_for_function, which the page's Content-Security-Policy refuses.
        page.evaluate(
            "new Promise((done) => { const look = () => (received.isConnected ? done() : setTimeout(look, 20)); look(); })"
        )
        expect(page.locator("#connection")).to_have_text("loading …")
        expect(page.locator("#main")).to_have_text("Loading …")
        watcher.permits.release()
        expect(page.locator("#job-cat")).to_be_visible()
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#main")).not_to_contain_text("Loading …")
        amounts = page.evaluate("[null, 0, 0.004, 0.0949, 0.095, 1.5].map(dollars)")
        assert amounts == ["", *map(show_dollars, (0, 0.004, 0.0949, 0.095, 1.5))]
    assert seen.console_errors == []


@NEEDS_CHROMIUM
@pytest.mark.parametrize("name", ["offers", "past"])
def test_a_phone_shows_all_columns(
    watcher: CountedWatcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    from playwright.sync_api import expect

    monkeypatch.chdir(tmp_path)
    watcher.permits.release()
    with (
        serving(watcher) as server,
        page_in_chromium(f"{server.address}#{name}", phone=True, wait_until="load") as seen,
    ):
        box = seen.page.locator(".scroll")
        expect(box).to_be_visible()
        assert box.evaluate("box => box.scrollWidth - box.clientWidth") == 0
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
    assert seen.console_errors == []


@pytest.mark.long
@NEEDS_CHROMIUM
def test_many_tabs_share_one_stream(watcher: CountedWatcher) -> None:
    """A browser has six connections to a server at most."""
    from playwright.sync_api import expect

    watcher.permits.release()
    with serving(watcher) as server, page_in_chromium(server.address, wait_until="load") as seen:
        tabs = [seen.page, *(seen.page.context.new_page() for _ in range(7))]
        for tab in tabs[1:]:
            tab.goto(server.address)
        for step in (1, 2, 3):
            for tab in tabs:
                expect(tab.locator("#job-cat .numbers")).to_contain_text(f"step {step} of")
                expect(tab.locator("#connection")).to_have_text("live")
            if step == 2:
                # The first tab holds the stream; another one has to take over.
                tabs.pop(0).close()
            watcher.permits.release()
        taken = [server.streams.acquire(blocking=False) for _ in range(MAX_STREAMS)]
        assert taken.count(True) == MAX_STREAMS - 1
    assert seen.console_errors == []


@pytest.mark.long
@NEEDS_CHROMIUM
def test_the_losses_of_all_jobs_follow_the_training(watcher: CountedWatcher) -> None:
    from playwright.sync_api import expect

    watcher.permits.release()
    with serving(watcher) as server, page_in_chromium(f"{server.address}#losses", wait_until="load") as seen:
        chart = seen.page.get_by_role("slider", name="Loss by step")
        expect(chart).to_have_attribute("aria-valuemax", "2")
        chart.focus()
        watcher.objects[f"{KEYS.output}loss.csv"] += b"3,0.4\n"
        watcher.permits.release()
        expect(chart).to_have_attribute("aria-valuemax", "3", timeout=30_000)
        expect(chart).to_be_focused()
        color = seen.page.locator(".legend li", has_text="cat").locator("line").get_attribute("class")
        # A job that is declared before starts to train.
        watcher.objects[f"{LAYOUT.run('bear', KEYS.run).output}loss.csv"] = b"step,loss\n1,1.0\n"
        watcher.names.insert(0, "bear")
        watcher.permits.release()
        expect(seen.page.locator(".legend li")).to_have_text(["bear", "cat"], timeout=30_000)
        lines = [entry.locator("line") for entry in seen.page.locator(".legend li").all()]
        expect(lines[1]).to_have_class(color)
        expect(lines[0]).not_to_have_class(color)
        expect(seen.page.locator("polyline.smooth").last).to_have_class(color)
    assert seen.console_errors == []


def test_past_runs_are_listed_newest_first(tmp_path: Path) -> None:
    """Those that were fetched have a date; a node's other folders are left out."""
    outputs = tmp_path / "outputs"
    make_run(outputs, run_id="a" * 12, created="2026-11-20T08:00:00+00:00")
    make_run(outputs, run_id="b" * 12, created="2026-11-21T08:00:00+00:00", state=HOSTILE)
    runs = [
        "cat/" + "a" * 12,
        "cat/" + "b" * 12,
        "dog/" + "c" * 12,
        "cat/..",
        "<b>/" + "d" * 12,
        "cat/x" + "e" * 12,
    ]
    found = list_runs(as_storage({f"p/runs/{run}/output/run.json": b"{}" for run in runs}), LAYOUT, outputs)
    assert [(run["run_id"][0], run["created"], run["fetched"]) for run in found] == [
        ("b", "2026-11-21 08:00", True),
        ("a", "2026-11-20 08:00", True),
        ("c", "", False),
    ]
    assert (found[1]["state"], found[1]["loss"], found[1]["spent_usd"]) == ("completed", 0.05, 0.4275)


@NEEDS_CHROMIUM
def test_a_thousand_past_runs_can_be_filtered_and_opened(
    watcher: CountedWatcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    monkeypatch.chdir(tmp_path)
    watcher.objects |= {
        f"p/runs/job-{number % 12}/{number:012x}/output/run.json": b"{}" for number in range(1000)
    }
    watcher.permits.release()
    with serving(watcher) as server, page_in_chromium(f"{server.address}#past", wait_until="load") as seen:
        rows = seen.page.locator("tbody tr")
        expect(seen.page.get_by_role("status").last).to_have_text("1001 of 1001 runs")
        expect(rows).to_have_count(100)
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        for count in (600, 1001):
            seen.page.get_by_role("button", name="Show 500 more").press("Enter")
            expect(rows).to_have_count(count)
        expect(seen.page.get_by_role("button", name="Show 500 more")).to_be_hidden()
        seen.page.get_by_label("Job, run or state").fill("job-11")
        expect(seen.page.get_by_role("status").last).to_have_text("83 of 1001 runs")
        expect(rows).to_have_count(83)
        seen.page.locator("tbody tr a").first.click()
        expect(seen.page.locator("h1")).to_have_text("job-11")
        expect(seen.page.locator("#samples")).to_have_text("There are no samples yet.")
    assert seen.console_errors == []


def test_pictures_of_a_stack_that_cannot_be_served_end_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pictures.served_stack():
            """Not reached."""

    monkeypatch.setattr(pictures, "ensure_local_cloud", lambda: None)
    monkeypatch.setattr(pictures, "make_pictures", fail)
    with pytest.raises(
        SystemExit, match=r"^error: `./flux ui` ended at once, .* `make up` deploys the stack$"
    ):
        pictures.main()
