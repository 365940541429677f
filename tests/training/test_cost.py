"""Cost estimates: calibration, scaling, finished runs, budget; and properties that hold for any work."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.bill import describe_bill, show_hours
from flux_training.training.cost import (
    CLOUDS,
    GUIDE_RUN,
    Bill,
    CloudTimes,
    FinishedRun,
    Line,
    Rate,
    Shape,
    Speed,
    Work,
    bill_for,
    finished_run_of,
    line_for,
    shape_of,
    speed_of,
)
from flux_training.training.gpu import TFLOPS
from flux_training.training.runs.progress import RunProgress
from flux_training.training.train_yml.trainer_config import document_of
from flux_training.training.untrusted import parse_record

SALAD = CLOUDS["salad"]
RATE = Rate("RTX 5090 (32 GB)", "high", 0.45)
EXAMPLE = Shape()


def bill(*works: Work, rate: Rate = RATE, seen: list[FinishedRun] | None = None, replicas: int = 1) -> Bill:
    return bill_for(works, rate, seen or [], TFLOPS, SALAD, max_replicas=replicas, idle_threshold=300)


def finished(**changes: Any) -> dict[str, Any]:
    progress = {
        "state": "finished",
        "gpu": "NVIDIA GeForce RTX 5090, 32607 MiB",
        "gpu_seconds": 1100.0,
        "start_seconds": 100.0,
        "steps": 500,
        "restarts": 0,
        "begun": [0, 1],
    }
    return progress | changes


def test_the_recipes_job_takes_an_hour() -> None:
    (line,) = bill(Work("cat", 2000, EXAMPLE, 0)).lines
    assert line.seconds == pytest.approx(3600)
    assert line.basis == "the recipe's figure"


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        (Shape(), 1.0),
        (Shape(images=4), 4.0),
        (Shape(resolutions=(512,)), (1024 + 512) / ((1024 + 2304 + 4096) / 3 + 512)),
        (Shape(rank=128), (1 + 128 / 1536) / (1 + 16 / 1536)),
    ],
)
def test_a_step_grows_with_images_tokens_and_rank(shape: Shape, factor: float) -> None:
    how_fast = speed_of(shape, "RTX 5090", [], TFLOPS, SALAD)
    assert how_fast is not None
    assert how_fast.seconds_per_step == pytest.approx(GUIDE_RUN.seconds_per_step * factor)


def test_other_gpus_are_scaled_by_tflops() -> None:
    how_fast = speed_of(EXAMPLE, "RTX 3090 (24 GB)", [], TFLOPS, SALAD)
    assert how_fast is not None
    assert how_fast.seconds_per_step == pytest.approx(GUIDE_RUN.seconds_per_step * 104.8 / 35.6)
    assert how_fast.basis == "the recipe's figure, scaled to RTX 3090 by TFLOPS"


def test_an_unknown_gpu_has_no_estimate() -> None:
    assert speed_of(EXAMPLE, "Radeon 9 (24 GB)", [], TFLOPS, SALAD) is None
    line = line_for(Work("cat", 100, EXAMPLE, 0), Rate("Radeon 9", "high", 0.1), None, SALAD)
    assert line == Line("cat", "new", 100, None, None, "the speed of Radeon 9 is unknown")


def test_finished_runs_on_the_gpu_replace_the_recipe() -> None:
    seen = [FinishedRun("RTX 5090", EXAMPLE, 60.0, second) for second in (1.0, 9.0, 1.2)]
    how_fast = speed_of(EXAMPLE, "RTX 5090 (32 GB)", seen, TFLOPS, SALAD)
    assert how_fast == Speed(60.0, 1.2, "3 finished runs like it")


def test_runs_with_other_settings_are_scaled_and_other_gpus_ignored() -> None:
    other = Shape(images=2)
    seen = [FinishedRun("RTX 5090", other, 60.0, 3.0), FinishedRun("RTX 4090", EXAMPLE, 60.0, 99.0)]
    how_fast = speed_of(EXAMPLE, "RTX 5090", seen, TFLOPS, SALAD)
    assert how_fast is not None
    assert (how_fast.start_seconds, how_fast.seconds_per_step) == (60.0, pytest.approx(1.5))
    assert how_fast.basis == "1 finished run with other settings, scaled"


def test_runs_of_the_simulated_trainer_count_only_in_the_local_cloud() -> None:
    seen = [FinishedRun("", EXAMPLE, 1.0, 0.5)]
    local = speed_of(EXAMPLE, "RTX 3090", seen, TFLOPS, CLOUDS["local"])
    real = speed_of(EXAMPLE, "RTX 3090", seen, TFLOPS, SALAD)
    assert local is not None
    assert real is not None
    assert local.seconds_per_step == 0.5
    assert real.seconds_per_step > GUIDE_RUN.seconds_per_step
    works = [Work("a", 10, EXAMPLE, 0)]
    found = bill_for(works, RATE, seen, TFLOPS, CLOUDS["local"], max_replicas=1, idle_threshold=0)
    assert (found.lines[0].seconds, found.idle_seconds) == (1.0 + 10 * 0.5 + 5.0, 1.0)


def progress_of(raw: dict[str, Any]) -> RunProgress:
    return parse_record(json.dumps(raw).encode(), RunProgress).value or RunProgress()


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, 2.0),
        ({"restarts": 1, "gpu_seconds": 1200.0}, 2.0),
        ({"begun": [250, 1]}, 4.0),
        ({"state": "training"}, None),
        ({"start_seconds": None}, None),
        ({"gpu_seconds": "much"}, None),
        ({"gpu_seconds": 50.0}, None),
        ({"begun": [500, 1]}, None),
        ({"steps": True}, None),
        ({"gpu_seconds": math.nan}, None),
        ({"gpu_seconds": math.inf}, None),
        ({"gpu_seconds": 10**400}, None),
        ({"steps": 10**400}, None),
        ({"start_seconds": -(10**400)}, None),
        ({"restarts": 0.5}, None),
        ({"begun": [math.nan, 1]}, 2.0),
        ({"begun": []}, 2.0),
        ({"begun": "250"}, 2.0),
        ({"begun": [250, 1], "restarts": 1, "gpu_seconds": 1200.0}, 2.0),
        ({"begun": [499, 1]}, 1000.0),
        ({"gpu_seconds": 100.5}, 0.001),
        ({"gpu_seconds": 100.0}, None),
    ],
)
def test_seconds_per_step_are_read_from_progress(changes: dict[str, Any], step: float | None) -> None:
    seen = finished_run_of(
        progress_of(finished(**changes)), b"job: extension\nconfig: {process: [{network: {linear: 8}}]}"
    )
    assert (seen and seen.seconds_per_step) == step
    if seen:
        assert (seen.gpu, seen.shape, seen.start_seconds) == ("RTX 5090", Shape(8, 1, (512,)), 100.0)


@pytest.mark.parametrize("gpu", [None, 5090, ""])
def test_a_run_without_gpu_name_has_an_empty_gpu(gpu: object) -> None:
    seen = finished_run_of(progress_of(finished(gpu=gpu)), b"")
    assert seen is not None
    assert seen.gpu == ""


def test_huge_numbers_give_finite_work() -> None:
    raw = "config: {process: [{datasets: [{resolution: HUGE}], network: {linear: HUGE}, train: {batch_size: HUGE}}]}"
    document = document_of(raw.replace("HUGE", str(10**400)).encode())
    assert math.isfinite(shape_of(document).work)


def test_the_shape_is_read_as_ai_toolkit_reads_it() -> None:
    process = {
        "network": {"rank": 32, "linear": 8},
        "train": {"batch_size": 2, "gradient_accumulation": 3, "gradient_accumulation_steps": 1},
        "datasets": [{"resolution": [1024, 512]}, {"resolution": 768}],
    }
    document = {"job": "extension", "config": {"process": [process]}}
    assert shape_of(document) == Shape(32, 6, (512, 768, 1024))
    assert shape_of(document_of(json.dumps(document).encode())) == Shape(32, 6, (512, 768, 1024))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1", b"- 1", b"config: 7", b"config: {process: [7]}"])
def test_an_invalid_train_yml_has_the_trainers_defaults(raw: bytes) -> None:
    assert shape_of(document_of(raw)) == Shape(4, 1, (512,))


def test_idle_time_is_counted_per_replica() -> None:
    found = bill(Work("a", 1, EXAMPLE, 0), Work("b", 1, EXAMPLE, 0), Work("c", 1, EXAMPLE, 0), replicas=2)
    assert (found.replicas, found.idle_seconds) == (2, 2 * (300 + 150))
    alone = bill_for([], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=300)
    assert (alone.usd, alone.idle_seconds) == (0.0, 0.0)


def test_without_a_scaling_rule_there_is_no_idle_time() -> None:
    found = bill_for([Work("a", 1, EXAMPLE, 0)], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=None)
    assert (found.replicas, found.idle_seconds) == (1, 0.0)


def test_download_time_is_part_of_the_estimate() -> None:
    small, large = bill(Work("a", 10, EXAMPLE, 0)), bill(Work("a", 10, EXAMPLE, 50_000_000))
    assert small.lines[0].seconds is not None
    assert large.lines[0].seconds == pytest.approx(small.lines[0].seconds + 10)


def test_replicas_rented_all_day_are_shown_with_their_daily_cost() -> None:
    dev = Rate("RTX 3090 (24 GB)", "high", 0.25)
    minimum = "cluster.minReplicas keeps 1 rented even without work; no total includes that: $10.80 a day."
    found = bill_for([], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=300, always=1)
    assert describe_bill(found, local=False) == minimum
    dev_text = "dev.enabled keeps another replica (RTX 3090 (24 GB)) rented all day; no total includes that: $6.00 a day."
    assert describe_bill(replace(found, always=0, dev=dev), local=False) == dev_text
    assert describe_bill(replace(found, dev=dev), local=False) == f"{minimum} {dev_text}"


@pytest.mark.parametrize("step", [math.nan, math.inf])
def test_an_estimate_that_is_not_finite_is_unknown(step: float) -> None:
    strange = bill(Work("cat", 10, EXAMPLE, 0), seen=[FinishedRun("RTX 5090", EXAMPLE, 1.0, step)])
    basis = "1 finished run like it gives no finite time"
    assert strange.lines == (Line("cat", "new", 10, None, None, basis),)
    assert strange.usd is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert show_hours(seconds) == text


shapes = st.builds(
    Shape,
    st.integers(1, 256),
    st.integers(1, 16),
    st.lists(st.sampled_from([256, 512, 768, 1024, 1536]), min_size=1, max_size=4).map(tuple),
)
clouds = st.builds(CloudTimes, st.floats(0, 600), st.floats(1e3, 1e9), st.floats(0, 600), st.booleans())
runs = st.lists(
    st.builds(
        FinishedRun,
        st.sampled_from(["", "RTX 5090", "RTX 3090"]),
        shapes,
        st.floats(0, 600),
        st.floats(0.001, 60),
    )
)


@given(shapes, clouds, runs, st.integers(0, 10**5), st.integers(0, 10**5), st.integers(0, 10**10))
def test_more_steps_and_larger_downloads_never_cost_less(
    shape: Shape, cloud: CloudTimes, seen: list[FinishedRun], steps: int, more: int, size: int
) -> None:
    def usd(steps: int, size: int) -> float:
        found = bill_for(
            [Work("a", steps, shape, size)], RATE, seen, TFLOPS, cloud, max_replicas=1, idle_threshold=9
        )
        assert found.usd is not None
        return found.usd

    assert 0 <= usd(steps, size) <= usd(steps + more, size) <= usd(steps + more, 2 * size)


@given(
    shapes,
    st.integers(0, 200),
    st.integers(0, 8),
    st.sampled_from([0, 64, 512]),
    st.sampled_from(sorted(TFLOPS)),
)
def test_a_larger_shape_is_never_estimated_faster(
    shape: Shape, rank: int, images: int, pixels: int, card: str
) -> None:
    larger = Shape(
        shape.rank + rank, shape.images + images, tuple(side + pixels for side in shape.resolutions)
    )
    small, large = (speed_of(one, card, [], TFLOPS, SALAD) for one in (shape, larger))
    assert small is not None
    assert large is not None
    assert small.seconds_per_step <= large.seconds_per_step


@given(st.lists(st.integers(1, 5000), max_size=12), st.integers(1, 12))
def test_the_total_is_the_sum_of_its_lines_and_grows_with_jobs(steps: list[int], most: int) -> None:
    works = [Work(str(number), one, EXAMPLE, 0) for number, one in enumerate(steps)]
    found = bill(*works, replicas=most)
    lines = sum(line.usd for line in found.lines if line.usd is not None)
    assert found.usd == pytest.approx(lines + (found.idle_usd or 0.0))
    fewer = bill(*works[:-1], replicas=most)
    assert (fewer.usd or 0.0) <= (found.usd or 0.0)
