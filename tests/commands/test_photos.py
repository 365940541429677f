"""`flux new`, `rename` and `sweep` as they are typed, in this process; what they say and what lies there after them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click

from flux_training.commands.jobs.new import new
from flux_training.commands.jobs.rename import rename
from flux_training.commands.jobs.sweep import sweep
from flux_training.commands.stack.edit import declare, declared_jobs
from flux_training.commands.stack.file import stack_settings
from flux_training.training.dataset.renaming import JOURNAL
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import StackSettings
from tests.support.flux import STACK_FILE, make_checkout
from tests.support.photos import mixed_folder, photo
from tests.training.job_folders import make_job

Run = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def run(checkout: Path, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001 - it is where it runs
    def call(command: click.Command, *arguments: object) -> str:
        command.main([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def tree(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def photos(folder: Path, count: int, first: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        photo(number).save(folder / f"p{number}.png")
    return folder


def declared(checkout: Path, *names: str) -> list[str]:
    settings = {
        "cloud": "local",
        "storage": {"bucket": "flux-training"},
        "jobs": {name: {} for name in names},
    }
    return [job.name for job in declare_jobs(StackSettings.model_validate(settings), checkout)]


def test_a_folder_of_fifty_mixed_files_becomes_a_job_that_can_be_declared(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    expected = mixed_folder(tmp_path / "my photos")
    said = run(new, "party", "--from", tmp_path / "my photos", "--trigger", "ohwx")
    dataset = checkout / "jobs/party/dataset"
    captions = sorted(file.read_text(encoding="utf-8").strip() for file in dataset.glob("*.txt"))
    assert captions == sorted(filter(None, expected.values()))
    assert sorted(file.name for file in dataset.glob("*.jpg")) == [f"{n:05}.jpg" for n in range(1, 31)]
    for line in (
        "jobs/party: 30 images taken (00001 to 00030), 15 with a caption",
        "  copy of IMG_1.jpg shows the same as IMG_1.jpg",
        "  dance.gif: of its 3 pictures only the first is taken",
        "  broken.png: a broken image",
        "  notes.txt: a text without an image of the same name",
        "the line `party: {}`",
        "writes the 15 captions that it lacks",
    ):
        assert line in said
    for image in dataset.glob("*.jpg"):
        image.with_suffix(".txt").write_text("words", encoding="utf-8")
    assert declared(checkout, "party") == ["party"]


def test_a_job_that_is_there_is_not_overwritten_and_nothing_is_left_behind(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    source = photos(tmp_path / "from", 2)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    before = tree(checkout)
    with pytest.raises(BadInput, match="is there already, and is not overwritten"):
        run(new, "cat", "--from", source, "--trigger", "other")
    assert tree(checkout) == before


def test_adding_twice_adds_once(checkout: Path, tmp_path: Path, run: Run) -> None:
    run(new, "cat", "--from", photos(tmp_path / "one", 2), "--trigger", "ohwx")
    assert "2 images taken (00003 to 00004)" in run(
        new, "cat", "--from", photos(tmp_path / "two", 4), "--add"
    )
    before = tree(checkout)
    assert "0 images taken" in run(new, "cat", "--from", tmp_path / "two", "--add")
    assert tree(checkout) == before


def test_a_caption_that_comes_later_finds_its_image(checkout: Path, tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 2)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    (source / "p2.txt").write_text("the second", encoding="utf-8")
    said = run(new, "cat", "--from", source, "--add")
    assert "00002.jpg: has its caption from p2.png now" in said
    assert (checkout / "jobs/cat/dataset/00002.txt").read_text(encoding="utf-8") == "the second\n"


def test_a_new_pictures_caption_is_not_given_to_an_image_of_the_job_that_has_its_name(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    run(new, "cat", "--from", photos(tmp_path / "one", 1), "--trigger", "ohwx")
    source = tmp_path / "two"
    source.mkdir()
    photo(2).save(source / "00001.jpg", quality=95)
    photo(2, (120, 80)).save(source / "small.png")
    (source / "small.txt").write_text("the second", encoding="utf-8")
    said = run(new, "cat", "--from", source, "--add")
    dataset = checkout / "jobs/cat/dataset"
    assert sorted(file.name for file in dataset.iterdir()) == ["00001.jpg", "00002.jpg", "00002.txt"]
    assert "00001.jpg: has its caption from small.png, which shows the same" in said


def test_everything_wrong_in_the_options_is_said_at_once(tmp_path: Path, run: Run) -> None:
    with pytest.raises(BadInput) as caught:
        run(new, "no good", "--from", photos(tmp_path / "from", 1), "--trigger", "[x]", "--prompt", "")
    assert len(caught.value.findings) == 3


@pytest.mark.parametrize("name", ["../dog", "a/b", "/tmp/dog"])  # noqa: S108 - nothing is written there
def test_a_job_lies_in_the_folder_of_jobs_and_nowhere_else(tmp_path: Path, run: Run, name: str) -> None:
    source = photos(tmp_path / "from", 1)
    before = tree(tmp_path)
    with pytest.raises(BadInput):
        run(new, name, "--from", source, "--trigger", "ohwx")
    with pytest.raises(BadInput):
        run(new, name, "--from", source, "--add")
    assert tree(tmp_path) == before


def test_what_only_a_new_job_takes_is_refused_when_adding(tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 1)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    with pytest.raises(click.UsageError, match=r"train\.yml"):
        run(new, "cat", "--from", source, "--add", "--trigger", "other")


def test_without_an_image_nothing_is_made(checkout: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/a.mp4").write_bytes(b"film")
    with pytest.raises(BadInput) as caught:
        run(new, "cat", "--from", tmp_path / "from", "--trigger", "ohwx")
    assert len(caught.value.findings) == 2
    assert list((checkout / "jobs").iterdir()) == []


def test_the_job_is_named_in_the_stack_and_the_rest_of_the_file_stays(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    said = run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx", "--stack", "dev")
    text = (checkout / "Pulumi.dev.yaml").read_text(encoding="utf-8")
    assert text == STACK_FILE.replace("   # the first one\n", "   # the first one\n    cat: {}\n")
    assert "cat is named there now" in said
    assert declare(Path(), "dev", {"cat": {}}) == []


def test_a_stack_that_is_not_there_is_said_before_anything_is_made(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(BadInput, match=r"there is no Pulumi\.prod\.yaml"):
        run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx", "--stack", "prod")
    assert list((checkout / "jobs").iterdir()) == []


def test_the_stacks_own_folder_of_jobs_is_used(checkout: Path, tmp_path: Path, run: Run) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE + "  flux-training:jobsFolder: data\n", encoding="utf-8"
    )
    run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx")
    assert (checkout / "data/cat/train.yml").is_file()


def test_renaming_and_its_undoing_are_said(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat", images=2)
    (checkout / "jobs/cat/dataset/00001.jpg").rename(checkout / "jobs/cat/dataset/b 1.jpg")
    (checkout / "jobs/cat/dataset/00001.txt").rename(checkout / "jobs/cat/dataset/b 1.txt")
    before = tree(checkout)
    assert "00002.jpg → 00001.jpg" in run(rename, "cat", "--dry-run")
    assert tree(checkout) == before
    assert "4 files renamed; ./flux rename cat --undo takes it back" in run(rename, "cat")
    assert "numbered already" in run(rename, "cat")
    assert declared(checkout, "cat") == ["cat"]
    assert "4 files have their old names back" in run(rename, "cat", "--undo")
    assert tree(checkout) == before


def test_a_dry_run_only_tells_of_a_renaming_that_was_interrupted(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat", images=1)
    dataset = checkout / "jobs/cat/dataset"
    (dataset / "00001.jpg").rename(dataset / ".renaming-0")
    moves = [{"old": "b.jpg", "new": "00001.jpg"}]
    journal = {"version": 1, "undo": False, "step": "home", "moves": moves}
    (dataset / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
    before = tree(checkout)
    said = run(rename, "cat", "--dry-run")
    assert ("b.jpg → 00001.jpg" in said, "was interrupted" in said) == (True, True)
    assert tree(checkout) == before


def test_two_commands_do_not_work_in_one_folder(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat")
    held = os.open(checkout / "jobs/cat/dataset", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(FluxError, match="another flux command is at work"):
            run(rename, "cat")
    finally:
        os.close(held)


def test_a_job_that_is_not_there_is_named_with_the_nearest(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "chelsea")
    with pytest.raises(BadInput, match="did you mean `chelsea`"):
        run(rename, "chelsae")


GRID = ("sweep-me", "--set", "train.lr=1e-4,2e-4", "--set", "network.linear=4,8")


def test_a_sweep_declares_its_jobs_on_one_dataset_and_is_safe_to_run_twice(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {maxHours: 2, attempt: 3}"), encoding="utf-8"
    )
    before = tree(checkout)
    assert "4 jobs would be made" in run(sweep, *GRID, "--repeat", "--dry-run")
    assert tree(checkout) == before
    said = run(sweep, *GRID, "--repeat")
    assert "4 jobs, 80 steps in all" in said
    assert "trains what the job itself trains" in said
    assert "network.linear_alpha stays as it is" in said
    text = (checkout / "Pulumi.dev.yaml").read_text(encoding="utf-8")
    assert "    sweep-me-lr2e-4-rank8: {dataset: sweep-me, maxHours: 2}\n" in text
    after = tree(checkout)
    assert "0 jobs made below jobs, 0 named" in run(sweep, *GRID)
    assert tree(checkout) == after
    names = [f"sweep-me-lr{lr}-rank{rank}" for lr in ("1e-4", "2e-4") for rank in (4, 8)]
    settings = StackSettings.model_validate(
        {
            "cloud": "local",
            "storage": {"bucket": "flux-training"},
            "jobs": {n: {"dataset": "sweep-me"} for n in names},
        }
    )
    jobs = declare_jobs(settings, checkout)
    assert {job.dataset_of for job in jobs} == {names[0]}
    assert len({job.run_id for job in jobs}) == 4


def test_what_the_job_itself_trains_is_not_paid_for_again(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {}"), encoding="utf-8"
    )
    said = run(sweep, *GRID)
    assert (
        "sweep-me-lr1e-4-rank4 is left out: sweep-me itself trains that (--repeat makes it all the same)"
        in said
    )
    made = sorted(folder.name for folder in (checkout / "jobs").iterdir() if folder.is_dir())
    assert made == ["sweep-me", *(f"sweep-me-lr{end}" for end in ("1e-4-rank8", "2e-4-rank4", "2e-4-rank8"))]
    assert "0 jobs made below jobs, 0 named" in run(sweep, *GRID)


def test_a_job_that_is_not_declared_trains_nothing_so_no_variant_is_left_out(
    checkout: Path, run: Run
) -> None:
    make_job(checkout / "jobs", "sweep-me")
    assert "4 jobs made" in run(sweep, *GRID)


def test_a_job_that_is_declared_as_false_is_not_taken_for_one_with_defaults(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(STACK_FILE.replace("first: {}", "first: false"))
    with pytest.raises(BadInput, match="is no map of settings"):
        declared_jobs(checkout, "dev")


def test_a_sweep_of_nothing_new_makes_nothing(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {}"), encoding="utf-8"
    )
    before = tree(checkout)
    with pytest.raises(BadInput, match="every variant trains what sweep-me itself trains"):
        run(sweep, "sweep-me", "--set", "network.linear=4")
    assert tree(checkout) == before


def test_what_lint_may_not_say_of_the_job_it_may_not_say_of_its_variants(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {lint: {silence: {image-few: three will do}}}"),
        encoding="utf-8",
    )
    run(sweep, *GRID)
    report = lint_jobs(stack_settings(checkout, "dev"))
    told = {finding.code for finding in report.findings}
    assert not told & {"image-few", "silence-unused"}
    assert len([entry for entry in report.silenced if entry.finding.code == "image-few"]) == len(report.jobs)


def test_a_job_of_another_sweep_is_not_overwritten(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    run(sweep, *GRID)
    base = checkout / "jobs/sweep-me/train.yml"
    base.write_text(base.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    before = tree(checkout)
    with pytest.raises(BadInput) as caught:
        run(sweep, *GRID)
    assert len(caught.value.findings) == 4
    assert tree(checkout) == before


def test_a_value_that_the_trainer_would_refuse_makes_nothing(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    with pytest.raises(BadInput, match="a whole number above 0"):
        run(sweep, "sweep-me", "--set", "train.steps=10,0")
    assert [folder.name for folder in (checkout / "jobs").iterdir()] == ["sweep-me"]
