"""A full disk, a read-only checkout and no network, made with namespaces of Linux, which only root may have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.flux import HALF_WRITTEN
from tests.training.lint_folders import make_clean_job

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="only root can have namespaces of its own"
    ),
]
FULL = "mount -t tmpfs -o size={size}k none jobs"
READ_ONLY = "mount --bind . . && mount -o remount,ro,bind . && cd {folder}"
SALAD = """\
config:
  flux-training:cloud: salad
  flux-training:jobs:
    photos: {}
  flux-training:storage:
    kind: s3
    bucket: my-loras
  flux-training:cluster:
    gpu: RTX 5090
"""
KEYS = {
    "SALAD_API_KEY": "a-key",
    "SALAD_ORGANIZATION": "an-organization",
    "SALAD_PROJECT": "a-project",
    "FLUX_S3_ENDPOINT_URL": "https://s3.example.org",
    "FLUX_S3_ACCESS_KEY_ID": "an-id",
    "FLUX_S3_SECRET_ACCESS_KEY": "a-secret",
    "PULUMI_CONFIG_PASSPHRASE": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a folder of photos, `photos/dataset`, and a job of the same images."""
    shutil.copytree(ROOT / "flux_training", tmp_path / "flux_training", ignore=HALF_WRITTEN)
    for name in ("Pulumi.yaml", "Pulumi.dev.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "jobs").mkdir()
    make_clean_job(tmp_path, "photos")
    make_clean_job(tmp_path / "jobs", "photos")
    return tmp_path


def flux_in(namespace: str, before: str, checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flux` in a namespace of its own after the commands `before`; then list what is in jobs/."""
    script = f'{before} && {{ "$@"; code=$?; echo "left:" $(ls -A jobs); exit $code; }}'
    line = [
        "unshare",
        namespace,
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-P",
        "-m",
        "flux_training.commands",
    ]
    return subprocess.run(
        [*line, *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "HOME": str(checkout), **KEYS},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("size", [4, 16, 60])
def test_a_full_disk_is_named_and_no_half_made_job_is_left(size: int, checkout: Path) -> None:
    new = ("new", "cat", "--from", "photos/dataset", "--trigger", "tr1gger")
    done = flux_in("--mount", FULL.format(size=size), checkout, *new)
    assert done.returncode == 1
    assert "the disk is full; free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("left:\n")


def test_a_read_only_checkout_can_be_linted_and_says_why_nothing_can_be_made(checkout: Path) -> None:
    read_only = READ_ONLY.format(folder=checkout)
    done = flux_in("--mount", read_only, checkout, "lint", "photos")
    assert done.returncode == 0, done.stderr
    done = flux_in("--mount", read_only, checkout, "new", "cat", "--from", "photos/dataset", "--trigger", "x")
    assert done.returncode == 1
    assert "the file system is read-only; mount it for writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("left: photos\n")


def test_without_a_network_doctor_names_what_it_cannot_reach(checkout: Path) -> None:
    (checkout / "Pulumi.prod.yaml").write_text(SALAD, encoding="utf-8")
    done = flux_in("--net", "ip link set lo up", checkout, "doctor", "--stack", "prod")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    printed = done.stdout + done.stderr
    for host in ("api.salad.com", "kelpie.saladexamples.com", "s3.example.org"):
        assert f"{host} cannot be reached" in printed
