"""A plan as Markdown, page, text and JSON: complete, short enough for a comment, and with texts from others escaped."""

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import Survey
from flux_training.commands.plan.command import PlanComparison, planned_commit
from flux_training.commands.plan.document import plan_as_json
from flux_training.commands.plan.markdown import (
    MAX_LENGTH,
    caption_difference,
    comment_marker,
    escape_markdown,
    plan_as_comment,
    plan_as_markdown,
)
from flux_training.commands.plan.page import plan_as_page
from flux_training.commands.plan.pictures import Pictures, RepositoryPictures, thumbnail
from flux_training.commands.plan.text import format_megabytes, plan_as_text
from flux_training.training.cost import Bill, Line, Rate, StackBill
from flux_training.training.estimates.ranges import Range
from flux_training.training.finding import Finding, LintReport
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.runs.changes import Changes, Edited
from flux_training.training.runs.plan import JOB_TYPE, JobPlan, Plan, PlannedAction, ResourceChange, Upload
from flux_training.training.runs.run_state import RunState
from flux_training.training.runs.variants import Variants
from flux_training.training.settings import JobSettings
from tests.support.browser import NEEDS_CHROMIUM, THEMES, page_in_chromium
from tests.support.photos import DAMAGED_EXIF
from tests.training.job_folders import make_job
from tests.training.jobs.test_folder import settings

AGAIN = JobPlan(
    "cat",
    PlannedAction.AGAIN,
    "new1",
    ("1 caption changed", "learning rate 1e-4 → 2e-4"),
    images=9,
    changes=Changes(
        added=("10.jpg",), removed=("a b.png",), captions=(Edited("1.jpg", "a red cat", "a blue cat"),)
    ),
    line=Line("cat", "new", 2000, Range.exactly(3600.0), Range.exactly(0.45), "the recipe's figure"),
    previous="old1",
    dataset="d1",
    folder="jobs/cat",
)
LINT = LintReport(
    ["cat"], [Finding("few", "warning", "jobs/cat", None, "2 images", "too few", "add more", "cat")]
)
PLAN = Plan(
    "prod",
    (
        AGAIN,
        JobPlan("dog", PlannedAction.REMOVED, reasons=("its results stay in the bucket",)),
        JobPlan("owl", PlannedAction.KEPT),
    ),
    cluster=("container group is changed: gpu",),
    bill=StackBill(
        {
            "": Bill(
                Rate("RTX 5090 (32 GB)", "high", 0.45),
                (AGAIN.line,) if AGAIN.line else (),
                Range.exactly(450.0),
                1,
            )
        }
    ),
    upload=Upload(3_400_000, 1, 8),
    lint=LINT,
)
GITHUB = RepositoryPictures("https://github.com/me/loras/", "abc", "def")


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def test_the_models_are_named_with_their_licences() -> None:
    plan = replace(PLAN, models=("FLUX.1-dev (FLUX Non-Commercial License)", "Qwen-Image (Apache-2.0)"))
    assert (
        "Model: FLUX.1-dev (FLUX Non-Commercial License).\nModel: Qwen-Image (Apache-2.0)."
        in plan_as_text(plan)
    )
    assert r"Model: Qwen-Image \(Apache-2.0\)." in plan_as_comment(plan, Pictures())


def test_replaced_weights_and_shared_keys_are_told_in_every_form() -> None:
    plan = replace(PLAN, alarms=("owl: the weights are *others*",), warnings=("the nodes' keys",))
    assert "Error: owl: the weights are *others*.\n\nWarning: the nodes' keys." in plan_as_text(plan)
    assert r"**Error:** owl: the weights are \*others\*." in plan_as_comment(plan, GITHUB)
    document = json.loads(plan_as_json(plan))
    assert (document["alarms"], document["warnings"]) == (list(plan.alarms), list(plan.warnings))


def test_the_comment_has_actions_reasons_and_costs() -> None:
    text = plan_as_comment(PLAN, GITHUB)
    assert text.startswith(comment_marker("prod"))
    assert "**1 trained again, 1 removed, 1 unchanged.** Estimated cost **$0.51**" in text
    assert (
        "| **again** | `cat` | 1 caption changed; learning rate 1e-4 → 2e-4 | 2,000 | 60 min | $0.45 |"
        in text
    )
    assert "Upload: 1 image, 3.4 MB; 8 images copied inside the bucket." in text
    assert "a <del>red</del> <ins>blue</ins> cat" in text
    assert 'src="https://github.com/me/loras/blob/abc/jobs/cat/dataset/10.jpg?raw=true"' in text
    assert 'src="https://github.com/me/loras/blob/def/jobs/cat/dataset/a%20b.png?raw=true"' in text
    assert "Unchanged: `owl`" in text
    assert "- The container group is changed: gpu." in text
    assert "Lint: 1 warning" in text


def new_job(name: str, *, are_sent: bool = True) -> JobPlan:
    changes = Changes(added=("1.jpg", "2.jpg"))
    shown = JobPlan(name, PlannedAction.NEW, images=2, changes=changes, line=AGAIN.line)
    return replace(shown, folder="jobs/my-dog", images_of="my-dog", are_sent=are_sent)


