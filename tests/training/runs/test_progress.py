"""Reading untrusted files of nodes: progress.json, loss.csv, names of samples, text for the terminal."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_training.training.runs.loss_curve import Point, parse_losses
from flux_training.training.runs.progress import RunProgress, loss_note
from flux_training.training.runs.samples import (
    Sample,
    prompts_of,
    sample_grid,
    sample_settings,
    spread_evenly,
)
from flux_training.training.untrusted import MAX_STEPS, parse_record
from flux_training.training.values import read_time
from flux_training.training.words import one_line, printable, with_escapes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=5,
)
FIELDS = st.sampled_from([*RunProgress.model_fields, "loss_smoothed"])


def read_progress(raw: dict[str, Any]) -> RunProgress:
    found = parse_record(json.dumps(raw).encode(), RunProgress).value
    assert found is not None
    return found


@settings(deadline=None)
@given(st.dictionaries(FIELDS, JSON))
def test_any_progress_json_is_read_safely(raw: dict[str, Any]) -> None:
    progress = read_progress(raw)
    for number in (progress.loss, progress.eta_seconds, progress.gpu_seconds):
        assert number is None or (number >= 0 and math.isfinite(number))
    assert progress.step is None or progress.step >= 0
    assert all(
        character.isprintable() or character == "\n" for character in progress.message + progress.state
    )


def test_every_field_of_a_progress_json() -> None:
    raw = {
        "state": "s" * 41,
        "message": " two\nlines ",
        "step": 1,
        "steps": 2,
        "loss": 9.0,
        "loss_smoothed": 0.1,
        "loss_first": 0.2,
        "loss_steps": 50,
        "seconds_per_step": 0.4,
        "eta_seconds": 0.5,
        "gpu": "g" * 101,
        "trainer": "0.12.26 27a03a91",
        "gpu_seconds": 0.6,
        "restarts": 3,
        "started_at": "2026-11-23T01:08:09",
        "updated_at": "2026-11-23T01:08:09+01:00",
        "download_seconds": 0.7,
        "skipped_batches": 4,
        "nan_losses": 1,
    }
    assert read_progress(raw) == RunProgress(
        state="s" * 40 + "…",
        message="two\nlines",
        step=1,
        steps=2,
        loss=0.1,
        loss_first=0.2,
        loss_steps=50,
        seconds_per_step=0.4,
        eta_seconds=0.5,
        gpu="g" * 100 + "…",
        trainer="0.12.26 27a03a91",
        gpu_seconds=0.6,
        restarts=3,
        started_at=datetime(2026, 11, 23, 1, 8, 9, tzinfo=UTC),
        updated_at=datetime(2026, 11, 23, 0, 8, 9, tzinfo=UTC),
        download_seconds=0.7,
        skipped_batches=4,
        nan_losses=1,
    )
    assert read_progress({}) == RunProgress()
    assert read_progress({key: [] for key in raw}) == RunProgress()


@pytest.mark.parametrize(
    ("raw", "name", "change"),
    [
        ({"loss_first": 0.75, "loss_smoothed": 0.05, "loss_steps": 50}, "loss (mean of 50 steps)", "0.7500 → 0.0500"),
        ({"loss_first": 0.75, "loss_smoothed": 0.05, "loss_steps": 1}, "loss (mean of 1 step)", "0.7500 → 0.0500"),
        ({"loss_first": 0.75, "loss_smoothed": 0.05}, "loss", "0.7500 → 0.0500"),
        ({"loss_smoothed": 0.05, "loss_steps": "?"}, "loss", ""),
        ({"loss_first": 0.75}, "loss", ""),
    ],
)  # fmt: skip
def test_the_name_of_a_loss_says_how_many_steps_it_is_a_mean_of(
    raw: dict[str, Any], name: str, change: str
) -> None:
    progress = read_progress(raw)
    assert (progress.loss_name, progress.loss_change) == (name, change)


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ([], ""),
        ([None], ""),
        ([50, 50, None], "Loss: mean of 50 steps."),
        ([50, 3, 20], "Loss: mean of 3 to 50 steps."),
    ],
)
def test_a_column_of_losses_is_explained(steps: list[int | None], note: str) -> None:
    assert loss_note(RunProgress(loss=0.5, loss_steps=one) for one in steps) == note
    assert loss_note(RunProgress(loss_steps=one) for one in steps) == ""


def test_samples_count_more_than_prompts() -> None:
    sample = {"prompts": ["a"], "samples": [{"prompt": "b"}]}
    assert prompts_of({"config": {"process": [{"sample": sample}]}}) == ["b"]


@pytest.mark.parametrize(
    ("skipped", "nan", "words"),
    [
        (0, 0, ""),
        (1, 0, "1 step skipped for lack of memory"),
        (3, 2, "3 steps skipped for lack of memory, 2 steps without a loss (NaN)"),
    ],
)
def test_steps_that_taught_nothing_are_named(skipped: int, nan: int, words: str) -> None:
    assert RunProgress(skipped_batches=skipped, nan_losses=nan).faults == words


@pytest.mark.usefixtures("tokyo_time")
def test_times_are_read_in_utc() -> None:
    assert read_time("2026-11-23T01:08:09") == datetime(2026, 11, 23, 1, 8, 9, tzinfo=UTC)
    found = read_time("2026-11-23T01:08:09+01:00")
    assert found is not None
    assert (found.tzinfo, found.hour) == (UTC, 0)
    assert read_time("0001-01-01T00:00:00+01:00") is None
    assert [read_time(value) for value in ("tomorrow", "", None, 7)] == [None] * 4


@pytest.mark.parametrize(
    ("value", "read"),
    [(0, 0), (0.0, 0), (2.0, 2), (2.5, None), (MAX_STEPS, MAX_STEPS), (MAX_STEPS + 1, None), (-1, None)],
)
def test_counts_are_whole_numbers_in_range(value: float, read: int | None) -> None:
    assert read_progress({"step": value}).step == read


@pytest.mark.parametrize("value", [True, -1, math.nan, math.inf, 1e300, 10**400, 9e8, "12", None, [3]])
def test_invalid_numbers_are_ignored(value: object) -> None:
    progress = read_progress({"step": value, "gpu_seconds": value})
    assert (progress.step, progress.gpu_seconds) == (None, None)


@settings(deadline=None)
@given(st.text())
def test_control_characters_are_not_printed(text: str) -> None:
    assert one_line(text).isprintable()
    assert all(character.isprintable() or character == "\n" for character in printable(text))


def test_control_characters_are_replaced_and_long_texts_shortened() -> None:
    assert printable("a\x1b[31mred\r\u202eb\nc") == "a?[31mred??b\nc"
    assert (printable("1234", 4), printable("12345", 4)) == ("1234", "1234…")
    assert (printable("a" * 4000), printable("a" * 4001)) == ("a" * 4000, "a" * 4000 + "…")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café \\n 猫", "café \\n 猫"),
        ("a\x1b[31m\nb", r"a\x1b[31m\nb"),
        ("\u202egpj", r"\u202egpj"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_unprintable_characters_in_names_are_escaped(text: str, shown: str) -> None:
    assert with_escapes(text) == shown


def test_invalid_loss_lines_are_skipped() -> None:
    text = "step,loss\n1,0.5\n3,nan\nrubbish\n2,0.4\n2,0.3\n-1,0.2\n4,1e999\n"
    assert parse_losses(text) == [Point(1, 0.5), Point(2, 0.3)]
    most = 10**9
    text = f"0,0.5\n1,{most}\n2,-{most}\n3,{most + 1}\n{most},0.5\n{most + 1},0.5\n"
    assert parse_losses(text) == [Point(1, most), Point(2, -most), Point(most, 0.5)]


@settings(deadline=None)
@given(st.text(alphabet="0123456789,.-e\nnaif ", max_size=300))
def test_any_text_can_be_parsed_as_losses(text: str) -> None:
    points = parse_losses(text)
    assert all(math.isfinite(point.loss) for point in points)
    assert [point.step for point in points] == sorted({point.step for point in points})


def test_samples_are_grouped_by_prompt_and_step() -> None:
    names = [
        "notes.txt",
        "1795392457384__000000000_0.jpg",
        "1795392463128__000000100_0.jpg",
        "1795392463999__000000100_0.jpg",
        "1795392463232__000000100_1.png",
        "../1795392463232__000000100_1.png",
    ]
    grid = sample_grid(names)
    assert grid == {
        0: {
            0: Sample("1795392457384__000000000_0.jpg", 0, 0),
            100: Sample("1795392463999__000000100_0.jpg", 100, 0),
        },
        1: {100: Sample("1795392463232__000000100_1.png", 100, 1)},
    }


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True).map(sorted), st.integers(2, 12))
def test_some_of_many_steps_are_shown_including_the_ends(steps: list[int], most: int) -> None:
    shown = spread_evenly(steps, most)
    assert len(shown) == min(most, len(steps))
    assert shown == sorted(set(shown))
    if steps:
        assert (shown[0], shown[-1]) == (steps[0], steps[-1])


def test_the_trigger_word_is_inserted_into_prompts() -> None:
    sample = {"prompts": ["[trigger] at sea", "[name], [trigger]", 3, {"seed": 1}]}
    process = {"trigger_word": "c4t", "sample": sample}
    assert prompts_of({"config": {"process": [process]}}) == ["c4t at sea", "c4t, c4t", "3", ""]
    # Without a trigger word the trainer uses the prompt unchanged.
    without = {"config": {"process": [{"sample": sample}]}}
    assert prompts_of(without) == ["[trigger] at sea", "[name], [trigger]", "3", ""]
    assert prompts_of({"config": {"process": [{"sample": {"samples": [{"prompt": "a"}]}}]}}) == ["a"]
    assert prompts_of({"config": {"process": [{"sample": {"prompts": "at sea"}}]}}) == []
    assert prompts_of({}) == []


@pytest.mark.parametrize(
    ("sample", "settings"),
    [
        ({"prompts": ["a", "b"], "seed": 42, "guidance_scale": 4}, ["seed 42, guidance 4"] * 2),
        ({"prompts": ["a", "b"], "seed": 42, "walk_seed": True}, ["seed 42", "seed 43"]),
        (
            {"samples": [{"prompt": "a", "seed": 7, "guidance_scale": 3.5}], "seed": 42},
            ["seed 7, guidance 3.5"],
        ),
        ({"prompts": ["a"], "seed": "<b>", "guidance_scale": 10**5000}, [""]),
        ({"prompts": ["a"], "seed": True, "walk_seed": True}, [""]),
        ({"prompts": "a"}, []),
        ("a", []),
    ],
)
def test_seed_and_guidance_of_each_prompt_are_named(sample: object, settings: list[str]) -> None:
    assert sample_settings({"config": {"process": [{"sample": sample}]}}) == settings
