"""Two documents beside each other, by the names people use."""

from __future__ import annotations

from typing import Any

import pytest

from training.config_diff import Change, caption_changes, changes, differing, flatten


@pytest.mark.parametrize(
    ("document", "flat"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": {"b": {"c": "x"}}}, {"a.b.c": "x"}),
        ({1: {2: 3}}, {"1.2": "3"}),
        ({"config": {"process": [{"train": {"lr": 0.0001}}]}}, {"train.lr": "0.0001"}),
        ({"config": {"process": [{"a": 1}, {"a": 2}]}}, {"a": "1", "config.process[1].a": "2"}),
        ({"a": [512, 768]}, {"a": "[512, 768]"}),
        ({"a": ["x", 1]}, {"a[0]": "x", "a[1]": "1"}),
        ({"a": [[1], 2]}, {"a[0]": "[1]", "a[1]": "2"}),
        ({"a": {}, "b": []}, {"a": "{}", "b": "[]"}),
        (
            {"a": True, "b": False, "c": None, "d": 2.0, "e": 1e-5},
            {"a": "true", "b": "false", "c": "null", "d": "2", "e": "1e-05"},
        ),
        ("x", {"": "x"}),
        ({}, {"": "{}"}),
    ],
)
def test_every_value_by_its_path(document: Any, flat: dict[str, str]) -> None:
    assert flatten(document) == flat


def test_what_differs_by_name() -> None:
    before, after = {"b": 1, "a": 1, "same": 1}, {"c": 2, "a": 3, "same": 1}
    assert changes(before, after) == [Change("a", "1", "3"), Change("b", "1", "—"), Change("c", "—", "2")]
    assert changes({"a": 1}, {"a": 1.0}) == []


def test_what_is_not_the_same_in_all() -> None:
    assert differing([{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"b": 1, "c": 3}]) == {
        "a": ["1", "2", "—"],
        "c": ["—", "—", "3"],
    }
    assert differing([{"a": 1}]) == {}
    assert differing([]) == {}


def test_captions_by_image() -> None:
    assert caption_changes({"2": "b", "1": "a", "3": "c"}, {"1": "a", "2": "x", "4": "d"}) == [
        Change("2", "b", "x"),
        Change("3", "c", "—"),
        Change("4", "—", "d"),
    ]
