"""How long the nodes' keys last, when they are issued anew, and what the bucket deletes: decided without any service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.node_rights import (
    Remaining,
    choose_end,
    end_warning,
    node_prefixes,
    parse_time,
    seconds_needed,
    show_time,
)
from training.retention import MOST_RUNS, expiring, our_rules, with_our_rules
from training.run import Layout
from training.settings import KeepSettings

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
HOUR = 3600.0


def after(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("present", "needed_hours", "issued"),
    [
        (None, 0, True),
        (after(1), 0, False),  # nothing to do: they may end
        (after(-5), 0, True),  # and be there again for the next run
        (after(-5), 1, True),
        (after(100), 99, False),
        (after(100), 99.5, True),  # a run waits for its GPU first
        (after(100), 101, True),
        (after(160), 161, False),  # new ones would win little, and cost a restart of every replica
        (after(160), 300, False),
        (after(100), 300, True),
    ],
)
def test_keys_are_issued_when_it_helps(present: datetime | None, needed_hours: float, issued: bool) -> None:
    end = choose_end(NOW, present, 168, needed_hours * HOUR)
    assert (end != present) is issued
    if issued:
        assert timedelta(hours=167) < end - NOW <= timedelta(hours=168)


@given(
    st.none() | st.floats(-200, 168),
    st.integers(1, 168),
    st.floats(0, 400),
    st.integers(0, 3599),
)
def test_an_issue_is_never_asked_for_twice(
    left: float | None, hours: int, needed: float, second: int
) -> None:
    now = NOW + timedelta(seconds=second)
    present = None if left is None else now + timedelta(hours=left)
    end = choose_end(now, present, hours, needed * HOUR)
    assert choose_end(now, end, hours, needed * HOUR) == end
    if end != present:
        assert now < end <= now + timedelta(hours=hours)


@given(st.integers(2, 168), st.floats(0, 400))
def test_a_preview_and_its_up_agree(hours: int, needed: float) -> None:
    soon = NOW + timedelta(seconds=90)
    assert choose_end(NOW, None, hours, needed) == choose_end(soon, None, hours, needed)


def test_who_needs_longer_is_told_until_when() -> None:
    assert end_warning(NOW, after(10), 10 * HOUR) == ""
    assert end_warning(NOW, after(-10), 0) == ""
    words = end_warning(NOW, after(10), 11 * HOUR)
    assert "need about 11 h" in words
    assert "2026-03-01T22:34:56+00:00" in words


@pytest.mark.parametrize(
    ("runs", "replicas", "hours"),
    [
        ([], 1, 0),
        ([Remaining("a", 7200)], 1, 2),
        ([Remaining("a", 7200, max_hours=9)], 1, 2),
        ([Remaining("a", None, max_hours=9)], 1, 9),
        ([Remaining("a", None)], 1, 24),
        ([Remaining("a", 7200), Remaining("b", 7200)], 1, 4),
        ([Remaining("a", 7200), Remaining("b", 7200)], 2, 2),
        ([Remaining("a", 36000), Remaining("b", 3600)], 2, 10),
    ],
)
def test_how_long_keys_are_needed(runs: list[Remaining], replicas: int, hours: float) -> None:
    assert seconds_needed(runs, replicas) == hours * HOUR


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_comes_back_from_a_groups_environment(moment: datetime) -> None:
    assert parse_time(show_time(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("text", [None, "", "tomorrow", "2026-03-01T10:00:00"])
def test_what_is_no_time_is_none(text: str | None) -> None:
    assert parse_time(text) is None


def test_the_bucket_mark_is_not_the_nodes() -> None:
    layout = Layout("team/")
    assert not any(layout.owner.startswith(prefix) for prefix in node_prefixes(layout))
    assert all(prefix.startswith("team/") and prefix.endswith("/") for prefix in node_prefixes(layout))


OWNER = "flux-training/prod"


def keep(**days: int) -> KeepSettings:
    return KeepSettings.model_validate(days)


def test_what_expires_is_checkpoints_and_images() -> None:
    runs = [("cat", "0a"), ("cat", "0a"), ("cat-2", "0b")]
    assert expiring(keep(), Layout("p/"), runs) == {}
    assert expiring(keep(checkpointsDays=3, datasetsDays=9), Layout("p/"), runs) == {
        "p/datasets/": 9,
        "p/runs/cat/0a/output/cat_": 3,
        "p/runs/cat/0a/output/optimizer.pt": 3,
        "p/runs/cat-2/0b/output/cat-2_": 3,
        "p/runs/cat-2/0b/output/optimizer.pt": 3,
    }


@given(
    st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True),
    st.text("0123456789abcdef", min_size=12, max_size=12),
)
def test_no_result_expires(job: str, run: str) -> None:
    layout = Layout("")
    keys = layout.run(job, run)
    results = [keys.weights, keys.done, keys.progress, keys.record, keys.claim, layout.owner]
    results += [f"{keys.output}{name}" for name in ("loss.csv", "samples/1.jpg", f"{job}.safetensors")]
    results += [f"{keys.config}train.yml"]
    rules = expiring(keep(checkpointsDays=1, datasetsDays=1), layout, [(job, run)])
    assert [key for key in results if key.startswith(tuple(rules))] == []
    assert f"{keys.output}{job}_000000010.safetensors".startswith(tuple(rules))


def test_there_is_room_for_the_rules_of_others() -> None:
    runs = [("cat", f"{number:012}") for number in range(2000)]
    rules = expiring(keep(checkpointsDays=3), Layout(""), runs)
    assert len(rules) == 2 * MOST_RUNS < 1000
    assert "runs/cat/000000000000/output/cat_" in rules


THEIRS = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
prefixes = st.dictionaries(st.text("abc/", min_size=1, max_size=6), st.integers(1, 99), max_size=5)


@given(prefixes, prefixes)
def test_our_rules_replace_ours_and_nobody_elses(before: dict[str, int], wanted: dict[str, int]) -> None:
    other = with_our_rules([THEIRS], "flux-training/other", {"other/": 1})
    rules = with_our_rules(with_our_rules(other, OWNER, before), OWNER, wanted)
    assert our_rules(rules, OWNER) == wanted
    assert our_rules(rules, "flux-training/other") == {"other/": 1}
    assert THEIRS in rules
    assert len({rule["ID"] for rule in rules}) == len(rules)


def test_an_empty_list_is_never_sent() -> None:
    (rule,) = with_our_rules([], OWNER, {})
    assert "Expiration" not in rule
