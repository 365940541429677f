"""Differences between two train.yml, with readable names."""

from typing import Any

import pytest

from flux_training.training.train_yml.diff import (
    ABSENT,
    MISSING,
    Change,
    caption_changes,
    differing_images,
    differing_settings,
    differing_values,
    distinctive_settings,
    flat_values,
    is_secret_setting,
    setting_changes,
    show_setting,
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
def test_leaves_lists_each_value_by_path(document: Any, flat: dict[str, Any]) -> None:
    assert dict(flat_values(document)) == flat


def test_different_lists_changed_added_and_removed_values() -> None:
    before, after = {"b": 1, "a": 1, "same": 1}, {"c": 2, "a": 3, "same": 1}
    assert differing_values(before, after) == [("a", 1, 3), ("b", 1, MISSING), ("c", MISSING, 2)]
    assert differing_values({"a": 1}, {"a": 1.0}) == []
    assert differing_values({"a": None}, {}) == [("a", None, MISSING)]


def test_setting_changes_have_readable_names() -> None:
    def document(**train: object) -> dict[str, object]:
        return {"config": {"process": [{"train": train}]}}

    assert setting_changes(document(lr=1e-4, token="a"), document(lr=2e-4, token="b", ema=True)) == [
        Change("train.ema", "—", "true"),
        Change("learning rate", "1e-4", "2e-4"),
        Change("train.token", "hidden", "hidden"),
    ]


def test_differing_lists_values_that_are_not_equal_everywhere() -> None:
    assert differing_settings([{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"b": 1, "c": 3}]) == {
        "a": ["1", "2", "—"],
        "c": ["—", "—", "3"],
    }
    assert differing_settings([{"a": 1}]) == {}
    assert differing_settings([]) == {}


def test_settings_with_the_same_label_are_kept_apart_and_secrets_hidden() -> None:
    runs = [
        {
            "config": {
                "process": [{"network": {"linear": rank, "rank": rank}, "model": {"hf_token": f"hf-{rank}"}}]
            }
        }
        for rank in (8, 16)
    ]
    assert differing_settings(runs) == {
        "model.hf_token": ["hidden", "hidden"],
        "rank": ["8", "16"],
        "network.rank": ["8", "16"],
    }
    assert [change.key for change in setting_changes(*runs)] == ["model.hf_token", "rank", "rank"]


@pytest.mark.parametrize(
    ("path", "secret"), [("hf_TOKEN", True), ("a.b.api_key", True), ("token.length", False), ("steps", False)]
)
def test_secret_settings_are_hidden(path: str, secret: bool) -> None:
    assert is_secret_setting(path) is secret
    assert show_setting(path, 0.5) == ("hidden" if secret else "0.5")
    assert show_setting(path, MISSING) == "—"


def test_caption_changes_are_listed_by_image() -> None:
    assert caption_changes({"2": "b", "1": "a", "3": "c"}, {"1": "a", "2": "x", "4": "d"}) == [
        Change("2", "b", "x"),
        Change("3", "c", "—"),
        Change("4", "—", "d"),
    ]


def test_the_jobs_of_a_sweep_are_told_apart_by_the_settings_in_which_they_differ() -> None:
    def job(name: str, prompt: str, **train: object) -> dict[str, object]:
        return {"config": {"name": name, "process": [{"train": train, "prompt": prompt}]}}

    assert distinctive_settings({"a": job("a", "x", lr=1e-4), "b": job("b", "x", lr=2e-4, steps=9)}) == {
        "a": "learning rate 1e-4, steps —",
        "b": "learning rate 2e-4, steps 9",
    }
    assert distinctive_settings({"a": job("a", "x"), "b": job("b", "x")}) == {}
    assert distinctive_settings({"a": job("a", "x")}) == distinctive_settings({}) == {}
    # A node can write the train.yml in the bucket.
    hostile = distinctive_settings({"a": job("a", "x" * 500), "b": job("b", "\x1b[2J\ny")})
    assert len(hostile["a"]) < 80
    assert hostile["b"].isprintable()


CAT, DOG = {"sha256": "c", "caption": "a cat"}, {"sha256": "d", "caption": "a dog"}


@pytest.mark.parametrize(
    ("runs", "different"),
    [
        ([{"1.jpg": CAT}, {"1.jpg": CAT}], {}),
        (
            [{"1.jpg": CAT, "2.jpg": DOG}, {"1.jpg": {**CAT, "caption": "my cat"}, "2.jpg": DOG}],
            {"1.jpg": ["a cat", "my cat"]},
        ),
        ([{"1.jpg": CAT, "2.jpg": DOG}, {"2.jpg": DOG}], {"1.jpg": ["a cat", ABSENT]}),
        ([{"2.jpg": DOG}, {"1.jpg": CAT, "2.jpg": DOG}], {"1.jpg": [ABSENT, "a cat"]}),
        (
            [{"1.jpg": CAT, "2.jpg": DOG}, {"1.jpg": {**CAT, "sha256": "e"}, "2.jpg": DOG}],
            {"1.jpg": ["a cat", "a cat (another image)"]},
        ),
        # Jobs of different images: nothing is comparable.
        ([{"1.jpg": CAT}, {"1.jpg": DOG}], {}),
        ([{}, {}], {}),
    ],
)
def test_images_and_captions_that_differ_between_runs(
    runs: list[dict[str, dict[str, str]]], different: dict[str, list[str]]
) -> None:
    assert differing_images(runs) == different
