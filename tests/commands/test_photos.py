"""`flux new`, `rename` and `sweep`: what they print and the files that they make."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rich_click as click

from flux_training.commands.jobs.new import group_files_by_reason, new
from flux_training.commands.jobs.rename import rename
from flux_training.commands.jobs.set_aside import set_image_aside
from flux_training.commands.jobs.sweep import sweep
from flux_training.commands.stack.edit import declare_jobs_in_file, declared_jobs
from flux_training.commands.stack.file import stack_settings
from flux_training.training.dataset.renaming import JOURNAL
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.folder import read_config
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


def test_a_folder_of_mixed_files_becomes_a_job(checkout: Path, tmp_path: Path, run: Run) -> None:
    expected = mixed_folder(tmp_path / "my photos")
    printed = run(new, "party", "--from", tmp_path / "my photos", "--trigger", "ohwx")
    dataset = checkout / "jobs/party/dataset"
    captions = sorted(file.read_text(encoding="utf-8").strip() for file in dataset.glob("*.txt"))
    assert captions == sorted(filter(None, expected.values()))
    assert sorted(file.name for file in dataset.glob("*.jpg")) == [f"{n:05}.jpg" for n in range(1, 31)]
    for line in (
        "jobs/party: 30 images added (00001 to 00030), 15 with a caption",
        "  copy of IMG_1.jpg shows the same as IMG_1.jpg",
        "  dance.gif: only the first of its 3 frames is used",
        "  broken.png: a broken image",
        "  notes.txt: a caption without an image of the same name",
        "the line `party: {}`",
        "writes the 15 missing captions with a model",
    ):
        assert line in printed
    for image in dataset.glob("*.jpg"):
        image.with_suffix(".txt").write_text("words", encoding="utf-8")
    assert declared(checkout, "party") == ["party"]


def test_an_existing_job_is_not_overwritten(checkout: Path, tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 2)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    before = tree(checkout)
    with pytest.raises(BadInput, match="exists and is not overwritten"):
        run(new, "cat", "--from", source, "--trigger", "other")
    assert tree(checkout) == before


def test_photos_are_added_once(checkout: Path, tmp_path: Path, run: Run) -> None:
    run(new, "cat", "--from", photos(tmp_path / "one", 2), "--trigger", "ohwx")
    assert "2 images added (00003 to 00004)" in run(
        new, "cat", "--from", photos(tmp_path / "two", 4), "--add"
    )
    before = tree(checkout)
    assert "0 images added" in run(new, "cat", "--from", tmp_path / "two", "--add")
    assert tree(checkout) == before


def test_photos_that_were_set_aside_are_not_added_again(checkout: Path, tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 3)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    dataset = checkout / "jobs/cat/dataset"
    set_image_aside(dataset / "00003.jpg")
    photo(9).save(source / "p9.png")
    printed = run(new, "cat", "--from", source, "--add")
    # The number of the image that was set aside stays free, so that it can be put back.
    assert "1 image added (00004 to 00004)" in printed
    assert "p3.png shows the same as set-aside/dataset/00003.jpg" in printed


def test_only_added_images_count_as_reduced(checkout: Path, tmp_path: Path, run: Run) -> None:  # noqa: ARG001 - it is where it runs
    source = photos(tmp_path / "from", 2)
    assert "2 reduced in size" in run(new, "cat", "--from", source, "--trigger", "ohwx", "--max-side", "100")
    assert "reduced" not in run(new, "cat", "--from", source, "--add", "--max-side", "100")


def test_a_model_is_suggested_by_the_beginning_of_its_name(tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 1)
    with pytest.raises(
        click.UsageError, match="did you mean `flux1-dev` or `flux1-schnell` or `flux1-kontext`"
    ):
        run(new, "cat", "--from", source, "--trigger", "ohwx", "--model", "flux1")


def test_a_later_caption_is_copied_to_its_image(checkout: Path, tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 2)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    (source / "p2.txt").write_text("the second", encoding="utf-8")
    printed = run(new, "cat", "--from", source, "--add")
    assert "00002.jpg: got the caption of p2.png" in printed
    assert (checkout / "jobs/cat/dataset/00002.txt").read_text(encoding="utf-8") == "the second\n"


def test_captions_are_matched_by_image_and_not_by_name(checkout: Path, tmp_path: Path, run: Run) -> None:
    run(new, "cat", "--from", photos(tmp_path / "one", 1), "--trigger", "ohwx")
    source = tmp_path / "two"
    source.mkdir()
    photo(2).save(source / "00001.jpg", quality=95)
    photo(2, (120, 80)).save(source / "small.png")
    (source / "small.txt").write_text("the second", encoding="utf-8")
    printed = run(new, "cat", "--from", source, "--add")
    dataset = checkout / "jobs/cat/dataset"
    assert sorted(file.name for file in dataset.iterdir()) == ["00001.jpg", "00002.jpg", "00002.txt"]
    assert "00001.jpg: its caption is taken from its duplicate small.png" in printed


def test_all_invalid_options_are_reported_together(tmp_path: Path, run: Run) -> None:
    with pytest.raises(BadInput) as caught:
        run(new, "no good", "--from", photos(tmp_path / "from", 1), "--trigger", "[x]", "--prompt", "")
    assert len(caught.value.findings) == 3


def test_a_trigger_word_is_typed_without_quotes(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--trigger “ohwx”: the quotes would be a part of the word"):
        run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "“ohwx”")


@pytest.mark.parametrize("name", ["../dog", "a/b", "/tmp/dog"])  # noqa: S108 - nothing is written there
def test_a_job_name_cannot_lead_out_of_the_jobs_folder(tmp_path: Path, run: Run, name: str) -> None:
    source = photos(tmp_path / "from", 1)
    before = tree(tmp_path)
    with pytest.raises(BadInput):
        run(new, name, "--from", source, "--trigger", "ohwx")
    with pytest.raises(BadInput):
        run(new, name, "--from", source, "--add")
    assert tree(tmp_path) == before


def test_options_for_new_jobs_are_refused_with_add(tmp_path: Path, run: Run) -> None:
    source = photos(tmp_path / "from", 1)
    run(new, "cat", "--from", source, "--trigger", "ohwx")
    with pytest.raises(click.UsageError, match=r"train\.yml"):
        run(new, "cat", "--from", source, "--add", "--trigger", "other")


def test_a_folder_without_images_makes_no_job(checkout: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/a.mp4").write_bytes(b"film")
    with pytest.raises(BadInput) as caught:
        run(new, "cat", "--from", tmp_path / "from", "--trigger", "ohwx")
    assert len(caught.value.findings) == 2
    assert list((checkout / "jobs").iterdir()) == []


def test_the_job_is_declared_and_the_rest_of_the_stack_file_is_kept(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    printed = run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx", "--stack", "dev")
    text = (checkout / "Pulumi.dev.yaml").read_text(encoding="utf-8")
    assert text == STACK_FILE.replace("   # the first one\n", "   # the first one\n    cat: {}\n")
    assert "cat is declared now" in printed
    assert declare_jobs_in_file(Path(), "dev", {"cat": {}}) == []


def test_an_unknown_stack_is_reported_before_anything_is_made(
    checkout: Path, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(BadInput, match=r"there is no Pulumi\.prod\.yaml"):
        run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx", "--stack", "prod")
    assert list((checkout / "jobs").iterdir()) == []


def test_the_jobs_folder_of_the_stack_is_used(checkout: Path, tmp_path: Path, run: Run) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE + "  flux-training:jobsFolder: data\n", encoding="utf-8"
    )
    run(new, "cat", "--from", photos(tmp_path / "from", 1), "--trigger", "ohwx")
    assert (checkout / "data/cat/train.yml").is_file()


def test_a_renaming_can_be_previewed_and_undone(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat", images=2)
    (checkout / "jobs/cat/dataset/00001.jpg").rename(checkout / "jobs/cat/dataset/b 1.jpg")
    (checkout / "jobs/cat/dataset/00001.txt").rename(checkout / "jobs/cat/dataset/b 1.txt")
    before = tree(checkout)
    assert "00002.jpg → 00001.jpg" in run(rename, "cat", "--dry-run")
    assert tree(checkout) == before
    assert "4 files renamed; `./flux rename cat --undo` reverts this" in run(rename, "cat")
    assert "numbered already" in run(rename, "cat")
    assert declared(checkout, "cat") == ["cat"]
    assert "4 files have their old names back" in run(rename, "cat", "--undo")
    assert tree(checkout) == before


def test_images_with_control_images_are_not_renamed(checkout: Path, tmp_path: Path, run: Run) -> None:
    run(new, "cat", "--from", str(photos(tmp_path / "p", 2)), "--trigger", "x1x")
    config = checkout / "jobs/cat/train.yml"
    dataset = '        - folder_path: "dataset"\n'
    text = config.read_text(encoding="utf-8")
    assert dataset in text
    config.write_text(text.replace(dataset, f"{dataset}          control_path: control\n"), encoding="utf-8")
    (checkout / "jobs/cat/dataset/00001.jpg").rename(checkout / "jobs/cat/dataset/b 1.jpg")
    before = tree(checkout / "jobs/cat")
    with pytest.raises(BadInput, match="pairs its images with those in control/ by name"):
        run(rename, "cat")
    assert tree(checkout / "jobs/cat") == before


def test_a_dry_run_reports_an_interrupted_renaming(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat", images=1)
    dataset = checkout / "jobs/cat/dataset"
    (dataset / "00001.jpg").rename(dataset / ".renaming-0")
    moves = [{"old": "b.jpg", "new": "00001.jpg"}]
    journal = {"version": 1, "undo": False, "step": "home", "moves": moves}
    (dataset / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
    before = tree(checkout)
    printed = run(rename, "cat", "--dry-run")
    assert ("b.jpg → 00001.jpg" in printed, "was interrupted" in printed) == (True, True)
    assert tree(checkout) == before


def test_a_locked_folder_is_refused(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "cat")
    held = os.open(checkout / "jobs/cat/dataset", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(FluxError, match="another flux command is using"):
            run(rename, "cat")
    finally:
        os.close(held)


def test_an_unknown_job_is_reported_with_the_nearest_name(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "chelsea")
    with pytest.raises(BadInput, match="did you mean `chelsea`"):
        run(rename, "chelsae")


GRID = ("sweep-me", "--set", "train.lr=1e-4,2e-4", "--set", "network.linear=4,8")


def test_training_values_go_into_the_new_train_yml(checkout: Path, tmp_path: Path, run: Run) -> None:
    source, values = photos(tmp_path / "photos", 1), ("--steps", 300, "--rank", 32, "--lr", 0.0004)
    run(new, "cat", "--from", source, "--trigger", "ohwx", *values, "--resolution", 512, "--resolution", 768)
    process = read_config(checkout / "jobs/cat").raw_config.decode()
    expected = ("linear: 32", "linear_alpha: 32", "steps: 300", "lr: 0.0004", "resolution: [512, 768]")
    for line in (*expected, "save_every: 150", "sample_every: 150"):
        assert f" {line}\n" in process
    with pytest.raises(click.UsageError, match="--add only adds photos"):
        run(new, "cat", "--add", "--from", source, "--steps", 500)


def test_a_sweep_declares_jobs_with_one_dataset_and_can_be_repeated(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {maxHours: 2, attempt: 3}"), encoding="utf-8"
    )
    before = tree(checkout)
    assert "4 jobs would be made" in run(sweep, *GRID, "--repeat", "--dry-run")
    assert tree(checkout) == before
    printed = run(sweep, *GRID, "--repeat")
    assert "4 jobs, 80 steps in total" in printed
    assert "trains the same as the job itself" in printed
    assert "network.linear_alpha stays the same" in printed
    text = (checkout / "Pulumi.dev.yaml").read_text(encoding="utf-8")
    assert "    sweep-me-lr2e-4-rank8: {dataset: sweep-me, maxHours: 2}\n" in text
    after = tree(checkout)
    assert "0 jobs made below jobs, 0 declared" in run(sweep, *GRID)
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


def test_the_variant_equal_to_the_job_is_left_out(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {}"), encoding="utf-8"
    )
    printed = run(sweep, *GRID)
    assert (
        "sweep-me-lr1e-4-rank4 is left out: sweep-me itself trains that (--repeat makes it anyway)" in printed
    )
    made = sorted(folder.name for folder in (checkout / "jobs").iterdir() if folder.is_dir())
    assert made == ["sweep-me", *(f"sweep-me-lr{end}" for end in ("1e-4-rank8", "2e-4-rank4", "2e-4-rank8"))]
    assert "0 jobs made below jobs, 0 declared" in run(sweep, *GRID)


def test_no_variant_is_left_out_if_the_job_is_not_declared(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    assert "4 jobs made" in run(sweep, *GRID)


def test_a_job_entry_must_be_a_mapping(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(STACK_FILE.replace("first: {}", "first: false"))
    with pytest.raises(BadInput, match="is not a map of settings"):
        declared_jobs(checkout, "dev")


def test_a_sweep_without_new_variants_is_refused(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    (checkout / "Pulumi.dev.yaml").write_text(
        STACK_FILE.replace("first: {}", "sweep-me: {}"), encoding="utf-8"
    )
    before = tree(checkout)
    with pytest.raises(BadInput, match="every variant trains the same as sweep-me itself"):
        run(sweep, "sweep-me", "--set", "network.linear=4")
    assert tree(checkout) == before


def test_variants_inherit_the_silenced_lint_rules(checkout: Path, run: Run) -> None:
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


def test_a_variant_with_another_train_yml_is_not_overwritten(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    run(sweep, *GRID)
    base = checkout / "jobs/sweep-me/train.yml"
    base.write_text(base.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    before = tree(checkout)
    with pytest.raises(BadInput) as caught:
        run(sweep, *GRID)
    assert len(caught.value.findings) == 4
    assert tree(checkout) == before


def test_an_invalid_value_makes_no_job(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    with pytest.raises(BadInput, match="a whole number above 0"):
        run(sweep, "sweep-me", "--set", "train.steps=10,0")
    assert [folder.name for folder in (checkout / "jobs").iterdir()] == ["sweep-me"]


def test_undo_deletes_what_the_sweep_made(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    before, stack_file = tree(checkout), (checkout / "Pulumi.dev.yaml").read_bytes()
    run(sweep, *GRID)
    made = tree(checkout)
    assert "would be deleted" in run(sweep, *GRID, "--undo", "--dry-run")
    assert tree(checkout) == made
    printed = run(sweep, *GRID, "--undo")
    assert "4 jobs deleted, 4 removed from Pulumi.dev.yaml" in printed
    assert "Next: `make plan` shows which queued runs that cancels" in printed
    assert (tree(checkout), (checkout / "Pulumi.dev.yaml").read_bytes()) == (before, stack_file)
    with pytest.raises(BadInput, match="has no job of this sweep"):
        run(sweep, *GRID, "--undo")


def test_undo_removes_the_entries_of_folders_that_were_deleted_by_hand(checkout: Path, run: Run) -> None:
    make_job(checkout / "jobs", "sweep-me")
    before = (checkout / "Pulumi.dev.yaml").read_bytes()
    run(sweep, *GRID)
    for folder in (checkout / "jobs").glob("sweep-me-*"):
        shutil.rmtree(folder)
    assert "0 jobs deleted, 4 removed from Pulumi.dev.yaml" in run(sweep, *GRID, "--undo")
    assert (checkout / "Pulumi.dev.yaml").read_bytes() == before


@pytest.mark.parametrize("file", ["train.yml", "notes.txt"])
def test_undo_deletes_nothing_if_a_job_was_changed(checkout: Path, run: Run, file: str) -> None:
    make_job(checkout / "jobs", "sweep-me")
    run(sweep, *GRID)
    with (checkout / "jobs/sweep-me-lr2e-4-rank8" / file).open("a") as own:
        own.write("# mine\n")
    before = tree(checkout)
    with pytest.raises(BadInput, match="sweep-me-lr2e-4-rank8"):
        run(sweep, *GRID, "--undo")
    assert tree(checkout) == before


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[31m.jpg", "\u202egpj.jpg"])
def test_names_with_control_characters_are_printed_as_escapes(tmp_path: Path, run: Run, name: str) -> None:
    source = photos(tmp_path / "from", 1)
    (source / name).write_bytes(b"\xff\xd8")
    shown = name.encode("unicode_escape").decode()
    assert f"  {shown}: a broken image" in run(new, "cat", "--from", source, "--trigger", "ohwx")
    (source / "p1.png").unlink()
    with pytest.raises(BadInput) as caught:
        run(new, "dog", "--from", source, "--trigger", "ohwx")
    assert str(caught.value).startswith(f"{shown}: a broken image")


def test_files_left_out_for_the_same_reason_are_one_line() -> None:
    strangers = [f"{number}.psd: not an image" for number in range(40)]
    assert group_files_by_reason([*strangers, "cat.jpg: an empty file"]) == [
        "0.psd, 1.psd, 2.psd and 37 more: not an image",
        "cat.jpg: an empty file",
    ]
