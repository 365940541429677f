"""Lint agrees with the real trainer: what it refuses or fails on is an error, what it trains with is none."""

import shutil
from functools import cache
from pathlib import Path

import pytest

from flux_training.training.train_yml.trainer_config import read_trainer_file
from tests.training.lint.trainer_cases import (
    BASE,
    FAILS_BY_CHANCE,
    RUNS_BY_CHANCE,
    Agreement,
    TrainerCase,
    agreement,
    base_document,
    changed,
    lint_errors,
    trainer_cases,
    tried_cases,
)

CASES = [case for case in trainer_cases() if "raw" not in case.change]
# How many cases lint and the trainer may judge differently, for the reasons in trainer_cases.py.
EXPLAINED = {"trainer_mutations.json": 9, "trainer_trials.json": 34}
# The trainer runs, but not with what is written, or its results would not reach the bucket.
MISREAD = {
    "clipimg": "trains without the images, because the folder is not there",
    "control": "trains without the control images, because the folder is not there",
    "captionext-json": "trains with empty captions, because only .txt files are sent",
    "isflux-str": "takes the text `false` for true",
    "keep-neg": "deletes the newest checkpoints",
    "loss-bad": "trains with the mean squared error",
    "mask": "trains without the masks, because the folder is not there",
    "net-bad": "trains a LoRA",
    "net-pretrained": "trains from the start, because the file is not there",
    "x-clip": "like clipimg",
    "x-onlyif-str": "takes each character for an entry, and so trains all layers",
    "dop-notrig": "ignores the key",
    "no-save": "ignores the section, and saves its checkpoints every 1000 steps",
    "sample-missing": "ignores the section, and draws no sample",
    "unknown-model": "ignores the key",
    "unknown-train": "ignores the key",
    "x-kw-unknown": "ignores the key",
    "x-inp": "trains without the masks, because the folder is not there",
    "y-captype": "trains with empty captions, because no file is named `00001txt`",
    "proc-dict": "writes into a folder that is not uploaded",
    "sampleprompts-str": "draws one image for each character",
}


def name_of(case: TrainerCase) -> str:
    return case.name


def test_the_base_has_no_errors() -> None:
    assert lint_errors(base_document()) == []


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.verdict in ("refused", "failed")], ids=name_of
)
def test_what_the_trainer_fails_on_is_an_error(case: TrainerCase) -> None:
    assert lint_errors(changed(base_document(), case.change)) != [], case.error


def test_a_file_that_is_no_yaml_is_refused_as_by_the_trainer(tmp_path: Path) -> None:
    (case,) = (case for case in trainer_cases() if "raw" in case.change)
    assert (case.name, case.verdict) == ("no-linear", "refused")
    path = tmp_path / "train.yml"
    shutil.copy(BASE, path)
    assert read_trainer_file(tmp_path).fault is None
    text = path.read_text(encoding="utf-8").replace("        linear: 16\n", "          linear: 16\n")
    path.write_text(text, encoding="utf-8")
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert fault.code == "config-yaml"
    assert case.error.startswith("ParserError")
    assert "indented otherwise than those beside it" in fault.message


@pytest.mark.parametrize("case", [case for case in CASES if case.verdict in ("ran", "slow")], ids=name_of)
def test_what_the_trainer_trains_with_is_no_error(case: TrainerCase) -> None:
    errors = lint_errors(changed(base_document(), case.change))
    assert bool(errors) == (case.name in MISREAD), errors


@pytest.mark.parametrize("case", [case for case in CASES if case.verdict == "read"], ids=name_of)
def test_what_was_only_read_is_judged_with_a_reason(case: TrainerCase) -> None:
    verdict, _, reason = case.judged.partition(": ")
    assert verdict in ("runs", "fails")
    assert reason
    assert bool(lint_errors(changed(base_document(), case.change))) == (verdict == "fails")


@pytest.mark.parametrize("name", EXPLAINED)
def test_lint_and_the_trainer_agree(name: str) -> None:
    """For the few changes about which they do not, there is a reason."""
    found = agreements(name)
    assert [case.name for case, how in found if how == Agreement.UNEXPLAINED] == []
    assert [how for _, how in found].count(Agreement.EXPLAINED) <= EXPLAINED[name]


def test_each_explanation_is_needed() -> None:
    explained = [case for name in EXPLAINED for case, how in agreements(name) if how == Agreement.EXPLAINED]
    assert {*FAILS_BY_CHANCE, *RUNS_BY_CHANCE} <= {place for case in explained for place in case.change}


@cache
def agreements(name: str) -> list[tuple[TrainerCase, Agreement]]:
    return [
        (case, agreement(case, lint_errors(changed(base_document(), case.change))))
        for case in tried_cases(name)
    ]