def test_jobs_of_a_sweep_show_what_differs_and_their_images_once() -> None:
    """The images are in another job's folder."""
    differing = {"learning rate": ("1e-4", "2e-4"), "a|b": ("x" * 99, "<b>")}
    sweep = Variants("my-dog", ("fast", "slow"), differing)
    plan = replace(PLAN, jobs=(new_job("fast"), new_job("slow")), variants=(sweep,))
    text = plan_as_comment(plan, GITHUB)
    assert text.count("2 images of `my-dog`, sent once:") == text.count("dataset/1.jpg") == 1
    assert "https://github.com/me/loras/blob/abc/jobs/my-dog/dataset/1.jpg?raw=true" in text
    table = rendered(text).partition("Jobs with the images of <code>my-dog</code>")[2]
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", table)[:9]
    assert cells[:3] == ["job", "learning rate", "a|b"]
    assert cells[3:] == [
        "<code>fast</code>",
        "1e-4",
        "x" * 80 + " …",
        "<code>slow</code>",
        "2e-4",
        "&lt;b&gt;",
    ]
    assert json.loads(plan_as_json(plan))["variants"][0]["settings"]["learning rate"] == ["1e-4", "2e-4"]
    (line,) = [line for line in plan_as_text(plan).splitlines() if line.startswith("  new  slow")]
    assert line.endswith("with learning rate 2e-4, a|b <b>")


def test_the_pictures_of_a_job_are_in_the_folder_of_its_images(tmp_path: Path) -> None:
    make_job(tmp_path / "jobs", "my-dog")
    shutil.rmtree(make_job(tmp_path / "jobs", "fast") / "dataset")
    (job,) = declare_jobs(settings(fast=JobSettings(dataset="my-dog")), tmp_path)
    survey = Survey(LintReport([], []), [job], {"fast": RunState.NEW})
    step = ResourceChange(JOB_TYPE, "fast", "create", new={"folder": "jobs/fast", "runId": job.run_id})
    made = PlanComparison(cast(StackServices, None), survey, frozenset({"fast"})).job_plan(step)
    assert (made.folder, made.images_of, made.are_sent) == (str(tmp_path / "jobs/my-dog"), "my-dog", True)


def test_images_that_the_bucket_has_are_not_sent() -> None:
    plan = replace(PLAN, jobs=(new_job("fast", are_sent=False),))
    assert "2 images of `my-dog`, already in the bucket:" in plan_as_comment(plan, GITHUB)


def test_a_comment_lists_a_limited_number_of_settings_and_jobs() -> None:
    names = tuple(f"job-{number}" for number in range(102))
    sweep = Variants("my-dog", names, {f"setting {number}": names for number in range(9)})
    text = plan_as_comment(replace(PLAN, variants=(sweep,)), GITHUB)
    assert "And 1 more setting and 2 more jobs." in text
    assert "setting 8" not in text


def test_without_a_repository_only_the_names_of_images_are_shown() -> None:
    text = plan_as_comment(PLAN, Pictures())
    assert "1 image added: `10.jpg`" in text
    assert "<img" not in text


def test_a_comment_is_not_longer_than_github_allows() -> None:
    captions = tuple(Edited(f"{number}.jpg", "x " * 900, "y " * 900) for number in range(99))
    many = [replace(AGAIN, name=f"cat-{number}", changes=Changes(captions=captions)) for number in range(300)]
    long = replace(PLAN, jobs=tuple(many))
    assert len(plan_as_markdown(long, Pictures())) > MAX_LENGTH
    text = plan_as_comment(long, GITHUB)
    assert len(text) < 65_536
    assert "and 200 more" in text
    assert "Shortened to fit into a comment" in text


def test_a_refused_plan_shows_only_the_problems() -> None:
    refused = replace(PLAN, problems=("budget.maxUsd is $1.00, but …\n  cat  $2.00",), jobs=())
    assert "would change nothing" in plan_as_comment(refused, Pictures())
    assert "budget.maxUsd is $1.00" in plan_as_text(refused)
    assert "Estimated" not in plan_as_comment(refused, Pictures())


HOSTILE_TEXTS = [
    "<script>alert(1)</script>",
    "a | b | c",
    "**bold** _it_ `code`",
    "[x](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "</details><img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    "\\|",
    "line\n\n# heading\n| a |\n|---|",
]


@pytest.mark.parametrize("words", HOSTILE_TEXTS)
def test_texts_from_others_are_escaped(words: str) -> None:
    html = rendered(f"| a |\n|---|\n| {escape_markdown(words)} |")
    tags = set(re.findall(r"<(\w+)", html))
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<td>") == 1


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_caption_cannot_end_its_cell(before: str, after: str) -> None:
    html = rendered(f"| a |\n|---|\n| {caption_difference(Edited('1.jpg', before, after))} |")
    assert set(re.findall(r"<(\w+)", html)) <= {"table", "thead", "tbody", "tr", "th", "td", "del", "ins"}
    assert html.count("<td>") <= 1


