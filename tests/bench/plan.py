"""A no-op over 4,000 files, from the folder to the plan, compared with a bare stat walk."""

import contextlib
import os
import time
from pathlib import Path

from flux_training.training.dataset.image_cache import SETTLED_SECONDS
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings
from tests.bench.measure import in_turns, ratio, table
from tests.training.job_folders import make_job

IMAGES = 2000


def scan_to_plan(folder: Path, rounds: int) -> str:
    make_job(folder / "jobs", "cat", images=IMAGES)
    settings = StackSettings(
        cloud="local", storage=StorageSettings(bucket="bench"), jobs={"cat": JobSettings()}
    )
    time.sleep(SETTLED_SECONDS + 0.5)

    def ours() -> None:
        examiner = Examiner.of()
        lint_jobs(settings, examiner=examiner)
        for job in declare_jobs(settings, examiner=examiner):
            assert job.run_id

    def stat_walk() -> None:
        for root, _folders, files in os.walk(folder / "jobs"):
            for name in files:
                os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118 - bare

    with contextlib.chdir(folder):
        ours()
        times = in_turns(
            {
                "ours, with all rules of lint": ours,
                "a bare stat walk": stat_walk,
            },
            rounds,
        )
    bare = times["a bare stat walk"]
    return table(
        f"No-op over {2 * IMAGES:,} files: folder scan to plan",
        times,
        "ours, with all rules of lint",
        {name: f"{ratio(found, bare)} times the walk" for name, found in times.items() if found is not bare},
    )
