"""When the nodes' keys expire and are issued again, what they allow, and what expires in the bucket."""

import fnmatch
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.runs.node_rights import (
    UnfinishedRun,
    choose_key_expiry,
    key_expiry_warning,
    node_policy,
    node_prefixes,
    nodes_reach_records,
    parse_time,
    seconds_needed,
    show_time,
)
from flux_training.training.runs.retention import MAX_RUNS, expiring_prefixes, own_rules, replace_own_rules
from flux_training.training.runs.run import Layout
from flux_training.training.settings import KeepSettings, StorageSettings

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
HOUR = 3600.0
A_SECOND = 1 / 3600


def after(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("present", "hours", "needed_hours", "issued"),
    [
        (None, 168, 0, True),
        (after(1), 168, 0, False),  # no run needs them
        (after(-5), 168, 0, True),  # the next run needs valid keys
        (after(-5), 168, 1, True),
        (after(100), 168, 99, False),
        (after(100), 168, 99.5, True),  # a run waits for its GPU first
        (after(100), 168, 101, True),
        (after(160), 168, 161, False),  # new keys would last little longer, and restart every replica
        (after(160), 168, 300, False),
        (after(100), 168, 300, True),
        (after(0), 168, 0, True),
        (after(A_SECOND), 168, 0, False),
        (after(0.5), 168, 0, False),
        (after(0.5), 168, A_SECOND, True),
        (after(10), 168, 9, False),
        (after(10), 168, 9 + A_SECOND, True),
        # The margin of short-lived keys is a quarter of their lifetime.
        (after(1.5), 2, 1, False),
        (after(1.5 - A_SECOND), 2, 1, False),
        (after(0.9), 2, 1, True),
        # New keys of 4 h end at 16:00, so the limit is 15:00.
        (datetime(2026, 3, 1, 15, tzinfo=UTC), 4, 3, True),
        (datetime(2026, 3, 1, 15, 0, 1, tzinfo=UTC), 4, 3, False),
    ],
)
def test_keys_are_issued_when_the_present_ones_end_too_early(
    present: datetime | None, hours: float, needed_hours: float, issued: bool
) -> None:
    end = choose_key_expiry(NOW, present, hours, needed_hours * HOUR)
    assert (end != present) is issued
    if issued:
        assert end == NOW.replace(minute=0, second=0) + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("hours", "end"),
    [
        (1, datetime(2026, 3, 1, 13, 34, 56, tzinfo=UTC)),
        (0.5, datetime(2026, 3, 1, 13, 4, 56, tzinfo=UTC)),
        (2, datetime(2026, 3, 1, 14, tzinfo=UTC)),
    ],
)
def test_short_key_lifetimes_are_not_rounded_down(hours: float, end: datetime) -> None:
    assert choose_key_expiry(NOW.replace(microsecond=7), None, hours, 0) == end


@given(
    st.none() | st.floats(-200, 168),
    st.integers(1, 168),
    st.floats(0, 400),
    st.integers(0, 3599),
)
def test_issued_keys_are_not_issued_again(left: float | None, hours: int, needed: float, second: int) -> None:
    now = NOW + timedelta(seconds=second)
    present = None if left is None else now + timedelta(hours=left)
    end = choose_key_expiry(now, present, hours, needed * HOUR)
    assert choose_key_expiry(now, end, hours, needed * HOUR) == end
    if end != present:
        assert now < end <= now + timedelta(hours=hours)


@given(st.integers(2, 168), st.floats(0, 400))
def test_preview_and_up_choose_the_same_end(hours: int, needed: float) -> None:
    soon = NOW + timedelta(seconds=90)
    assert choose_key_expiry(NOW, None, hours, needed) == choose_key_expiry(soon, None, hours, needed)


def test_a_warning_says_when_the_keys_expire() -> None:
    assert key_expiry_warning(NOW, after(10), 10 * HOUR, "prod") == ""
    assert key_expiry_warning(NOW, after(-10), 0, "prod") == ""
    assert key_expiry_warning(NOW, after(-10), 1, "prod") != ""
    assert key_expiry_warning(NOW, after(10), 3000 * HOUR, "prod") == (
        "the unfinished runs need about 3000 h, but the nodes' keys expire at 2026-03-01T22:34:56+00:00: run `make up STACK=prod` again before "
        "that, or later results are not uploaded"
    )


@pytest.mark.usefixtures("tokyo_time")
def test_times_are_shown_in_utc() -> None:
    elsewhere = datetime(2026, 3, 1, 14, 34, 56, 999, tzinfo=timezone(timedelta(hours=2)))
    assert show_time(elsewhere) == "2026-03-01T12:34:56+00:00"
    assert parse_time("2026-03-01T14:34:56+02:00") == NOW


