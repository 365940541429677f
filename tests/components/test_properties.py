"""The conversion of dataclasses to and from Pulumi's property dicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from components.properties import (
    UNKNOWN,
    Properties,
    changed_keys,
    copy_shared_fields,
    from_props,
    is_known,
    to_props,
)
from flux_training.training.runs.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class ExampleProperties(Properties):
    group_id: str
    count: int
    hours: float | None = None
    days: Mapping[str, int] | None = None
    most: int | None = None
    status: RunState = RunState.NEW


@dataclass(frozen=True, kw_only=True)
class ExampleState(Properties):
    count: int
    cost: float


PROPS: dict[str, Any] = {
    "home": "here",
    "groupId": "g",
    "count": 3.0,
    "days": {"a/": 9.0},
    "status": "failed",
    "__provider": "gASV",
    "fieldOfANewerVersion": 1.0,
}


def test_properties_are_read_with_their_types() -> None:
    found = from_props(ExampleProperties, PROPS)
    assert found == ExampleProperties(
        home="here", group_id="g", count=3, days={"a/": 9}, status=RunState.FAILED
    )
    assert (type(found.count), type(found.status)) == (int, RunState)


def test_what_is_written_is_what_was_read_without_unknown_properties() -> None:
    written = to_props(from_props(ExampleProperties, PROPS))
    assert written == {name: value for name, value in PROPS.items() if not name.startswith(("_", "field"))}
    assert type(written["status"]) is str
    assert "hours" not in written


@pytest.mark.parametrize("missing", [{}, {"count": None}, {"count": UNKNOWN}])
def test_a_required_property_that_is_missing_or_not_known_yet_is_unknown(missing: dict[str, Any]) -> None:
    found = from_props(ExampleProperties, {"home": "here", "groupId": "g", **missing})
    assert not is_known(found.count)


def test_only_a_change_between_known_values_counts() -> None:
    old = from_props(ExampleProperties, PROPS)
    for news, changed in (
        ({"groupId": "h"}, ["groupId"]),
        ({"count": 3}, []),
        ({"groupId": UNKNOWN}, []),
        ({"groupId": "h", "count": 4.0}, ["groupId", "count"]),
        ({"days": {"a/": 8}}, []),
    ):
        new = from_props(ExampleProperties, PROPS | news)
        assert changed_keys(("group_id", "count"), old, new) == changed
    older = from_props(ExampleProperties, {"home": "here"})
    assert changed_keys(("group_id",), older, old) == []
    assert changed_keys(("most",), old, from_props(ExampleProperties, PROPS | {"most": 1})) == ["most"]


def test_shared_fields_are_carried_over() -> None:
    found = copy_shared_fields(ExampleState, from_props(ExampleProperties, PROPS), cost=0.5)
    assert found == ExampleState(home="here", count=3, cost=0.5)
    with pytest.raises(TypeError, match="cost"):
        copy_shared_fields(ExampleState, from_props(ExampleProperties, PROPS))