def test_mentions_are_disabled() -> None:
    assert "@someone" not in escape_markdown("for @someone")


def test_the_page_has_all_tables() -> None:
    html = plan_as_page(PLAN, GITHUB)
    assert "<h2>" in html
    assert html.count("<table ") == 4
    assert "<del>red</del>" in html
    assert "\\(" not in html


@NEEDS_CHROMIUM
@pytest.mark.parametrize(("dark", "phone"), THEMES)
def test_the_page_fits_every_screen(tmp_path: Path, dark: bool, phone: bool) -> None:
    page = tmp_path / "plan.html"
    page.write_text(plan_as_page(PLAN, GITHUB), encoding="utf-8")
    with page_in_chromium(page.as_uri(), dark, phone) as seen:
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)
        cost = seen.page.locator("td[data-label=cost]").first
        assert cost.evaluate("cell => cell.getBoundingClientRect().right <= innerWidth")
        assert cost.is_visible()
        refused = replace(PLAN, problems=("jobs/cat/train.yml:7: " + "the folder is `cat` " * 20,))
        page.write_text(plan_as_page(refused, GITHUB), encoding="utf-8")
        seen.page.reload()
        assert (seen.accessibility_violations(), seen.overflows()) == ([], False)


def test_thumbnails_are_small_and_made_only_of_intact_photos() -> None:
    large = io.BytesIO()
    Image.new("RGBA", (900, 600), "red").save(large, "PNG")
    address = thumbnail(large.getvalue)
    assert address is not None
    assert address.startswith("data:image/webp;base64,")
    assert len(address) < 3000
    assert thumbnail(lambda: b"no image") is None
    assert thumbnail(lambda: b"") is None
    damaged = io.BytesIO()
    Image.new("RGB", (90, 60)).save(damaged, "PNG", exif=DAMAGED_EXIF)
    assert thumbnail(damaged.getvalue) is None
    foreign = io.BytesIO()
    Image.new("RGB", (9, 6)).save(foreign, "BMP")
    assert thumbnail(foreign.getvalue) is None


def test_a_photo_with_too_many_pixels_has_no_thumbnail() -> None:
    photo = io.BytesIO()
    Image.new("1", (20_000, 6_001)).save(photo, "PNG")
    assert thumbnail(photo.getvalue) is None


def test_a_thumbnail_has_no_metadata_of_the_photo() -> None:
    photo = io.BytesIO()
    Image.new("RGB", (90, 60)).save(photo, "JPEG", comment=b"Anna")
    address = thumbnail(photo.getvalue)
    assert address is not None
    assert b"Anna" not in base64.b64decode(address.partition(",")[2])


def test_a_permanently_rented_gpu_is_a_cost() -> None:
    rate = Rate("RTX 5090 (32 GB)", "high", 0.45)
    text = plan_as_comment(Plan("prod", bill=StackBill({"": Bill(rate, (), dev=rate)})), Pictures())
    assert "This costs nothing" not in text
    assert "rented all day" in text
    assert "10.80 a day" in text


def test_an_error_that_refuses_up_is_shown_once_with_the_warnings() -> None:
    error = Finding("broken", "error", "jobs/cat/train.yml", 3, "no [steps]", "why", "fix", "cat")
    lint = LintReport(["cat"], [*LINT.findings, error])
    refused = Plan("prod", lint=lint, problems=(str(error),))
    for shown in (plan_as_text(refused), plan_as_comment(refused, Pictures())):
        assert shown.count("jobs/cat/train.yml:3: no ") == 1
        assert shown.count(LINT.findings[0].message) == 1


def test_json_has_numbers() -> None:
    found = json.loads(plan_as_json(PLAN))
    assert found["jobs"]["cat"]["what"] == "again"
    assert found["jobs"]["cat"]["usd"] == 0.45
    assert found["cost"]["usd"] == pytest.approx(0.45 + 450 / 3600 * 0.45)
    assert found["upload"] == {"bytes": 3_400_000, "images": 1, "copied": 8}
    assert [finding["code"] for finding in found["findings"]] == ["few"]


def test_the_text_has_the_same_content() -> None:
    text = plan_as_text(PLAN)
    for words in (
        "again",
        "learning rate 1e-4 → 2e-4",
        "Upload: 1 image, 3.4 MB",
        "total",
        "Lint findings:",
    ):
        assert words in text


@pytest.mark.parametrize(("size", "text"), [(12, "0.0000 MB"), (2854, "0.0029 MB"), (816873, "0.8 MB")])
def test_megabytes(size: int, text: str) -> None:
    assert format_megabytes(size) == text


def test_images_are_linked_at_the_commit_of_the_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert planned_commit(tmp_path) == "HEAD"
    assert "set FLUX_PLAN_COMMIT" in capsys.readouterr().err
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    commit = ["git", *identity, "commit", "--quiet", "--allow-empty", "--message", "images"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", planned_commit(tmp_path))
    assert capsys.readouterr().err == ""
