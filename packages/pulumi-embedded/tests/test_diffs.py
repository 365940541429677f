"""What differs between old and new properties, and the paths by which that is said; without a process."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pulumi_embedded.errors import EngineError
from pulumi_embedded.properties import diffs, paths, values
from pulumi_embedded.properties.values import UNKNOWN, Secret
from pulumi_embedded.providers.provider import Diff


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": "update"}),
        ({"a": 1}, {}, {"a": "delete"}),
        ({}, {"a": None}, {"a": "add"}),
        ({"a": None}, {}, {"a": "delete"}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}, {"a.c": "update", "a.d": "add"}),
        ({"a": [1, 2, 3]}, {"a": [1, 4]}, {"a[1]": "update", "a[2]": "delete"}),
        ({"a": [1]}, {"a": [1, None]}, {"a[1]": "add"}),
        ({"a": [1]}, {"a": {"b": 1}}, {"a": "update"}),
        ({"a": {"b": 1}}, {"a": [1]}, {"a": "update"}),
        ({"a": Secret("x")}, {"a": "x"}, {}),
        ({"a": {"b.c": 1}}, {"a": {"b.c": 2}}, {'a["b.c"]': "update"}),
        ({"a": 1}, {"a": UNKNOWN}, {"a": "update"}),
    ],
)
def test_changes_are_found_leaf_by_leaf(
    old: dict[str, Any], new: dict[str, Any], changes: dict[str, str]
) -> None:
    assert diffs.compare_properties(old, new) == changes


def test_changes_are_sorted_by_key() -> None:
    assert list(diffs.compare_properties({"c": 1, "a": 1}, {"b": 1, "a": 2})) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("said", "replace_on", "expected"),
    [
        # What the engine decides alone.
        (Diff(False, by_engine=True), [], Diff(True, [], False, {"a": "update", "b.c": "add"}, True)),
        (Diff(False, by_engine=True), ["a"], Diff(True, ["a"], False, {"a": "update", "b.c": "add"}, True)),
        (
            Diff(False, by_engine=True),
            ["*"],
            Diff(True, ["a", "b"], False, {"a": "update", "b.c": "add"}, True),
        ),
        (Diff(False, by_engine=True), ["z"], Diff(True, [], False, {"a": "update", "b.c": "add"}, True)),
        # A provider's word is kept; what it left open is filled in.
        (Diff(False, ["a"], False, {"a": "update"}), ["a"], Diff(False)),
        (Diff(True), [], Diff(True, [], False, {"a": "update", "b.c": "add"})),
        (Diff(True, ["x"]), ["b"], Diff(True, ["x"], False, {"a": "update", "b.c": "add"})),
        (Diff(True, ["b"]), ["b.c"], Diff(True, ["b"], False, {"a": "update", "b.c": "add"})),
        (Diff(True, [], True, {"q": "add"}), ["a"], Diff(True, [], True, {"q": "add"})),
        (Diff(True, [], True, {"q": "add"}), ["q.r"], Diff(True, [], True, {"q": "add"})),
    ],
)
def test_a_providers_diff_is_completed(said: Diff, replace_on: list[str], expected: Diff) -> None:
    said = replace(said, replaces=[*said.replaces], detailed={**said.detailed})  # it is changed in place
    assert diffs.complete_diff(said, {"a": 1, "b": {}}, {"a": 2, "b": {"c": 1}}, replace_on) == expected


def test_without_a_change_nothing_is_replaced() -> None:
    said = Diff(False, by_engine=True)
    assert diffs.complete_diff(said, {"a": 1}, {"a": 1}, ["a"]) == Diff(False, by_engine=True)


def test_kinds_mark_replacing_changes() -> None:
    said = Diff(True, ["a", "b"], detailed={"a.x": "update", "b": "add-replace", "c": "delete"})
    assert diffs.difference_kinds_by_path(said) == {
        "a.x": "update-replace",
        "b": "add-replace",
        "c": "delete",
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", []),
        ("a", ["a"]),
        ("a.b", ["a", "b"]),
        ("a[0][12]", ["a", 0, 12]),
        ("a[*].b", ["a", "*", "b"]),
        ('["x y"].a', ["x y", "a"]),
        (r'a["q\"b"]', ["a", 'q"b']),
        ("a-b.c d", ["a-b", "c d"]),
    ],
)
def test_a_path_is_parsed(text: str, path: paths.Path) -> None:
    assert paths.parse_path(text) == path


@pytest.mark.parametrize("text", ["a[", "a]", '"', "a[-1]", "a[x]", 'a["b]'])
def test_an_invalid_path_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="is not a property path") as caught:
        paths.parse_path(text)
    assert repr(text) in str(caught.value)


@given(st.lists(st.text(min_size=1).filter(lambda part: part != "*") | st.integers(0, 99), min_size=1))
def test_a_path_survives_formatting_and_parsing(path: paths.Path) -> None:
    assert paths.parse_path(paths.format_path(path)) == path


@pytest.mark.parametrize(
    ("outer", "inner", "within"),
    [
        ([], ["a"], True),
        (["a"], ["a"], True),
        (["a"], ["a", 0], True),
        (["a", 0], ["a"], False),
        (["a", "*"], ["a", 7], True),
        (["a"], ["b", "a"], False),
    ],
)
def test_which_paths_contain_others(outer: paths.Path, inner: paths.Path, within: bool) -> None:
    assert paths.contains_path(outer, inner) == within


@pytest.mark.parametrize(
    ("new", "old", "ignore", "left"),
    [
        ({"a": 2, "b": 2}, {"a": 1, "b": 1}, ["a"], {"a": 1, "b": 2}),
        ({"a": 2}, {"b": 1}, ["a"], {}),
        ({"a": 2}, {"b": 1}, ["b"], {"a": 2, "b": 1}),
        # A parent that has gone does not come back for the sake of a child.
        ({"z": 1}, {"a": {"b": 1}}, ["a.b"], {"z": 1}),
        ({"a": {"b": 2, "c": 2}}, {"a": {"b": 1}}, ["a.b"], {"a": {"b": 1, "c": 2}}),
        ({"a": [2, 2, 2]}, {"a": [1, 1]}, ["a[1]"], {"a": [2, 1, 2]}),
        ({"a": [2, 2, 2]}, {"a": [1, 1]}, ["a[*]"], {"a": [1, 1, 2]}),
        ({"a": [{"b": 2, "c": 2}]}, {"a": [{"b": 1, "c": 1}]}, ["a[0].b"], {"a": [{"b": 1, "c": 2}]}),
        ({"a": [2]}, {"a": {"0": 1}}, ["a[0]"], {"a": [2]}),
        ({"a": 2}, {"a": {"b": 1}}, ["a.b"], {"a": 2}),
        ({"a": {"b": {"c": 2}}}, {"a": {"b": {"c": 1}}}, ["a.*.c"], {"a": {"b": {"c": 1}}}),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1}, [], {"a": 2, "b": 2}),
        ({"a": {"b": 2}, "c": 2}, {"a": {"b": 1}, "d": 1}, ["*"], {"a": {"b": 1}, "d": 1}),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1}, ["a", "b"], {"a": 1, "b": 1}),
    ],
)
def test_ignored_changes_keep_the_old_value(
    new: dict[str, Any], old: dict[str, Any], ignore: list[str], left: dict[str, Any]
) -> None:
    assert paths.keep_old_values(new, old, ignore) == left


def test_ignored_changes_inside_a_secret_stay_secret() -> None:
    left = paths.keep_old_values(
        {"a": Secret({"b": 2, "c": 2})}, {"a": Secret({"b": Secret(1), "c": 1})}, ["a.b"]
    )
    assert values.is_same(left, {"a": Secret({"b": 1, "c": 2})})
    left = paths.keep_old_values({"a": {"b": 2}}, {"a": Secret({"b": 1})}, ["a.b"])
    assert left == {"a": {"b": 1}}
