"""Two documents beside each other, by the names people use."""

from __future__ import annotations

from typing import Any

import pytest

from flux_training.training.train_yml.diff import (
    MISSING,
    Change,
    caption_changes,
    different,
    differing,
    is_secret,
    leaves,
    setting_changes,
    shown_of,
)


@pytest.mark.parametrize(
    ("document", "flat"),
    [
        ({"a": 1}, {"a": 1}),
        ({"a": {"b": {"c": "x"}}}, {"a.b.c": "x"}),
        ({1: {2: 3}}, {"1.2": 3}),
        ({"config": {"process": [{"train": {"lr": 0.0001}}]}}, {"train.lr": 0.0001}),
        ({"config": {"process": [{"a": 1}, {"a": 2}]}}, {"a": 1, "config.process.1.a": 2}),
        ({"a": [512, 768]}, {"a": [512, 768]}),
        ({"a": [{"b": 1}, 2]}, {"a.0.b": 1, "a.1": 2}),
        ({"a": {}, "b": []}, {"b": []}),
        ("x", {"": "x"}),
    ],
)
def test_every_value_by_its_path(document: Any, flat: dict[str, Any]) -> None:
    assert dict(leaves(document)) == flat


def test_what_differs_by_path() -> None:
    before, after = {"b": 1, "a": 1, "same": 1}, {"c": 2, "a": 3, "same": 1}
    assert different(before, after) == [("a", 1, 3), ("b", 1, MISSING), ("c", MISSING, 2)]
    assert different({"a": 1}, {"a": 1.0}) == []
    assert different({"a": None}, {}) == [("a", None, MISSING)]


def test_what_differs_as_people_name_it() -> None:
    def document(**train: object) -> dict[str, object]:
        return {"config": {"process": [{"train": train}]}}

    assert setting_changes(document(lr=1e-4, token="a"), document(lr=2e-4, token="b", ema=True)) == [
        Change("train.ema", "—", "true"),
        Change("learning rate", "1e-4", "2e-4"),
        Change("train.token", "hidden", "hidden"),
    ]


def test_what_is_not_the_same_in_all() -> None:
    assert differing([{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"b": 1, "c": 3}]) == {
        "a": ["1", "2", "—"],
        "c": ["—", "—", "3"],
    }
    assert differing([{"a": 1}]) == {}
    assert differing([]) == {}


def test_two_settings_of_one_name_are_told_apart() -> None:
    documents = [{"config": {"process": [{"network": {"linear": n, "rank": n}}]}} for n in (1, 2)]
    assert differing(documents) == {"rank": ["1", "2"], "network.rank": ["1", "2"]}


@pytest.mark.parametrize(
    ("path", "secret"), [("hf_TOKEN", True), ("a.b.api_key", True), ("token.length", False), ("steps", False)]
)
def test_what_may_be_a_secret_is_not_shown(path: str, secret: bool) -> None:
    assert is_secret(path) is secret
    assert shown_of(path, 0.5) == ("hidden" if secret else "0.5")
    assert shown_of(path, MISSING) == "—"


def test_captions_by_image() -> None:
    assert caption_changes({"2": "b", "1": "a", "3": "c"}, {"1": "a", "2": "x", "4": "d"}) == [
        Change("2", "b", "x"),
        Change("3", "c", "—"),
        Change("4", "—", "d"),
    ]
