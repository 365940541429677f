"""What is remembered of an examination: it spares every read and rule, says the same, and nothing that matters fools it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flux_training.training.dataset import file_cache
from flux_training.training.dataset.file_cache import CACHE_FOLDER, NO_CACHE_VARIABLE
from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding
from flux_training.training.jobs import examine
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.examine import KEPT_IN, MOST_KEPT, Examined, Examiner, JobPlace
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.lint.registry import Subject
from flux_training.training.settings import JobSettings, LintSettings, StackSettings, StorageSettings
from tests.training.job_folders import make_job, write_image


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound job folder with warnings, in a checkout where whatever was written counts as written long ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(NO_CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(file_cache, "SETTLED_SECONDS", -60)
    make_job(Path("jobs"), "cat")
    return Path("jobs/cat")


@pytest.fixture
def ruled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that the rules were asked of."""
    names: list[str] = []
    check = examine.check

    def noted(job: Subject) -> list[Finding]:
        names.append(job.name)
        return check(job)

    monkeypatch.setattr(examine, "check", noted)
    return names


def place(job: Path, gpu: str = "RTX 5090", **more: frozenset[str]) -> JobPlace:
    return JobPlace(job.name, job, job, gpu, **more)


def look(*places: JobPlace, root: Path = Path()) -> list[Examined]:
    return Examiner.of(root).examine(places)


def test_an_unchanged_job_is_not_examined_again_and_says_the_same(job: Path, ruled: list[str]) -> None:
    (first,) = look(place(job))
    (second,) = look(place(job))
    assert ruled == ["cat"]
    assert second == first
    assert first.made
    assert second.made
    assert second.made[0].raw_config == (job / "train.yml").read_bytes()
    assert second.made[1].images == first.made[1].images
    assert {"image-few", "image-small"} < {finding.code for finding in second.findings}
    assert second.findings == first.findings


def test_one_life_examines_a_job_once(job: Path, ruled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_CACHE_VARIABLE, "1")
    examiner = Examiner.of()
    assert examiner.examine([place(job)]) == examiner.examine([place(job), place(job)])[:1]
    assert ruled == ["cat"]
    look(place(job))
    assert ruled == ["cat", "cat"]
    assert not Path(CACHE_FOLDER).exists()


def edit_caption(job: Path) -> None:
    (job / "dataset/00002.txt").write_text("tr1gger, edited\n", encoding="utf-8")


def replace_image(job: Path) -> None:
    write_image(job / "dataset/00002.jpg", 77)


def add_stranger(job: Path) -> None:
    (job / "dataset/notes.md").write_text("x", encoding="utf-8")


def lose_caption(job: Path) -> None:
    (job / "dataset/00002.txt").unlink()


def edit_config(job: Path) -> None:
    path = job / "train.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("steps: 20", "steps: 30"), encoding="utf-8")


def second_config(job: Path) -> None:
    shutil.copy(job / "train.yml", job / "train.yaml")


def no_config(job: Path) -> None:
    (job / "train.yml").unlink()


def other_name(job: Path) -> None:
    """What is said names the file."""
    (job / "train.yml").rename(job / "train.yaml")


