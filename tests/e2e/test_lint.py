"""Lint findings in a preview by a real engine."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.checkout import Checkout, new_checkout
from tests.training.lint_folders import TOKEN, make_clean_job

EDITS = {
    "config-name": ('"bird"', '"brid"'),
    "training-folder": ("training_folder: output", "training_folder: out"),
    "push-to-hub": ("push_to_hub: false", "push_to_hub: true"),
    "key-unknown": ("batch_size: 1", "batchsize: 1"),
    "learning-rate-invalid": ("lr: 1e-4", "lr: fast"),
    "model-path": ("/model", "black-forest-labs/FLUX.1-dev"),
}


@pytest.fixture
def checkout(tmp_path: Path, virtualenv: Path) -> Iterator[Checkout]:
    with new_checkout(tmp_path / "checkout", virtualenv=virtualenv) as fresh:
        yield fresh


def make_ten_mistakes(folder: Path) -> set[str]:
    """Break a clean folder; the codes of the broken rules."""
    config = (folder / "train.yml").read_text(encoding="utf-8")
    for old, new in EDITS.values():
        assert config.count(old) == 1
        config = config.replace(old, new)
    (folder / "train.yml").write_text(config, encoding="utf-8")
    dataset = folder / "dataset"
    os.truncate(dataset / "00001.jpg", 1500)
    (dataset / "00002.txt").unlink()
    (dataset / "00003.txt").write_bytes(b"tr1gger in a caf\xe9")
    (dataset / "00004.txt").write_text(f"tr1gger {TOKEN}", encoding="utf-8")
    return {*EDITS, "image-truncated", "caption-missing", "caption-encoding", "caption-secret"}


def test_one_preview_reports_ten_mistakes_and_creates_nothing(checkout: Checkout) -> None:
    broken = make_ten_mistakes(make_clean_job(checkout.root / "jobs", "bird"))
    checkout.declare(bird={})
    checkout.make("cloud")
    checkout.run_engine("stack", "select", "--create", "dev")
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        done = checkout.run_engine(*command)
        printed = done.stdout + done.stderr
        assert done.returncode != 0
        told = re.findall(r"error: (jobs/bird/\S+): .+ \[([a-z-]+)\]", printed)
        assert len(told) == len(broken) == 10, printed
        assert {code for _, code in told} == broken
        assert all(re.fullmatch(r"jobs/bird/train\.yml:\d+", place) for place, code in told if code in EDITS)
        assert TOKEN not in printed
        assert "Traceback" not in printed
    assert checkout.resources() == []
    assert [entry for entry in checkout.requests() if entry["method"] != "GET"] == []


@pytest.mark.long
def test_each_warning_is_printed_once_and_stops_nothing(checkout: Checkout) -> None:
    folder = make_clean_job(checkout.root / "jobs", "bird")
    (folder / "dataset/00001.txt").write_text("no such word", encoding="utf-8")
    (folder / "dataset/00002.txt").write_text("nor here", encoding="utf-8")
    checkout.declare(bird={})
    printed = checkout.make("preview")
    assert re.findall(r"warning: jobs/bird/dataset/([^:]+): .*\[([a-z-]+)\]", printed) == [
        ("00001.txt, 00002.txt", "caption-trigger")
    ]
    checkout.declare(bird={"lint": {"silence": {"caption-trigger": "two of them show no bird"}}})
    assert "caption-trigger" not in checkout.make("preview")


@pytest.mark.long
def test_the_program_refuses_a_setting_that_pulumi_ignores(checkout: Checkout) -> None:
    checkout.make("cloud")
    checkout.run_engine("stack", "select", "--create", "dev")
    with (checkout.root / "Pulumi.dev.yaml").open("a", encoding="utf-8") as file:
        file.write("flux-training:budget: {maxUsd: 1}\n")
    done = checkout.run_engine("up", "--yes", "--skip-preview")
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert "error: Pulumi.dev.yaml: `flux-training:budget` would be ignored" in printed
    assert checkout.resources() == []
