"""Changing one value of a YAML text keeps every other byte."""

import difflib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.train_yml.yaml_text import (
    add_entry,
    flow_yaml,
    node_at,
    quote_yaml,
    remove_entry,
    set_value,
)

JOBS = ("config", "p:jobs")
TRAIN = Path(__file__).parents[3] / "jobs/chelsea-cat/train.yml"


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    lines = [line for line in difflib.ndiff(before.split("\n"), after.split("\n")) if line[0] in "+-"]
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


@pytest.mark.parametrize(
    ("path", "literal", "line"),
    [
        (("train", "lr"), "2e-4", "        lr: 2e-4"),
        (("network", "linear"), "32", "        linear: 32"),
        (("datasets", 0, "resolution"), "[512]", "          resolution: [512]"),
        (("trigger_word",), '"a: b # c"', '      trigger_word: "a: b # c"'),
        (("sample", "prompts", 1), '"x"', '          - "x"'),
    ],
)
def test_setting_a_value_changes_only_its_line(path: tuple[str | int, ...], literal: str, line: str) -> None:
    text = TRAIN.read_text(encoding="utf-8")
    after = set_value(text, ("config", "process", 0, *path), literal)
    removed, added = changed_lines(text, after)
    assert added == [line]
    assert len(removed) == 1


def test_comments_carriage_returns_and_earlier_duplicates_are_kept() -> None:
    assert set_value("a: 1   # one\r\nb: 2\r\n", ("a",), "9") == "a: 9   # one\r\nb: 2\r\n"
    assert set_value("a: 1\na: 2\n", ("a",), "3") == "a: 1\na: 3\n"


@pytest.mark.parametrize(
    ("text", "path", "literal", "error"),
    [
        ("a: {c: 1}", ("a", "b"), "2", KeyError("a.b")),
        ("a:\n  b: 1", ("a",), "2", ValueError("it is a multi-line block")),
        ("a: |\n  b", ("a",), "2", ValueError("it is a multi-line block")),
        ("a: >\n  b", ("a",), "2", ValueError("it is a multi-line block")),
        ("a:\nb: 1", ("a",), "2", ValueError("the key has no value; write one first")),
        ("a: &x 1\nb: *x", ("a",), "2", ValueError("this edit would also change other values in the file")),
        ("a: 1", ("a",), "2\nb: 3", ValueError("it is not YAML")),
        ("a: [1]", ("a", 0), "2, 3", ValueError("this edit would also change other values in the file")),
        (
            "a: {0: {b: 1}}",
            ("a", 0, "b"),
            "2",
            ValueError("this edit would also change other values in the file"),
        ),
        ("a: 1", ("a",), "{", ValueError("it is not YAML")),
    ],
)
def test_values_that_cannot_be_set_separately_are_rejected(
    text: str, path: tuple[str | int, ...], literal: str, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        set_value(text, path, literal)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "config:\n  p:jobs:\n    a: {}  # last\n  # of b\n  b: 1\n",
            "config:\n  p:jobs:\n    a: {}  # last\n    n: {}\n  # of b\n  b: 1\n",
        ),
        (
            "config:\n  p:jobs:\n    a:\n      x: 1\n  b: 1\n",
            "config:\n  p:jobs:\n    a:\n      x: 1\n    n: {}\n  b: 1\n",
        ),
        ("config:\n  p:jobs:\n    a:\n  b: 1\n", "config:\n  p:jobs:\n    a:\n    n: {}\n  b: 1\n"),
        ("config:\n  p:jobs: {}\n  b: 1\n", "config:\n  p:jobs: {n: {}}\n  b: 1\n"),
        ("config:\n  p:jobs: {a: {}} # x\n", "config:\n  p:jobs: {a: {}, n: {}} # x\n"),
        ("config:\n  p:jobs:\n  b: 1\n", "config:\n  p:jobs:\n    n: {}\n  b: 1\n"),
        ("config:\n  p:jobs: { a: {} } # x\n", "config:\n  p:jobs: { a: {}, n: {} } # x\n"),
        ("config:\n  b: 1", "config:\n  b: 1\n  p:jobs:\n    n: {}\n"),
        ("config:\n  b: 1\n", "config:\n  b: 1\n  p:jobs:\n    n: {}\n"),
        ("config:\n  p:jobs: {a: {}}\n  p:jobs:\n", "config:\n  p:jobs: {a: {}}\n  p:jobs:\n    n: {}\n"),
        (
            "config:\n  p:jobs:\n    a:\n      - 1\n      - 2\n      - 3\n  # of b\n  b: 1\n",
            "config:\n  p:jobs:\n    a:\n      - 1\n      - 2\n      - 3\n    n: {}\n  # of b\n  b: 1\n",
        ),
        (
            "config:\n  p:jobs:\n    a: |\n      x\n  b: 1\n",
            "config:\n  p:jobs:\n    a: |\n      x\n    n: {}\n  b: 1\n",
        ),
        (
            "d: &d {}\nconfig:\n  p:jobs:\n    a: *d\n  b: 1\n",
            "d: &d {}\nconfig:\n  p:jobs:\n    a: *d\n    n: {}\n  b: 1\n",
        ),
        ("config:\r\n  p:jobs:\r\n    a: {}\r\n", "config:\r\n  p:jobs:\r\n    a: {}\r\n    n: {}\r\n"),
    ],
)
def test_an_entry_is_added_after_the_last_one(before: str, after: str) -> None:
    assert add_entry(before, JOBS, "n", {}) == after


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (("a",), "b: 1\n", "b: 1\na:\n  n: {}\n"),
        (("a", "b", "c"), "a:\n  b:\n    x: 1\n", "a:\n  b:\n    x: 1\n    c:\n      n: {}\n"),
        (("a", "b", "c"), "a:\n  b:\n    c:\nd: 1\n", "a:\n  b:\n    c:\n      n: {}\nd: 1\n"),
    ],
)
def test_an_entry_is_added_at_any_depth(path: tuple[str, ...], before: str, after: str) -> None:
    assert add_entry(before, path, "n", {}) == after


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (JOBS, "config: {b: 1}", "it has no `p:jobs`"),
        (JOBS, "config: {b: 1, p:jobs: }", "it has no `p:jobs`"),
        (JOBS, "config: {}", "it has no `p:jobs`"),
        (JOBS, "a: 1", "it has no `p:jobs`"),
        (("jobs",), "[a]", "it has no `jobs`"),
        (("jobs",), "jobs: 1", "its `jobs` is not a mapping"),
        (JOBS, "config:\n  p:jobs: [a]\n", "its `p:jobs` is not a mapping"),
        (("a", *JOBS), "a:\n  config:\n    p:jobs: x\n", "its `p:jobs` is not a mapping"),
        (JOBS, "config:\n  p:jobs: {a: {},}", "this edit would also change other values in the file"),
    ],
)
def test_documents_without_the_mapping_are_rejected(path: tuple[str, ...], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"\b(its?|the)\b") as caught:
        add_entry(text, path, "n", {})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {n: 1}", "a: {}"),
        ("a: {n: 1, b: 2} # x", "a: {b: 2} # x"),
        ("a: { b: 2, n: [1] } # x", "a: { b: 2 } # x"),
        ("a: {b: 2, n: 1, c: 3}", "a: {b: 2, c: 3}"),
        (
            "a:\n  # of b\n  b: 2\n  n: 1  # of n\n  # of c\n  c: 3\n",
            "a:\n  # of b\n  b: 2\n  # of c\n  c: 3\n",
        ),
        ("a:\r\n  b: 2\r\n  n:\r\n    - 1\r\nz: 1\r\n", "a:\r\n  b: 2\r\nz: 1\r\n"),
        ("a:\n  b: 2\n  n: 1", "a:\n  b: 2\n"),
        ("a:\n  n:\nz: 1\n", "a:\nz: 1\n"),
    ],
)
def test_only_the_removed_entry_is_missing(before: str, after: str) -> None:
    assert remove_entry(before, ("a",), "n") == after