def same_size_and_time(job: Path) -> None:
    path = job / "dataset/00002.txt"
    before = path.stat()
    path.write_text("tr1gger, picture 7\n", encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def no_dataset(job: Path) -> None:
    shutil.rmtree(job / "dataset")


@pytest.mark.parametrize(
    "change",
    [
        edit_caption,
        replace_image,
        add_stranger,
        lose_caption,
        edit_config,
        second_config,
        no_config,
        other_name,
        same_size_and_time,
        no_dataset,
    ],
)
def test_a_change_is_seen(job: Path, ruled: list[str], change: Callable[[Path], None]) -> None:
    look(place(job))
    change(job)
    (found,) = look(place(job))
    assert ruled == ["cat", "cat"]
    (fresh,) = Examiner().examine([place(job)])
    assert found == fresh


@pytest.mark.parametrize(
    "other",
    [
        lambda old: replace(old, gpu="RTX 4080 (16 GB)"),
        lambda old: replace(old, variables=frozenset(["TOKEN"])),
        lambda old: replace(old, name="kat"),
    ],
)
def test_what_the_stack_says_is_part_of_it_and_two_stacks_are_remembered_beside_each_other(
    job: Path, ruled: list[str], other: Callable[[JobPlace], JobPlace]
) -> None:
    one, two = place(job), other(place(job))
    look(one)
    look(two)
    assert len(ruled) == 2
    look(one)
    look(two)
    assert len(ruled) == 2


def test_other_rules_are_asked_again(
    job: Path, ruled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources"
    (sources / "lint").mkdir(parents=True)
    rule = sources / "lint" / "rule.py"
    rule.write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(examine, "__file__", str(sources / "jobs" / "examine.py"))
    examine._rules.cache_clear()
    try:
        look(place(job))
        rule.write_text("a = 2\n", encoding="utf-8")
        look(place(job))
        assert ruled == ["cat"]  # within one process the rules are what they were when it began
        examine._rules.cache_clear()
        look(place(job))
        assert ruled == ["cat", "cat"]
    finally:
        examine._rules.cache_clear()


def test_a_job_that_breaks_a_needed_rule_is_remembered_with_it(job: Path, ruled: list[str]) -> None:
    lose_caption(job)
    (first,) = look(place(job))
    (second,) = look(place(job))
    assert ruled == ["cat"]
    assert second == first
    assert second.made is None
    assert [finding.code for finding in second.needed] == ["caption-missing"]


def test_what_was_written_just_now_is_not_remembered(
    job: Path, ruled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "SETTLED_SECONDS", 60)
    look(place(job))
    look(place(job))
    assert ruled == ["cat", "cat"]


def test_without_its_images_an_examination_is_not_believed(job: Path, ruled: list[str]) -> None:
    (first,) = look(place(job))
    shutil.rmtree(Path(CACHE_FOLDER) / "folders")
    assert look(place(job)) == [first]
    assert ruled == ["cat", "cat"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"[]\n",
        b'{"version": 1, "signature": "x", "sha256": "x"}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_broken_memory_is_as_good_as_none(job: Path, ruled: list[str], damage: bytes) -> None:
    (first,) = look(place(job))
    (kept,) = (Path(CACHE_FOLDER) / KEPT_IN).glob("*/*")
    kept.write_bytes(damage)
    assert look(place(job)) == [first]
    assert ruled == ["cat", "cat"]


@pytest.mark.parametrize("name", ["findings", "config"])
def test_a_memory_of_another_form_is_as_good_as_none(job: Path, ruled: list[str], name: str) -> None:
    (first,) = look(place(job))
    (kept,) = (Path(CACHE_FOLDER) / KEPT_IN).glob("*/*")
    head = json.loads(kept.read_bytes())
    head[name] = {"findings": [{"code": "x"}], "config": {"a": 1}}[name]
    kept.write_bytes(json.dumps(head).encode() + b"\n")
    assert look(place(job)) == [first]
    assert ruled == ["cat", "cat"]


def test_lint_and_declaration_examine_a_job_once(job: Path, ruled: list[str]) -> None:
    settings = StackSettings(
        cloud="local",
        storage=StorageSettings(bucket="flux"),
        jobs={"cat": JobSettings(lint=LintSettings(silence={"image-few": "a test"}))},
    )
    reports, ids = [], []
    for _ in range(2):
        examiner = Examiner.of()
        reports.append(lint_jobs(settings, examiner=examiner))
        ids.append([one.run_id for one in declare_jobs(settings, examiner=examiner)])
    assert ruled == ["cat"]
    assert reports[0] == reports[1]
    assert [entry.finding.code for entry in reports[1].silenced] == ["image-few"]
    assert ids[0] == ids[1] == [declare_jobs(settings)[0].run_id]
    lose_caption(job)
    with pytest.raises(BadInput, match="no caption for this image"):
        declare_jobs(settings, examiner=Examiner.of())


@pytest.mark.parametrize("name", ["00002.txt", "00002.jpg"])
def test_a_file_that_could_not_be_read_is_tried_again(
    job: Path, ruled: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Too many open files, a network drive that was away: no change of the file will tell that it is over."""
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path)

    with monkeypatch.context() as away:
        away.setattr(Path, "read_bytes", failing)
        (found,) = look(place(job))
        assert [one.path for one in found.needed] == [str(job / "dataset" / name)]
    (found,) = look(place(job))
    assert found.needed == []
    assert ruled == ["cat", "cat"]


def test_a_dataset_that_was_young_when_it_was_scanned_is_not_remembered_however_long_the_look_took(
    job: Path, ruled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "SETTLED_SECONDS", 0.3)
    check = examine.check

    def slow(job: Subject) -> list[Finding]:
        time.sleep(0.5)
        return check(job)

    (job / "dataset/00002.txt").touch()
    with monkeypatch.context() as slowly:
        slowly.setattr(examine, "check", slow)
        look(place(job))
    look(place(job))
    assert ruled == ["cat", "cat"]
    assert look(place(job))
    assert ruled == ["cat", "cat"]


def test_of_one_job_a_few_stacks_are_remembered(job: Path) -> None:
    for number in range(2 * MOST_KEPT):
        look(place(job, gpu=f"GPU {number}"))
    kept = list((Path(CACHE_FOLDER) / KEPT_IN).glob("*/*"))
    assert len(kept) == MOST_KEPT


def test_a_folder_whose_name_is_no_utf8_is_examined(job: Path) -> None:
    odd = job.with_name(os.fsdecode(b"c\xffat"))
    job.rename(odd)
    (found,) = look(place(odd))
    assert "job-name" in {finding.code for finding in found.needed}
    assert look(place(odd)) == [found]


def test_what_is_said_names_the_file_as_it_was_asked_for(job: Path) -> None:
    whole = job.absolute()
    for asked in (job, whole, job):
        (found,) = look(JobPlace("cat", asked, asked))
        assert {Path(one.path).is_relative_to(asked) for one in found.findings} == {True}
        (fresh,) = Examiner().examine([JobPlace("cat", asked, asked)])
        assert found.findings == fresh.findings


def test_the_oldest_of_a_jobs_stacks_is_forgotten(job: Path, ruled: list[str]) -> None:
    for number in reversed(range(MOST_KEPT + 1)):
        look(place(job, gpu=f"GPU {number}"))
        time.sleep(0.01)
    ruled.clear()
    for number in range(MOST_KEPT):
        look(place(job, gpu=f"GPU {number}"))
    assert ruled == []
