"""The report: its content, that untrusted text cannot become markup, and accessibility in a browser."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from flux_training.commands.report.chart import chart_curve, chart_marks
from flux_training.commands.report.command import report, write_comparison, write_report
from flux_training.commands.report.inline_images import embed_image
from flux_training.commands.report.page import compare_page, run_page
from flux_training.commands.report.runs import (
    ReportedRun,
    fetched_runs,
    find_images,
    newest_runs,
    run_to_compare_with,
)
from flux_training.commands.report.times import cost_parts, describe_restarts
from flux_training.training.errors import BadInput
from flux_training.training.runs.loss_curve import Point
from flux_training.training.runs.progress import RunProgress
from tests.commands.runs_folder import HOSTILE, make_run, write_json
from tests.support.browser import NEEDS_CHROMIUM, THEMES, page_in_chromium
from tests.support.flux import STACK_FILE, make_checkout
from tests.support.photos import DAMAGED_EXIF
from tests.training.job_folders import TRAIN_YML


class ParsedPage(HTMLParser):
    """Every element with its attributes, and every text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, outputs: Path) -> str:
    run = ReportedRun(folder.parent.name, folder.name, folder)
    return run_page(run, outputs, outputs.parent / "jobs")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_a_page_shows_the_facts_of_the_run(outputs: Path) -> None:
    elements = ParsedPage(page_of(make_run(outputs), outputs))
    for words in (
        "a photo of tr1gger",
        "step 20",
        "1.0000 → 0.0500",
        "20 of 20",
        "57 min",
        "$0.43",
        "tr1gger, a cat",
        "Waited for a node",
        "3 min",
        "0" * 64,
        "seed 42",
    ):
        assert words in elements.text
    pictures = [attributes for tag, attributes in elements.found if tag == "img" and attributes.get("src")]
    assert len(pictures) == 7
    assert all(attributes["alt"] for attributes in pictures)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("{name_or_path: /model, is_flux: true}", "LoRA of FLUX.1-dev (FLUX Non-Commercial License)"),
        ("{name_or_path: Qwen/Qwen-Image, arch: qwen_image}", "LoRA of Qwen-Image (Apache-2.0)"),
        ("{name_or_path: me/mine, arch: flux}", "LoRA of mine, trigger"),
        ("{name_or_path: <b>, arch: 7}", "LoRA of <b>"),
        ("3", "LoRA of an unknown model"),
    ],
)
def test_a_page_names_the_model_and_its_licence(outputs: Path, model: str, shown: str) -> None:
    folder = make_run(outputs)
    config = yaml.safe_load((folder / "train.yml").read_text())
    config["config"]["process"][0]["model"] = yaml.safe_load(model)
    (folder / "train.yml").write_text(yaml.safe_dump(config))
    assert shown in ParsedPage(page_of(folder, outputs)).text


@pytest.mark.parametrize(
    ("held", "shown"),
    [
        ("Qwen/Qwen-Image", "LoRA of Qwen-Image (Apache-2.0)"),
        ("", "LoRA of the image's own weights, trigger"),
    ],
)
def test_a_page_names_the_weights_that_the_image_held(outputs: Path, held: str, shown: str) -> None:
    folder = make_run(outputs)
    config = yaml.safe_load((folder / "train.yml").read_text())
    config["config"]["process"][0]["model"] = {"name_or_path": "/model", "arch": "qwen_image"}
    (folder / "train.yml").write_text(yaml.safe_dump(config))
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**record, "weights_in_image": held})
    assert shown in ParsedPage(page_of(folder, outputs)).text


@pytest.mark.parametrize("stand_in", [True, False])
def test_a_page_says_that_the_stand_in_trained(outputs: Path, stand_in: bool) -> None:
    folder = make_run(outputs)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**record, "stand_in": stand_in})
    text = ParsedPage(page_of(folder, outputs)).text
    for words in ("stand-in of the local cloud", "$0.43 at example prices", "an hour (an example)"):
        assert (words in text) is stand_in


