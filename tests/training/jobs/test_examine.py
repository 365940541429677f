"""Examining job folders: each job once, with the same result for lint and for the program."""

import os
from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding
from flux_training.training.jobs import examine
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.examine import Examiner, JobPlace
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.lint.registry import Subject
from flux_training.training.settings import JobSettings, LintSettings, StackSettings, StorageSettings
from tests.training.job_folders import make_job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid job folder with warnings."""
    monkeypatch.chdir(tmp_path)
    return make_job(Path("jobs"), "cat")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that were checked."""
    names: list[str] = []
    check = examine.check_rules

    def noted(job: Subject) -> list[Finding]:
        names.append(job.name)
        return check(job)

    monkeypatch.setattr(examine, "check_rules", noted)
    return names


def test_an_examiner_runs_the_rules_once_per_job(job: Path, checked: list[str]) -> None:
    place = JobPlace("cat", job, job, "RTX 5090")
    examiner = Examiner.of()
    (first,) = examiner.examine([place])
    assert examiner.examine([place, place]) == [first, first]
    assert checked == ["cat"]
    assert first.made
    assert first.made[0].raw_config == (job / "train.yml").read_bytes()
    assert {"image-few", "image-small"} < {finding.code for finding in first.findings}
    other = JobPlace("cat", job, job, "RTX 4080 (16 GB)")
    assert examiner.examine([other])[0].findings != first.findings


def test_lint_and_declaration_run_the_rules_once(job: Path, checked: list[str]) -> None:
    silence = LintSettings(silence={"image-few": "a test"})
    settings = StackSettings(
        cloud="local", storage=StorageSettings(bucket="flux"), jobs={"cat": JobSettings(lint=silence)}
    )
    examiner = Examiner.of()
    report = lint_jobs(settings, examiner=examiner)
    run_ids = [one.run_id for one in declare_jobs(settings, examiner=examiner)]
    assert checked == ["cat"]
    assert [entry.finding.code for entry in report.silenced] == ["image-few"]
    assert run_ids == [declare_jobs(settings)[0].run_id]
    (job / "dataset/00002.txt").unlink()
    with pytest.raises(BadInput, match="no caption for this image"):
        declare_jobs(settings, examiner=Examiner.of())


def test_a_job_that_breaks_a_needed_rule_cannot_be_declared(job: Path) -> None:
    (job / "dataset/00002.txt").unlink()
    (found,) = Examiner().examine([JobPlace("cat", job, job)])
    assert found.made is None
    assert [finding.code for finding in found.needed] == ["caption-missing"]


def test_a_folder_with_a_name_that_is_not_utf8_is_examined(job: Path) -> None:
    odd = job.with_name(os.fsdecode(b"c\xffat"))
    job.rename(odd)
    (found,) = Examiner.of().examine([JobPlace(odd.name, odd, odd)])
    assert "job-name" in {finding.code for finding in found.needed}


def test_findings_have_paths_like_the_job_folder_that_was_given(job: Path) -> None:
    for folder in (job, job.absolute()):
        (found,) = Examiner.of().examine([JobPlace("cat", folder, folder)])
        assert all(Path(one.path).is_relative_to(folder) for one in found.findings)