@pytest.mark.parametrize(
    ("text", "error"),
    [("a: {b: 1}", KeyError), ("a: 1", KeyError), ("a:\n  n: &x 1\n  b: *x\n", ValueError)],
)
def test_an_entry_that_cannot_be_removed_separately_is_reported(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        remove_entry(text, ("a",), "n")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a b", "a b"),
        ("é", "é"),
        ("", '""'),
        ("true", '"true"'),
        ("12", '"12"'),
        ("1e-4", '"1e-4"'),
        ("{", '"{"'),
        ("a: b", '"a: b"'),
        ("a #b", '"a #b"'),
        ("é: 🐈", '"é: 🐈"'),
        ("!!bool 1", '"!!bool 1"'),
        ("!!int ''", "\"!!int ''\""),
        ("!!timestamp a", '"!!timestamp a"'),
    ],
)
def test_a_text_is_quoted_where_yaml_would_read_something_else(text: str, quoted: str) -> None:
    assert quote_yaml(text) == quoted


@given(st.text(max_size=30))
def test_quoted_texts_survive_a_round_trip(text: str) -> None:
    if not text.isprintable():
        return
    quoted = quote_yaml(text)
    assert yaml.safe_load(quoted) == text
    assert parse_train_yml(f"{{job: x, config: {{v: {quoted}}}}}".encode())["config"]["v"] == text
    assert yaml.safe_load(f"{{{quoted}: [{quoted}]}}") == {text: [text]}


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=12)
VALUES = st.one_of(st.booleans(), st.integers(), st.none(), WORDS)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=3), min_size=1, max_size=4), WORDS, VALUES
)
def test_adding_an_entry_changes_nothing_else(
    jobs: dict[str, dict[str, object]], name: str, value: object
) -> None:
    before = yaml.safe_dump({"config": {"p:jobs": jobs, "z": 1}}, allow_unicode=True, sort_keys=False)
    if name in jobs or any(not str(key).isprintable() for key in jobs):
        return
    after = add_entry(before, JOBS, name, {"v": value})
    assert yaml.safe_load(after) == {"config": {"p:jobs": {**jobs, name: {"v": value}}, "z": 1}}
    removed, added = changed_lines(before, after)
    assert (removed, len(added)) == ([], 1)


def test_flow_values_survive_a_round_trip() -> None:
    value = {"dataset": "1e-4", "maxHours": 2.5, "resume": True, "list": ["a, b", None]}
    assert yaml.safe_load(flow_yaml(value)) == value


def test_node_at_returns_none_for_a_missing_path() -> None:
    assert node_at("a: [1]", ("a", 1)) is None
    assert node_at("a: 1", ("a", "b")) is None