@pytest.mark.parametrize("stand_in", [True, False])
def test_a_page_shows_paid_time_without_training_by_cause(outputs: Path, stand_in: bool) -> None:
    folder = make_run(outputs)
    record = json.loads((folder / "run.json").read_text())
    progress = json.loads((folder / "progress.json").read_text())
    write_json(folder / "run.json", {**record, "stand_in": stand_in, "estimate": {"idle_seconds": 450.0}})
    times = {"gpu_seconds": 3000.0, "start_seconds": 60.0, "restarts": 0}
    write_json(folder / "progress.json", {**progress, **times, "state": "finished"})
    text = ParsedPage(page_of(folder, outputs)).text
    assert "idle after the last job (estimated), not included above" in text
    assert ("13% of the paid time is idle after the last job" in text) is not stand_in
    assert ", of which 8 min idle afterwards" in text


def test_a_page_counts_the_steps_that_taught_nothing(outputs: Path) -> None:
    folder = make_run(outputs)
    progress = json.loads((folder / "progress.json").read_text())
    assert "Faulty steps" not in ParsedPage(page_of(folder, outputs)).text
    write_json(folder / "progress.json", {**progress, "skipped_batches": 2, "nan_losses": 1})
    text = ParsedPage(page_of(folder, outputs)).text
    assert "2 steps skipped for lack of memory, 1 step without a loss (NaN)" in text


def test_a_page_shows_the_changes_since_the_previous_run(outputs: Path) -> None:
    make_run(outputs, run_id="a" * 12)
    second = make_run(
        outputs, run_id="b" * 12, created="2026-11-24T00:00:00+00:00", lr="2e-4", caption="other"
    )
    text = ParsedPage(page_of(second, outputs)).text
    for words in (
        "learning rate",
        "1e-4",
        "2e-4",
        "00001.jpg",
        "tr1gger, a cat",
        "the run before it, " + "a" * 12,
    ):
        assert words in text


def test_a_page_names_the_settings_in_which_jobs_on_the_same_images_differ(outputs: Path) -> None:
    folders = [make_run(outputs, "cat"), make_run(outputs, "cat-lr2e-4", lr="2e-4"), make_run(outputs, "dog")]
    for folder, dataset in zip(folders, ("a" * 64, "a" * 64, "b" * 64), strict=True):
        record = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**record, "dataset": dataset})
    pages = [ParsedPage(page_of(folder, outputs)).text for folder in folders]
    words = "Differs from other jobs on the same images: learning rate"
    assert [f"{words} {rate}" in page for page, rate in zip(pages, ("1e-4", "2e-4", ""), strict=True)] == [
        True,
        True,
        False,
    ]


def test_a_resumed_run_is_compared_with_its_parent(outputs: Path) -> None:
    make_run(outputs, run_id="a" * 12)
    make_run(outputs, run_id="b" * 12, created="2026-11-24T00:00:00+00:00")
    child = make_run(outputs, run_id="c" * 12, created="2026-11-25T00:00:00+00:00", parent="a" * 12)
    parent, called = run_to_compare_with(ReportedRun("cat", "c" * 12, child), outputs)
    assert (parent and parent.run_id, called) == ("a" * 12, "its parent run " + "a" * 12)
    orphan = make_run(outputs, run_id="d" * 12, parent="e" * 12)
    assert "flux fetch cat --run " + "e" * 12 in ParsedPage(page_of(orphan, outputs)).text


def test_untrusted_text_does_not_become_markup(outputs: Path) -> None:
    folder = make_run(outputs, caption=HOSTILE, message=HOSTILE, state=HOSTILE)
    config = (folder / "train.yml").read_text().replace('"a photo of [trigger]"', json.dumps(HOSTILE))
    (folder / "train.yml").write_text(config.replace('"tr1gger"', json.dumps(HOSTILE)))
    record = json.loads((folder / "run.json").read_text())
    record["kelpie"]["machine_id"] = HOSTILE
    write_json(folder / "run.json", {**record, "attempt": HOSTILE})
    write_json(folder / "done.json", {"sha256": HOSTILE, "size": HOSTILE})
    (folder / "samples" / f"{HOSTILE.replace('/', '_')}.jpg").write_bytes(b"x")
    page = page_of(folder, outputs)
    elements = ParsedPage(page)
    assert HOSTILE in elements.text
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert all(
        not name.startswith("on") and not str(value).startswith(("http", "javascript:"))
        for _, attributes in elements.found
        for name, value in attributes.items()
    )
    assert "49" not in re.sub(r"data:[^\"]*|\d{3,}", "", elements.text)


