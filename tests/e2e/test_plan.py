"""`flux plan` with a real engine: one job added, one edited, one removed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.checkout import FAST_CLOUD, Checkout, new_checkout
from tests.training.job_folders import make_job, write_image


def plan(checkout: Checkout, *options: str) -> subprocess.CompletedProcess[str]:
    return checkout.run_flux("plan", *options)


@pytest.mark.long
def test_a_plan_lists_new_edited_and_removed_jobs_with_reasons(
    tmp_path: Path, engine: str, virtualenv: Path
) -> None:
    """No node runs: what is queued has not been trained, and its images are in the bucket."""
    with new_checkout(tmp_path / "checkout", f"{FAST_CLOUD} --nodes 0", engine, virtualenv) as checkout:
        make_job(checkout.root / "jobs", "owl", seed=3)
        checkout.flux("up", "--no-wait")
        cat = checkout.root / "jobs/cat"
        (cat / "dataset/00001.txt").write_text("tr1gger, edited\n", encoding="utf-8")
        (cat / "dataset/00003.jpg").unlink()
        (cat / "dataset/00003.txt").unlink()
        write_image(cat / "dataset/00004.jpg", 99)
        (cat / "dataset/00004.txt").write_text("tr1gger, new\n", encoding="utf-8")
        config = (cat / "train.yml").read_text(encoding="utf-8")
        (cat / "train.yml").write_text(config.replace("lr: 1e-4", "lr: 2e-4"), encoding="utf-8")
        checkout.declare(cat={}, owl={})

        before = len(checkout.requests())
        assert "cat: 1 image added: 00004.jpg; 1 image removed: 00003.jpg; 1 caption changed: 00001.txt;" in (
            checkout.make("preview")
        )
        previewed = len(checkout.requests())
        done = plan(checkout, "--json")
        assert done.returncode == 0, done.stderr
        assert len(checkout.requests()) - previewed <= 1.3 * (previewed - before)
        jobs = json.loads(done.stdout)["jobs"]
        assert {name: job["what"] for name, job in jobs.items()} == {
            "cat": "again",
            "dog": "canceled",
            "owl": "new",
        }
        *reasons, canceled = jobs["cat"]["reasons"]
        assert reasons == [
            "1 image added",
            "1 image removed",
            "1 caption changed",
            "learning rate 1e-4 → 2e-4",
        ]
        assert canceled.startswith("its unfinished run ")
        assert (jobs["cat"]["imagesAdded"], jobs["cat"]["imagesRemoved"]) == (["00004.jpg"], ["00003.jpg"])
        assert jobs["cat"]["usd"] > 0
        found = json.loads(done.stdout)
        assert (found["upload"]["images"], found["upload"]["copied"]) == (4, 2)

        page = checkout.root / "plan.html"
        text = plan(checkout, "--markdown", "--html", str(page)).stdout
        assert (
            "| **again** | `cat` | 1 image added; 1 image removed; 1 caption changed; learning rate 1e-4 → 2e-4; its unfinished run "
            in text
        )
        assert f"The same with pictures: {page}" in plan(checkout, "--html", str(page)).stdout.splitlines()
        # One picture for each new image, one for the edited caption, and the removed image from the bucket.
        assert page.read_text(encoding="utf-8").count("data:image/webp;base64,") == 3 + 1 + 1 + 1

        secrets = json.loads((checkout.root / ".localcloud/connection.json").read_text(encoding="utf-8"))
        printed = done.stdout + text + page.read_text(encoding="utf-8")
        assert secrets["salad"]["api_key"] not in printed
        assert secrets["s3"]["secret_access_key"] not in printed

        checkout.configure("budget", {"maxUsd": 0.000001})
        refused = plan(checkout, "--markdown")
        assert refused.returncode == 1
        assert "would change nothing" in refused.stdout
        assert "budget.maxUsd" in refused.stdout
        assert "Traceback" not in refused.stderr