@pytest.mark.parametrize(
    ("runs", "replicas", "hours"),
    [
        ([], 1, 0),
        ([UnfinishedRun("a", 7200)], 1, 2),
        ([UnfinishedRun("a", 7200, max_hours=9)], 1, 2),
        ([UnfinishedRun("a", None, max_hours=9)], 1, 9),
        ([UnfinishedRun("a", None)], 1, 24),
        ([UnfinishedRun("a", 7200), UnfinishedRun("b", 7200)], 1, 4),
        ([UnfinishedRun("a", 7200), UnfinishedRun("b", 7200)], 2, 2),
        ([UnfinishedRun("a", 36000), UnfinishedRun("b", 3600)], 2, 10),
    ],
)
def test_needed_key_lifetime_depends_on_runs_and_replicas(
    runs: list[UnfinishedRun], replicas: int, hours: float
) -> None:
    assert seconds_needed(runs, replicas) == hours * HOUR


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_survive_a_round_trip(moment: datetime) -> None:
    assert parse_time(show_time(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("text", [None, "", "tomorrow", "2026-03-01T10:00:00"])
def test_invalid_times_are_none(text: str | None) -> None:
    assert parse_time(text) is None


OWNER = "flux-training/prod"


def keep(**days: int) -> KeepSettings:
    return KeepSettings.model_validate(days)


def test_checkpoints_and_images_expire() -> None:
    runs = [("cat", "0a"), ("cat", "0a"), ("cat-2", "0b")]
    assert expiring_prefixes(keep(), Layout("p/"), runs) == {}
    assert expiring_prefixes(keep(checkpointsDays=3, datasetsDays=9), Layout("p/"), runs) == {
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
def test_results_do_not_expire(job: str, run: str) -> None:
    layout = Layout("")
    keys = layout.run(job, run)
    results = [keys.weights, keys.done, keys.progress, keys.record, keys.claim, layout.owner]
    results += [f"{keys.output}{name}" for name in ("loss.csv", "samples/1.jpg", f"{job}.safetensors")]
    results += [f"{keys.config}train.yml"]
    rules = expiring_prefixes(keep(checkpointsDays=1, datasetsDays=1), layout, [(job, run)])
    assert [key for key in results if key.startswith(tuple(rules))] == []
    assert f"{keys.output}{job}_000000010.safetensors".startswith(tuple(rules))


def test_expiry_rules_leave_room_for_rules_of_others() -> None:
    runs = [("cat", f"{number:012}") for number in range(2000)]
    rules = expiring_prefixes(keep(checkpointsDays=3), Layout(""), runs)
    assert len(rules) == 2 * MAX_RUNS < 1000
    assert "runs/cat/000000000000/output/cat_" in rules


@pytest.mark.parametrize(
    ("storage", "cloud", "has_own_keys", "reach"),
    [
        ({"kind": "r2"}, "salad", False, False),
        ({"kind": "r2", "credentials": "token"}, "salad", False, True),
        ({"kind": "aws"}, "salad", False, False),
        ({"kind": "s3"}, "salad", False, True),
        ({"kind": "s3"}, "salad", True, False),
        ({"kind": "s3"}, "local", False, False),
        ({"kind": "r2", "credentials": "token"}, "local", False, True),
    ],
)
def test_which_nodes_can_write_the_records(
    storage: dict[str, str], cloud: str, has_own_keys: bool, reach: bool
) -> None:
    settings = StorageSettings.model_validate({"bucket": "b-b", **storage})
    assert nodes_reach_records(settings, cloud, has_own_keys) == reach


def test_the_records_are_out_of_reach_of_keys_made_for_nodes() -> None:
    layout = Layout("p/")
    keys = layout.run("cat", "0123456789ab")
    records = [keys.claim, keys.posted, keys.results, layout.owner, layout.dataset_index("d")]
    prefixes = node_prefixes(layout)
    assert all(prefix.startswith("p/") and prefix.endswith("/") for prefix in prefixes)
    assert [key for key in records if key.startswith(tuple(prefixes))] == []
    resources = [
        resource
        for statement in node_policy("b", layout)["Statement"]
        if statement["Action"] != "s3:ListBucket"
        for resource in statement["Resource"]
    ]
    for pattern in resources:
        assert not any(fnmatch.fnmatchcase(f"arn:aws:s3:::b/{key}", pattern) for key in records)


THEIRS = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
prefixes = st.dictionaries(st.text("abc/", min_size=1, max_size=6), st.integers(1, 99), max_size=5)


@given(prefixes, prefixes)
def test_our_rules_replace_only_our_rules(before: dict[str, int], wanted: dict[str, int]) -> None:
    other = replace_own_rules([THEIRS], "flux-training/other", {"other/": 1})
    rules = replace_own_rules(replace_own_rules(other, OWNER, before), OWNER, wanted)
    assert own_rules(rules, OWNER) == wanted
    assert own_rules(rules, "flux-training/other") == {"other/": 1}
    assert THEIRS in rules
    assert len({rule["ID"] for rule in rules}) == len(rules)


def test_an_empty_rule_list_is_never_sent() -> None:
    assert replace_own_rules([], OWNER, {}) == [
        {
            "ID": "unfinished uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        }
    ]
    assert replace_own_rules([THEIRS], OWNER, {}) == [THEIRS]


def test_rule_format_is_exact() -> None:
    rules = replace_own_rules([THEIRS], OWNER, {"b/": 2, "a/": 1})
    assert [rule["Filter"] for rule in rules] == [{"Prefix": "logs/"}, {"Prefix": "a/"}, {"Prefix": "b/"}]
    assert rules[1] == {
        "ID": "flux flux-training/prod b3dda5b674f9ce73",
        "Status": "Enabled",
        "Filter": {"Prefix": "a/"},
        "Expiration": {"Days": 1},
    }


def test_edited_rules_of_ours_are_read_as_they_are() -> None:
    """So they differ from the wanted rules and are corrected."""
    mark = f"flux {OWNER} 1"
    rules = [
        {"ID": mark, "Status": "Enabled"},
        {"ID": mark, "Status": "Disabled", "Filter": {"Prefix": "off/"}, "Expiration": {"Days": 1}},
        {"Status": "Enabled", "Filter": {"Prefix": "unnamed/"}, "Expiration": {"Days": 1}},
        {
            "ID": f"flux {OWNER}-2 1",
            "Status": "Enabled",
            "Filter": {"Prefix": "x/"},
            "Expiration": {"Days": 1},
        },
    ]
    assert own_rules(rules, OWNER) == {"": 0}
    assert own_rules([{"ID": mark, "Status": "Enabled", "Filter": {}, "Expiration": {}}], OWNER) == {"": 0}
    assert own_rules([{"ID": mark, "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}}], OWNER) == {}
