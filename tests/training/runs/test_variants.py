"""Which jobs share their images, and what differs between them."""

import shutil
from pathlib import Path

from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.runs.variants import Variants, find_variants
from flux_training.training.settings import JobSettings
from tests.training.job_folders import make_job
from tests.training.jobs.test_folder import settings

LR = "learning rate"


def test_jobs_of_a_sweep_are_compared(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    make_job(jobs, "my-dog")
    make_job(jobs, "owl", seed=1)
    for name, lr in (("fast", "2e-4"), ("slow", "5e-5")):
        variant = make_job(jobs, name)
        shutil.rmtree(variant / "dataset")
        config = (variant / "train.yml").read_text(encoding="utf-8")
        (variant / "train.yml").write_text(config.replace("lr: 1e-4", f"lr: {lr}"), encoding="utf-8")
    shared = JobSettings(dataset="my-dog")
    declared = declare_jobs(settings(fast=shared, slow=shared, owl=JobSettings()), tmp_path)
    expected = Variants("my-dog", ("fast", "slow"), {LR: ("2e-4", "5e-5")})
    assert find_variants(declared, {"fast", "owl"}) == (expected,)
    assert find_variants(declared, {"owl"}) == ()
