"""YAML is read as ai-toolkit reads it. The values were compared with its own loader (toolkit/config.py)."""

import random
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.train_yml import trainer_config
from flux_training.training.train_yml.trainer_config import parse_train_yml, read_trainer_file

TEXT = "job: extension\nconfig:\n  name: cat\n  process:\n    - value: {value}\n"
SIGNS = ["\t", " ", "\n", *":,#%?&*!|>'\"{}[]-\\@`0~", "\u2028", "\x85", "\ufeff", "\xa0", "<<", "---", "\r"]


def value_of(text: str) -> Any:
    return parse_train_yml(TEXT.format(value=text).encode())["config"]["process"][0]["value"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1E4", 10000.0),
        ("-.5e3", "-.5e3"),
        ("'1e-4'", "1e-4"),
        ("1_000", 1000),
        ("010", 8),
        ("0o10", "0o10"),
        ("0x1F", 31),
        ("1:30", 90),
        ("yes", True),
        ("OFF", False),
        ("y", "y"),
        ("'yes'", "yes"),
        ("~", None),
        ("", None),
        ("{1: a}", {"1": "a"}),
        ("{a: 1, a: 2}", {"a": 2}),
        ("{<<: {a: 1}}", {"a": 1}),
        ("'[name]'", "cat"),
    ],
)
def test_a_value_is_what_the_trainer_makes_of_it(text: str, value: Any) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("2024-01-01", "config-value"),
        ("!!set {a}", "config-value"),
        ("!!bool 1", "config-value"),
        ("!!int ''", "config-value"),
        ("!!timestamp a", "config-value"),
        ("{[1]: a}", "config-yaml"),
        ("*missing", "config-yaml"),
        ("=", "config-yaml"),
        ("- a", "config-yaml"),
        # libyaml accepts these.
        ("\t1", "config-yaml"),
        ("{a: 1?2}", "config-yaml"),
    ],
)
def test_what_the_trainer_cannot_read_is_a_fault(text: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(TEXT.format(value=text), encoding="utf-8")
    fault = read_trainer_file(tmp_path).fault
    assert fault is not None
    assert fault.code == code


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_loader_reads_what_the_trainers_loader_reads(seed: int) -> None:
    dice = random.Random(seed)
    base = TEXT.format(value='{lr: 1e-4, b: [1, "c: d"]}\n      other: # nothing\n        - e')
    for _ in range(100):
        at, sign = dice.randrange(len(base)), dice.choice(SIGNS)
        raw = (base[:at] + sign + base[at + dice.randrange(2) :]).encode()
        if document := parse_train_yml(raw):
            assert document == trainer_config._parse(raw)[0]
