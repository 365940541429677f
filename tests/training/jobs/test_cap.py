"""`maxSteps`: what is trained on the local cloud in place of what train.yml says."""

from pathlib import Path

import pytest

from flux_training.training.errors import BadInput
from flux_training.training.jobs.cap import cap_steps, describe_long_trainings
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.folder import JobFolder, read_config
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.trainer_config import parse_train_yml
from tests.training.job_folders import make_job


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return read_config(make_job(tmp_path / "jobs", "cat", images=1, steps=2000))


def settings(**more: object) -> StackSettings:
    return StackSettings.model_validate(
        {"cloud": "local", "storage": {"bucket": "bucket-name"}, "jobs": {"cat": {}}, **more}
    )


def test_only_the_number_of_steps_changes(job: JobFolder) -> None:
    capped = cap_steps(job, 200)
    assert (capped.steps, capped.save_every) == (200, job.save_every)
    before, after = parse_train_yml(job.raw_config), parse_train_yml(capped.raw_config)
    before["config"]["process"][0]["train"]["steps"] = 200
    assert after == before
    assert cap_steps(job, 2000) is cap_steps(job, None) is job


def test_a_capped_job_is_another_run_and_its_file_is_left_alone(job: JobFolder, tmp_path: Path) -> None:
    (long,), (short,) = (declare_jobs(settings(**more), tmp_path) for more in ({}, {"maxSteps": 200}))
    assert (long.folder.steps, short.folder.steps) == (2000, 200)
    assert long.run_id != short.run_id
    assert short.with_own_line_endings is None
    assert read_config(job.path) == job


def test_steps_that_cannot_be_replaced_are_named(job: JobFolder) -> None:
    train_yml = job.path / "train.yml"
    text = train_yml.read_text(encoding="utf-8").replace("steps: 2000", "steps: &n 2000, warmup: *n")
    train_yml.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"maxSteps \(5\) cannot replace train.steps"):
        cap_steps(JobFolder("cat", job.path, text.encode(), 2000, 10, text.encode()), 5)


def test_other_clouds_have_no_cap() -> None:
    with pytest.raises(ValueError, match=r"maxSteps \(200\) is only for the local cloud"):
        settings(cloud="salad", maxSteps=200)


@pytest.mark.parametrize(
    ("steps", "note"), [(300, ""), (2000, "takes 80 s to 15 min for cat. For a quick try: FIX")]
)
def test_trainings_of_minutes_are_announced(steps: int, note: str, tmp_path: Path) -> None:
    job = read_config(make_job(tmp_path / "jobs", "cat", images=1, steps=steps))
    assert describe_long_trainings([job], "FIX").endswith(note)
    assert bool(describe_long_trainings([job], "FIX")) == bool(note)