def test_the_content_security_policy_allows_only_the_inline_style_and_script(outputs: Path) -> None:
    page = page_of(make_run(outputs), outputs)
    metas = [attributes for tag, attributes in ParsedPage(page).found if tag == "meta"]
    policy = str(metas[1]["content"])
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert (len(inline), f"'sha256-{digest}'" in policy) == (1, True)


@pytest.mark.parametrize(
    "missing", ["run.json", "progress.json", "loss.csv", "train.yml", "manifest.json", "done.json"]
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00{", b"[1]", b"{" * 3000])
def test_missing_and_invalid_files_are_tolerated(outputs: Path, missing: str, content: bytes | None) -> None:
    folder = make_run(outputs)
    if content is None:
        (folder / missing).unlink()
    else:
        (folder / missing).write_bytes(content)
    assert "<h1>cat" in page_of(folder, outputs)


def test_an_unreadable_sample_leaves_a_gap(outputs: Path) -> None:
    folder = make_run(outputs)
    next(folder.glob("samples/*_0.jpg")).write_bytes(b"<svg onload=alert(1)>")
    assert "no image" in ParsedPage(page_of(folder, outputs)).text


def test_an_image_is_encoded_again_and_reduced(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (900, 300)).save(path, comment=b"<script>")
    path.write_bytes(path.read_bytes() + b"<script>alert(1)</script>")
    picture = embed_image(path, 300)
    assert picture is not None
    raw = base64.b64decode(picture.uri.partition(",")[2])
    assert (picture.width, picture.height, b"script" in raw) == (300, 100, False)
    assert embed_image(tmp_path / "none.jpg", 300) is None
    Image.new("RGB", (90, 60)).save(tmp_path / "damaged.png", exif=DAMAGED_EXIF)
    assert embed_image(tmp_path / "damaged.png", 300) is None


def test_only_images_with_the_trained_bytes_are_shown(outputs: Path) -> None:
    folder = make_run(outputs)
    run = ReportedRun("cat", folder.name, folder)
    jobs = outputs.parent / "jobs"
    assert list(find_images(run, jobs)) == ["00001.jpg"]
    # Also when it lies with another job now: `dataset: <job>`.
    (jobs / "cat").rename(jobs / "dog")
    assert find_images(run, jobs)["00001.jpg"].parts[-3] == "dog"
    with (jobs / "dog/dataset/00001.jpg").open("ab") as file:
        file.write(b"x")
    assert find_images(run, jobs) == {}


def test_a_video_shows_its_first_frame_if_ffmpeg_is_installed(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, clip = make_run(outputs, "cat", "d" * 12), tmp_path / "jobs/cat/dataset/turn.mp4"
    shutil.copy(Path(__file__).resolve().parents[1] / "support/clip.mp4", clip)
    raw = clip.read_bytes()
    entry = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "caption": "a cat turns"}
    write_json(folder / "manifest.json", {"version": 1, "images": {"turn.mp4": entry}})
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    run = ReportedRun("cat", "d" * 12, folder)
    assert "Install ffmpeg to see its first frame" in run_page(run, outputs, tmp_path / "jobs")
    # A stand-in: ffmpeg is no part of the development environment.
    Image.new("RGB", (64, 48), "red").save(tmp_path / "frame.jpg")
    (programs / "ffmpeg").write_text(f"#!/bin/sh\n/bin/cat {tmp_path / 'frame.jpg'}\n")
    (programs / "ffmpeg").chmod(0o755)
    page = run_page(run, outputs, tmp_path / "jobs")
    assert "Install ffmpeg" not in page
    assert 'width="64" height="48" alt="turn.mp4"' in page


def test_a_comparison_shows_what_differs(outputs: Path) -> None:
    folders = [
        make_run(outputs, job, lr=lr) for job, lr in (("cat", "1e-4"), ("dog", "2e-4"), ("owl", "4e-4"))
    ]
    runs = [ReportedRun(folder.parent.name, folder.name, folder) for folder in folders]
    text = ParsedPage(compare_page(runs)).text
    for words in ("3 runs side by side", "learning rate", "1e-4", "2e-4", "4e-4", "owl, step 20"):
        assert words in text
    assert "train.steps" not in text
    # Jobs always differ in their names.
    assert "config.name" not in text


def test_a_comparison_is_summed_up_in_the_terminal_and_says_what_it_replaces(outputs: Path) -> None:
    for job, lr, loss in (("cat", "1e-4", 0.3), ("dog", "2e-4", None)):
        write_json(make_run(outputs, job, lr=lr) / "progress.json", {"step": 20, "loss_smoothed": loss})
    command = ["--from", str(outputs), "--compare"]
    first, again = CliRunner().invoke(report, command), CliRunner().invoke(report, command)
    _, cat, dog, said, page = first.stdout.splitlines()
    assert (cat.split(), dog.split()) == (
        ["cat", "learning", "rate", "1e-4", "0.3000"],
        ["dog", "learning", "rate", "2e-4", "-"],
    )
    assert (said, page) == ("Samples and losses side by side:", str(outputs / "compare.html"))
    assert (
        again.stdout.splitlines()[-2]
        == "Samples and losses side by side, in place of the earlier comparison:"
    )


def test_the_page_of_a_comparison_can_be_written_elsewhere(outputs: Path, tmp_path: Path) -> None:
    make_run(outputs)
    make_run(outputs, "dog")
    page = tmp_path / "new folder/both.html"
    done = CliRunner().invoke(report, ["--from", str(outputs), "--compare", "--to", str(page)])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, str(page))
    assert "2 runs side by side" in page.read_text(encoding="utf-8")
    refused = CliRunner().invoke(report, ["--from", str(outputs), "--to", str(page)])
    assert (refused.exit_code, "--to FILE needs --compare" in refused.output) == (2, True)
    refused = CliRunner().invoke(report, ["--from", str(outputs), "--compare", "--all-runs"])
    assert (refused.exit_code, "compares all its runs" in refused.output) == (2, True)


@NEEDS_CHROMIUM
def test_a_comparison_is_sorted_and_shows_all_runs_at_one_step(outputs: Path) -> None:
    for job, loss in (("cat", 0.3), ("dog", None), ("owl", 0.1)):
        folder = make_run(outputs, job)
        write_json(folder / "progress.json", {"step": 20, "loss_smoothed": loss})
    for sample in (outputs / "owl" / ("a" * 12) / "samples").glob("*__000000000_*"):
        sample.unlink()
    page = write_comparison(newest_runs(outputs, (), "dev"), outputs / "compare.html")
    with page_in_chromium(page.as_uri()) as seen:
        heads, shown = (
            seen.page.locator("thead th"),
            seen.page.locator(".cell").locator("p:visible, figcaption:visible"),
        )
        assert [name.strip() for name in heads.all_inner_texts()] == ["cat", "dog", "owl"]
        seen.page.get_by_label("Sort by").select_option("loss")
        assert [name.strip() for name in heads.all_inner_texts()] == ["owl", "cat", "dog"]
        assert shown.all_inner_texts()[:3] == ["owl, step 20", "cat, step 20", "dog, step 20"]
        seen.page.locator("#step").focus()
        seen.page.keyboard.press("Home")
        assert shown.all_inner_texts()[:3] == ["owl", "cat, step 0", "dog, step 0"]
        assert seen.console_errors == []


def test_a_job_without_runs_is_reported_with_the_nearest_name(outputs: Path) -> None:
    make_run(outputs)
    with pytest.raises(BadInput, match="did you mean `cat`"):
        newest_runs(outputs, ("cats",), "prod")
    assert [run.run_id for run in fetched_runs(outputs, "cat")] == ["a" * 12]


def test_commands_on_a_page_name_the_stack(outputs: Path) -> None:
    folder = make_run(outputs, "cat", parent="b" * 12)
    (folder / "manifest.json").unlink()
    page = run_page(ReportedRun("cat", folder.name, folder), outputs, outputs.parent / "jobs", "prod")
    copied = [attributes.get("data-copy") for _, attributes in ParsedPage(page).found]
    for command in (f"fetch cat --run {'b' * 12}", "fetch cat"):
        assert f"./flux {command} --stack prod" in copied


@pytest.mark.parametrize("runs", [1, 2])
def test_a_page_offers_a_comparison_only_if_there_is_another_run(outputs: Path, runs: int) -> None:
    folders = [make_run(outputs, run_id=name * 12) for name in "ab"[:runs]]
    assert ("report cat --compare" in page_of(folders[0], outputs)) == (runs == 2)


def test_a_comparison_shows_captions_that_differ(outputs: Path) -> None:
    folders = [make_run(outputs, run_id=name * 12) for name in "ab"]
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    manifest["images"]["00002.jpg"] = {"sha256": "2", "caption": "the same"}
    write_json(folders[0] / "manifest.json", manifest)
    manifest["images"]["00001.jpg"] |= {"caption": "a black cat"}
    write_json(folders[1] / "manifest.json", manifest)
    text = ParsedPage(compare_page(fetched_runs(outputs, "cat"))).text
    assert "Images and captions that differ" in text
    assert "a black cat" in text
    assert "the same" not in text
    shown = CliRunner().invoke(report, ["--from", str(outputs), "cat", "--compare"]).stdout
    assert "Different images or captions: 00001.jpg" in shown


def test_a_comparison_shows_all_losses_together(outputs: Path) -> None:
    make_run(outputs)
    other = make_run(outputs, run_id="b" * 12)
    progress = json.loads((other / "progress.json").read_text())
    write_json(other / "progress.json", {**progress, "loss_steps": 5, "nan_losses": 1})
    elements = ParsedPage(compare_page(fetched_runs(outputs, "cat"))).text
    first, second = (elements.index(f"Loss (mean of {steps} steps)") for steps in (2, 5))
    assert first < second < elements.index("20 of 20")


@pytest.mark.parametrize(
    ("save_every", "progress", "checkpoints", "restarts"),
    [
        (10, {"step": 20, "resumed": [10]}, [10, 20], [10]),
        (10, {"step": 9, "resumed": []}, [], []),
        (30, {"step": 100, "resumed": [60, 0, 60, 900]}, [30, 60, 90], [0, 60]),
        (10, {}, [], []),
    ],
)
def test_checkpoints_and_restarts_are_marked_on_the_curve(
    save_every: int, progress: dict[str, object], checkpoints: list[int], restarts: list[int]
) -> None:
    config = yaml.safe_load(TRAIN_YML.format(name="cat", steps=100, save_every=save_every))
    found = chart_marks(config, RunProgress.model_validate(progress))
    assert found == {"checkpoint": checkpoints, "restart": restarts}


def test_marks_of_a_hostile_run_are_few() -> None:
    config = yaml.safe_load(TRAIN_YML.format(name="cat", steps=100, save_every=1))
    found = chart_marks(config, RunProgress(step=10_000_000, resumed=list(range(100))))
    assert [len(steps) for steps in found.values()] == [59, 60]
    assert chart_marks({}, RunProgress(step=5000))["checkpoint"] == []


def test_the_cost_is_shown_by_component() -> None:
    progress = RunProgress(
        step=20, gpu_seconds=3420, start_seconds=300, seconds_per_step=120, download_seconds=90, restarts=1
    )
    assert [(part.name, part.time, part.cost) for part in cost_parts(progress, 0.45)] == [
        ("training", "40 min", "$0.30"),
        ("loading, caching, first samples", "5 min", "$0.0375"),
        ("starting again", "5 min", "$0.0375"),
        ("steps trained again", "7 min", "$0.0525"),
        ("GPU time", "57 min", "$0.43"),
        ("downloads of the last start, not included above", "2 min", "$0.0113"),
    ]
    assert [part.cost for part in cost_parts(RunProgress(gpu_seconds=60), None)] == ["", ""]
    short = cost_parts(RunProgress(gpu_seconds=34.4, start_seconds=2.7), None)
    assert [part.time for part in short] == ["31 s", "3 s", "34 s"]
    assert [describe_restarts(RunProgress(resumed=steps)) for steps in ([], [1250], [0, 500])] == [
        "",
        "from step 1,250",
        "from steps 0, 500",
    ]
    assert cost_parts(RunProgress(), 0.45) == []


@pytest.mark.parametrize("steps", [1, 3000, 3001, 100_000])
def test_a_long_curve_is_reduced_to_means(steps: int) -> None:
    curve = chart_curve("cat", [Point(step, step % 2) for step in range(1, steps + 1)])
    points = curve["points"]
    assert isinstance(points, list)
    assert (len(points) <= 3000, points[-1][0]) == (True, steps)
    assert sum(loss for _, loss in points) / len(points) == pytest.approx(0.5, abs=0.5 / steps + 0.001)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's page and a comparison, both with a hostile text in every place."""
    outputs = tmp_path_factory.mktemp("report") / "outputs"
    make_run(outputs)
    make_run(outputs, "dog", lr="3e-4")
    made = make_run(
        outputs,
        run_id="b" * 12,
        created="2026-11-24T00:00:00+00:00",
        lr="2e-4",
        caption=HOSTILE,
        message=HOSTILE,
    )
    run = ReportedRun("cat", "b" * 12, made)
    return {
        "run": write_report(run, outputs, outputs.parent / "jobs"),
        "compare": write_comparison(newest_runs(outputs, (), "dev"), outputs / "compare.html"),
    }


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("dark", "phone"), THEMES)
@pytest.mark.parametrize("name", ["run", "compare"])
def test_the_page_is_accessible_and_makes_no_requests(
    pages: dict[str, Path], name: str, dark: bool, phone: bool
) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe-core is not installed (requirements-dev.txt)")
    with page_in_chromium(pages[name].as_uri(), dark=dark, phone=phone) as seen:
        seen.page.locator(".shot:visible").first.click()
        assert seen.page.locator("dialog[open] img").evaluate("image => image.naturalWidth") > 0
        large = seen.page.locator("dialog figcaption").inner_text()
        seen.page.keyboard.press("ArrowRight")
        assert seen.page.locator("dialog figcaption").inner_text() != large
        assert seen.accessibility_violations() == []
        seen.page.keyboard.press("Escape")
        assert (seen.console_errors, seen.hosts, seen.overflows()) == ([], {""}, False)
        assert seen.accessibility_violations() == []


@NEEDS_CHROMIUM
def test_changes_fit_a_phone_and_wider_tables_show_that_they_scroll(pages: dict[str, Path]) -> None:
    with page_in_chromium(pages["run"].as_uri(), phone=True) as seen:
        tables = seen.page.locator(".scroll:has(.changes)")
        assert tables.count() == 2
        hidden = "boxes => boxes.map(box => box.scrollWidth - box.clientWidth)"
        assert tables.evaluate_all(hidden) == [0, 0]
        background = tables.first.evaluate("box => getComputedStyle(box).backgroundAttachment")
        assert background.startswith("local, local, scroll, scroll")


@NEEDS_CHROMIUM
def test_a_phone_shows_all_columns_below_each_other(pages: dict[str, Path]) -> None:
    for name in ("run", "compare"):
        with page_in_chromium(pages[name].as_uri(), phone=True) as seen:
            hidden = "boxes => boxes.map(box => box.scrollWidth - box.clientWidth)"
            found = seen.page.locator(".scroll").evaluate_all(hidden)
            assert found
            assert set(found) == {0}
            label = seen.page.locator("tbody td[data-label]").last
            assert label.evaluate("cell => getComputedStyle(cell, '::before').content") != "none"


@NEEDS_CHROMIUM
def test_keys_break_only_after_a_dot_or_an_underscore(outputs: Path) -> None:
    folders = [make_run(outputs, run_id=name * 12) for name in "abcdefgh"]
    for number, folder in enumerate(folders, 1):
        config = (folder / "train.yml").read_text().replace("save_every: 10", f"save_every: {number}")
        (folder / "train.yml").write_text(config)
    page = write_comparison(fetched_runs(outputs, "cat"), outputs / "compare.html")
    with page_in_chromium(page.as_uri()) as seen:
        key = seen.page.get_by_role("rowheader", name="save_every")
        assert key.inner_html() == "save.<wbr>save_<wbr>every"
        assert key.evaluate("cell => cell.scrollWidth <= cell.clientWidth")
        style = "cell => getComputedStyle(cell).overflowWrap"
        assert key.evaluate(style) == "break-word"


@NEEDS_CHROMIUM
def test_the_page_opens_at_the_last_step_beside_the_first(pages: dict[str, Path]) -> None:
    with page_in_chromium(pages["run"].as_uri()) as seen:
        first_row = seen.page.locator(".row").first
        shown = first_row.locator("figcaption:visible")
        assert shown.all_inner_texts() == ["step 0", "step 20"]
        seen.page.locator("#step").focus()
        seen.page.keyboard.press("ArrowLeft")
        assert shown.all_inner_texts() == ["step 0", "step 10"]
        assert seen.page.locator(".steps output").inner_text() == "step 10"
        seen.page.locator("#all-steps").check()
        assert shown.all_inner_texts() == ["step 0", "step 10", "step 20"]
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        seen.page.get_by_label("Copy the prompt").first.click()
        seen.page.get_by_text("Copied").wait_for()
        assert seen.page.evaluate("navigator.clipboard.readText()") == "a photo of tr1gger"
        assert seen.console_errors == []


@NEEDS_CHROMIUM
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_a_command_is_copied_with_the_keyboard(pages: dict[str, Path], has_clipboard: bool) -> None:
    """A page served over plain HTTP by another machine has no clipboard."""
    from playwright.sync_api import expect

    with page_in_chromium(pages["run"].as_uri()) as seen:
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if not has_clipboard:
            seen.page.evaluate("navigator.clipboard.writeText = undefined")
        command = seen.page.get_by_label("Copy the command").first
        command.focus()
        seen.page.keyboard.press("Enter")
        expect(command).to_have_text("Copied")
        copied = seen.page.evaluate("navigator.clipboard.readText()")
        assert copied == f"./flux fetch cat --run {'b' * 12} --checkpoints"
        assert command.evaluate("button => button === document.activeElement")
        assert seen.console_errors == []


@NEEDS_CHROMIUM
def test_the_loss_can_be_read_smoothed_and_shown_on_a_logarithmic_axis(pages: dict[str, Path]) -> None:
    with page_in_chromium(pages["run"].as_uri()) as seen:
        chart, reading = seen.page.locator("svg.chart"), seen.page.locator(".reading")
        assert reading.inner_text().startswith("Step 20: loss (mean of 2 steps) 0.0500;")
        assert reading.inner_text().endswith("; checkpoint of step 20")
        chart.focus()
        seen.page.keyboard.press("Home")
        assert reading.inner_text().startswith("Step 1: loss 1, smoothed 0.75")
        chart.hover()
        assert reading.inner_text().startswith("Step 10: loss 0.1, ")
        assert reading.inner_text().endswith("; checkpoint of step 10; restarted from step 10")
        assert [chart.locator(f".{kind}").count() for kind in ("checkpoint", "restart")] == [2, 1]
        linear = chart.locator("polyline.smooth").get_attribute("points")
        smoothing = seen.page.get_by_label("Smoothing")
        smoothing.fill("0")
        assert reading.inner_text().startswith("Step 10: loss 0.1, smoothed 0.1;")
        smoothing.fill("10")
        seen.page.get_by_label("Log scale").check()
        assert chart.locator("polyline.smooth").get_attribute("points") != linear
        assert chart.locator("text").all_text_contents()[:3] == ["0.05", "0.1", "0.2"]
        assert seen.console_errors == []


@NEEDS_CHROMIUM
def test_a_canceled_run_has_no_loss_after_its_last_step(outputs: Path) -> None:
    make_run(outputs)
    canceled = make_run(outputs, run_id="b" * 12, created="2026-11-24T00:00:00+00:00", state="canceled")
    losses = (canceled / "loss.csv").read_text().splitlines(keepends=True)
    (canceled / "loss.csv").write_text("".join(losses[:13]))
    progress = json.loads((canceled / "progress.json").read_text())
    write_json(canceled / "progress.json", {**progress, "step": 12, "loss_smoothed": 0.087})
    page = write_comparison(fetched_runs(outputs, "cat"), outputs / "compare.html")
    with page_in_chromium(page.as_uri()) as seen:
        chart, reading = seen.page.locator("svg.chart"), seen.page.locator(".reading")
        assert reading.inner_text() == (
            "Last steps: cat aaaaaa at step 20: loss (mean of 2 steps) 0.0500; "
            "cat bbbbbb at step 12: loss (mean of 2 steps) 0.0870"
        )
        chart.focus()
        seen.page.keyboard.press("Home")
        seen.page.keyboard.press("End")
        assert reading.inner_text().endswith("; cat bbbbbb ended at step 12")
        assert seen.console_errors == []


@NEEDS_CHROMIUM
def test_curves_of_any_losses_stay_inside_the_chart(pages: dict[str, Path]) -> None:
    odd = [[0.5], [0.5, 0.5], [-1.0, 1e9], [0.1] * 5000, [0.0, 1e-12], [3.0, 3.0001]]
    with page_in_chromium(pages["run"].as_uri(), phone=True) as seen:
        outside = seen.page.evaluate(
            """cases => cases.flatMap((losses) => [false, true].flatMap((isLog) => {
                const chart = lossChart([{ label: "a", marks: {}, points: losses.map((loss, index) => [index + 1, loss]) }]);
                document.body.append(chart);
                const log = chart.querySelector("[type=checkbox]");
                if (isLog && !log.disabled) log.click();
                const [, , width, height] = chart.querySelector("svg").getAttribute("viewBox").split(" ").map(Number);
                const numbers = [...chart.querySelectorAll("polyline")].flatMap((line) => line.getAttribute("points").split(" "));
                return numbers.filter((pair) => {
                    const [x, y] = pair.split(",").map(Number);
                    return pair && !(x >= 0 && x <= width && y >= 0 && y <= height);
                });
            }))""",
            odd,
        )
        assert (outside, seen.console_errors) == ([], [])


def test_a_page_links_the_weights_and_the_pages_of_neighbouring_runs(outputs: Path) -> None:
    first = make_run(outputs, run_id="a" * 12)
    second = make_run(outputs, run_id="b" * 12, created="2026-11-24T00:00:00+00:00")

    def links(folder: Path) -> list[str | None]:
        elements = ParsedPage(page_of(folder, outputs)).found
        return [attributes["href"] for tag, attributes in elements if tag == "a"]

    assert links(second) == []
    (first / "report.html").touch()
    (second / "cat.safetensors").touch()
    assert links(second) == [f"../{'a' * 12}/report.html", "./cat.safetensors"]
    (second / "report.html").touch()
    assert links(first) == [f"../{'b' * 12}/report.html"]


def test_a_page_has_both_files_of_a_lora_for_two_noise_stages(outputs: Path) -> None:
    folder = make_run(outputs)
    digests = {"high_noise": "a" * 64, "low_noise": "b" * 64}
    write_json(folder / "done.json", {"sha256": "c" * 64, "size": 30, "stages": digests})
    (folder / "cat_high_noise.safetensors").write_bytes(b"0123456789")
    text = ParsedPage(page_of(folder, outputs)).text
    assert f"cat_high_noise.safetensors, 10 bytes, SHA-256 {'a' * 64}" in text
    assert f"cat_low_noise.safetensors, SHA-256 {'b' * 64}" in text
    assert "c" * 64 not in text


def test_images_are_found_in_the_jobs_folder_of_the_stack(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/from-the-recipe.md has the recipe's folder: `jobsFolder: data`."""
    make_run(outputs)
    (tmp_path / "jobs").rename(tmp_path / "data")
    stack_file = make_checkout(tmp_path) / "Pulumi.dev.yaml"
    stack_file.write_text(STACK_FILE + "  flux-training:jobsFolder: data\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def is_image_missing() -> bool:
        CliRunner().invoke(report, ["--from", str(outputs)], catch_exceptions=False)
        page = outputs / "cat" / "aaaaaaaaaaaa" / "report.html"
        return "was changed or removed since" in page.read_text(encoding="utf-8")

    assert not is_image_missing()
    stack_file.unlink()
    assert is_image_missing()


def test_a_comparison_of_one_run_names_what_else_could_be_compared(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    make_run(outputs)
    command = ["--from", str(outputs), "cat", "--compare"]
    said = (
        "; train another job; if cat was trained before, `./flux fetch cat --all-runs` gets its earlier runs"
    )
    with pytest.raises(BadInput) as caught:
        CliRunner().invoke(report, command, catch_exceptions=False)
    assert str(caught.value).endswith(said)
    make_run(outputs, "dog")
    with pytest.raises(BadInput, match="; name another job as well: dog; "):
        CliRunner().invoke(report, command, catch_exceptions=False)
