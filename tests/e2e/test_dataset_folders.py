"""A job with control images and a second dataset, from its folder to the report."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.checkout import asked, new_checkout
from tests.e2e.test_main_job import assert_results_are_whole, results
from tests.training.job_folders import OTHER_WEIGHTS, add_folders, make_job


@pytest.mark.long
def test_a_job_with_control_images_is_trained_and_reported(tmp_path: Path) -> None:
    with new_checkout(tmp_path / "checkout") as checkout:
        job = make_job(checkout.root / "jobs", "edit")
        add_folders(job)
        checkout.declare(edit=OTHER_WEIGHTS)

        control = job / "control/00002.png"
        control.rename(tmp_path / "kept.png")
        refused = checkout.make("up", code=2)
        assert "pair-missing" in refused, refused
        assert asked(checkout.requests(), "s3", "PUT") == []
        (tmp_path / "kept.png").rename(control)

        checkout.make("up")
        run = results(checkout, "edit")
        assert_results_are_whole(run, "edit")
        (dataset,) = (path for path in (checkout.bucket / "datasets").iterdir() if path.is_dir())
        stored = {str(path.relative_to(dataset)) for path in dataset.rglob("*") if path.is_file()}
        assert {"00001.jpg", "control/00001.png", "mask/00003.png", "reg/00002.png"} <= stored
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["images"]
        assert ("caption" in manifest["reg/00001.png"], "caption" in manifest["control/00001.png"]) == (
            True,
            False,
        )
        checkout.flux("report", "edit")
        page = next((checkout.root / "outputs").rglob("*.html")).read_text(encoding="utf-8")
        assert "control/00001.png" in page

        before = len(checkout.requests())
        assert "unchanged" in checkout.make("up")
        assert asked(checkout.requests()[before:], "s3", "PUT") == []

        # Another control image makes another dataset and another run.
        shutil.copy(job / "mask/00001.png", job / "control/00001.png")
        assert "1 image replaced: control/00001.png" in checkout.make("preview")
