"""Cost estimates: parts, corrections by finished runs, bounds; and properties that hold for any work."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.training.bill import describe_bill, explain_lines, show_hours
from flux_training.training.cost import (
    CLOUDS,
    Bill,
    CloudTimes,
    Line,
    Rate,
    Work,
    bill_for,
    combine_gpu_classes,
    line_for,
)
from flux_training.training.estimates.calibration import FinishedRun, correction_from, finished_run_of
from flux_training.training.estimates.model_work import image_work, model_work, step_work
from flux_training.training.estimates.parts import SAMPLE_FACTOR, PartName, stand_in_times, trainer_times
from flux_training.training.estimates.ranges import Range
from flux_training.training.estimates.speed import SPEED
from flux_training.training.estimates.workload import Mode, Sampling, Workload, workload_of
from flux_training.training.gpu import TFLOPS
from flux_training.training.runs.progress import RunProgress
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.untrusted import parse_record
from tests.bench.measures import ROOT

SALAD = CLOUDS["salad"]
RATE = Rate("RTX 5090 (32 GB)", "high", 0.45)
EXAMPLE = Workload()
GUIDE = Workload(sampling=Sampling(images=10, every=250))
PEAK = TFLOPS["RTX 5090"]


def bill(*works: Work, rate: Rate = RATE, seen: list[FinishedRun] | None = None, replicas: int = 1) -> Bill:
    return bill_for(works, rate, seen or [], TFLOPS, SALAD, max_replicas=replicas, idle_threshold=300)


def line(work: Work, rate: Rate = RATE, *seen: FinishedRun, cloud: CloudTimes = SALAD) -> Line:
    return line_for(work, rate, seen, TFLOPS, cloud)


def run_that_took(factor: float, workload: Workload = EXAMPLE, gpu: str = "RTX 5090") -> FinishedRun:
    """A run of 1,000 steps that took `factor` times as long as the likely estimate."""
    usual = trainer_times(workload, 0, 1000, 0, TFLOPS[gpu])
    return FinishedRun(gpu, workload, factor * usual.start.likely, factor * usual.training.likely, 1000)


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


def time_of(work: Work, rate: Rate = RATE, *seen: FinishedRun) -> Range:
    time = line(work, rate, *seen).time
    assert time is not None
    return time


def test_the_recipes_hour_is_inside_its_range() -> None:
    """Its ten prompts are in ai-toolkit's example; whether the hour has them is not told, so both are inside."""
    for sampling in (GUIDE.sampling, Sampling()):
        time = time_of(Work("cat", 2000, replace(GUIDE, sampling=sampling), 30_000_000, images=36))
        assert time.low < 3600 < time.high


# What a change does to the likely time of 2,000 steps with 10 prompts on an RTX 5090, in minutes.
VARIANTS = {
    "example": (GUIDE, 86.5),
    "1 prompt": (replace(GUIDE, sampling=Sampling(images=1, every=250)), 64.7),
    "20 prompts": (replace(GUIDE, sampling=Sampling(images=20, every=250)), 110.8),
    "512 pixels": (replace(GUIDE, resolutions=(512,)), 55.2),
    "1024 pixels": (replace(GUIDE, resolutions=(1024,)), 123.1),
    "rank 4": (replace(GUIDE, rank=4), 86.1),
    "rank 128": (replace(GUIDE, rank=128), 90.8),
    "not quantized": (replace(GUIDE, mode=Mode(quantized=False)), 72.7),
    "offloaded": (replace(GUIDE, mode=Mode(offloaded=True)), 192.8),
    "loaded by the CPU": (replace(GUIDE, low_vram=True), 89.6),
    "without checkpointing": (replace(GUIDE, mode=Mode(checkpointing=False)), 66.9),
    "batch of 4": (replace(GUIDE, batch=4), 233.3),
    "4 accumulated": (replace(GUIDE, accumulation=4), 264.0),
    "video, 33 frames": (replace(GUIDE, mode=Mode("wan21-14b"), resolutions=(512,), frames=33), 379.0),
    "1 control image": (replace(GUIDE, mode=Mode("flux1-kontext"), controls=1), 150.7),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_setting_changes_the_time_that_it_should(name: str) -> None:
    workload, minutes = VARIANTS[name]
    assert time_of(Work("cat", 2000, workload, 0)).likely / 60 == pytest.approx(minutes, abs=0.1)


def test_20_prompts_take_longer_than_one_by_their_images() -> None:
    one, twenty = (line(Work("cat", 2000, VARIANTS[name][0], 0)) for name in ("1 prompt", "20 prompts"))
    images = 9 * 19
    assert one.time is not None
    assert twenty.time is not None
    drawn = SAMPLE_FACTOR.likely * SPEED.quantized * images * image_work(GUIDE) / PEAK
    assert twenty.time.likely - one.time.likely == pytest.approx(drawn, rel=0.02)


def test_the_documents_table_has_these_estimates() -> None:
    text = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d,]+) min \|", text, re.MULTILINE))
    resumed = time_of(Work("cat", 2000, GUIDE, 0, begun=1000)).likely / 60
    expected = {name: minutes for name, (_, minutes) in VARIANTS.items()} | {"resumed at step 1,000": resumed}
    assert rows == {name: f"{minutes:,.0f}" for name, minutes in expected.items()}


def test_a_resumed_run_has_only_what_is_left() -> None:
    whole, half = (line(Work("cat", 2000, GUIDE, 0, begun=begun)) for begun in (0, 1000))
    parts = {part.name: part for part in half.parts}
    assert (half.steps, parts[PartName.STEPS].what) == (1000, "1,000 steps")
    assert parts[PartName.SAMPLES].what == "50 images"
    assert parts[PartName.LOADING] == next(part for part in whole.parts if part.name is PartName.LOADING)


def interruptions_of(cloud: CloudTimes, priority: str, steps: int) -> Range:
    found = line(Work("cat", steps, GUIDE, 0), replace(RATE, priority=priority), cloud=cloud)
    return next(part.seconds for part in found.parts if part.name is PartName.INTERRUPTIONS)


def test_the_high_end_has_more_interruptions_than_expected() -> None:
    """At three times the assumed rate, 3 hours have 0.18 and 1.8 interruptions: two standard deviations more are 1 and 4."""
    times = trainer_times(GUIDE, 0, 3000, 0, PEAK)
    one = times.training.high * GUIDE.save_every / 3000 + times.start.high
    assert interruptions_of(SALAD, "high", 3000).high == pytest.approx(one)
    assert interruptions_of(SALAD, "batch", 3000).high == pytest.approx(4 * one)


def test_each_job_of_the_local_cloud_may_lose_a_node() -> None:
    assert interruptions_of(CLOUDS["local"], "high", 20).high > 0
    assert interruptions_of(replace(CLOUDS["local"], least_interruptions=0), "high", 20).high == 0


def test_explanations_list_the_parts_and_their_ranges() -> None:
    text = explain_lines(bill(Work("cat", 300, GUIDE, 3_000_000, images=12)).lines)
    assert text.splitlines() == [
        "cat, from the model's size and public figures:",
        "  download       3.0 MB                       1 s  0 s to 2 s",
        "  loading        flux1-dev, quantized       2 min  60 s to 4 min",
        "  caching        12 images                   11 s  5 s to 22 s",
        "  steps          300 steps                  9 min  6 min to 12 min",
        "  samples        30 images                  8 min  5 min to 12 min",
        "  saves          2 checkpoints                8 s  2 s to 20 s",
        "  upload         checks and final weights    60 s  24 s to 2 min",
        "  interruptions  assumed 0.02 an hour         3 s  0 s to 32 s",
        "  total                                    20 min  12 min to 32 min",
    ]


def test_a_model_without_a_row_has_a_wide_range_and_says_so() -> None:
    made = line(Work("cat", 1000, Workload(Mode("new_arch")), 0))
    assert made.basis == "FLUX.1's size, because the size of new_arch is unknown"
    assert made.time is not None
    assert made.time.high > 4 * made.time.low


def test_an_unknown_gpu_has_no_estimate() -> None:
    unknown = line(Work("cat", 100, EXAMPLE, 0), Rate("Radeon 9", "high", 0.1))
    assert unknown == Line("cat", "new", 100, None, None, "the speed of Radeon 9 is unknown")


def test_finished_runs_of_the_same_settings_correct_the_estimate() -> None:
    plain = time_of(Work("cat", 1000, EXAMPLE, 0))
    seen = [run_that_took(factor) for factor in (0.8, 0.7, 0.75)]
    made = line(Work("cat", 1000, EXAMPLE, 0), RATE, *seen)
    assert made.basis == "3 finished runs of this model"
    assert made.time is not None
    assert made.time.likely == pytest.approx(0.75 * (plain.likely - 60) + 60, rel=0.01)
    assert made.time.high / made.time.low < plain.high / plain.low


def test_other_settings_are_scaled_and_other_modes_and_gpus_ignored() -> None:
    made = line(Work("cat", 1000, replace(EXAMPLE, batch=2), 0), RATE, run_that_took(0.8))
    assert made.basis == "1 finished run of this model with other settings, scaled"
    plain = line(Work("cat", 1000, EXAMPLE, 0))
    offloaded = run_that_took(0.8, Workload(Mode(offloaded=True)))
    other_model = run_that_took(0.8, Workload(Mode("qwen-image")))
    other_gpu = run_that_took(0.8, gpu="RTX 4090")
    assert line(Work("cat", 1000, EXAMPLE, 0), RATE, offloaded, other_model, other_gpu) == plain


@pytest.mark.parametrize("factor", [1e-6, 0.1, 10.0, 1e6])
def test_a_lying_node_cannot_move_an_estimate_by_more_than_a_factor_of_two(factor: float) -> None:
    plain, moved = (
        time_of(Work("cat", 1000, EXAMPLE, 0)),
        time_of(Work("cat", 1000, EXAMPLE, 0), RATE, run_that_took(factor)),
    )
    assert plain.likely / 2 <= moved.likely <= plain.likely * 2


@pytest.mark.parametrize("mode", [Mode(), Mode("wan21-14b"), Mode("new"), Mode(offloaded=True)])
def test_of_a_long_run_at_batch_priority_a_lying_node_moves_no_end_by_more_than_two(mode: Mode) -> None:
    workload, rate = Workload(mode), replace(RATE, priority="batch")
    work = Work("cat", 100_000, workload, 0)
    plain, moved = time_of(work, rate), time_of(work, rate, run_that_took(1e6, workload))
    assert moved.high <= 2.001 * plain.high
    assert moved.likely <= 2.001 * plain.likely


def test_runs_of_the_stand_in_count_only_in_the_local_cloud() -> None:
    local = CLOUDS["local"]
    seen = FinishedRun("", EXAMPLE, 1.0, 50.0, 100)
    work = Work("a", 10, EXAMPLE, 0)
    made = line(work, RATE, seen, cloud=local)
    assert made.basis == "1 finished run of the stand-in trainer"
    assert made.seconds == pytest.approx(1.0 + 10 * 0.5 + 5.0)
    assert line(work, Rate("RTX 3090", "high", 1.0), seen, cloud=local).seconds == pytest.approx(11.0)
    assert line(work, RATE, seen) == line(work)


def test_before_the_first_run_the_local_cloud_has_the_speed_of_its_stand_in() -> None:
    """Whatever GPU is chosen: a real one takes many times longer."""
    works = [Work("a", steps, EXAMPLE, 0) for steps in (100, 500)]
    for rate in (RATE, Rate("RTX 3060 (12 GB)", "high", 0.1)):
        few, many = (line(work, rate, cloud=CLOUDS["local"]) for work in works)
        assert few.basis == "the usual speed of the stand-in trainer"
        usual = stand_in_times(500).steps.likely - stand_in_times(100).steps.likely
        assert (many.seconds or 0) - (few.seconds or 0) == pytest.approx(usual)


@pytest.mark.parametrize("count", [1, 3])
def test_a_range_of_the_local_cloud_holds_machines_of_half_and_twice_the_speed(count: int) -> None:
    """The user's own machine has other work, too, and may have had it while the finished runs were trained."""
    correction = correction_from(EXAMPLE, "", [FinishedRun("", EXAMPLE, 1.0, 50.0, 100)] * count, 1.0, True)
    assert correction is not None
    for found in (correction.start, correction.steps):
        assert (found.low, found.high) == pytest.approx((found.likely / 2, 2 * found.likely))
    # Before any run has finished. An idle machine of two cores took 0.04 seconds a step, a busy one 0.45.
    steps = stand_in_times(100).steps
    assert (steps.low, steps.high) == pytest.approx((4, 45))


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
    assert (seen and seen.training_seconds / (seen.steps - seen.begun)) == step
    if seen:
        assert (seen.gpu, seen.start_seconds) == ("RTX 5090", 100.0)
        assert (seen.workload.rank, seen.workload.batch, seen.workload.resolutions) == (8, 1, (512,))


@pytest.mark.parametrize("gpu", [None, 5090, ""])
def test_a_run_without_gpu_name_has_an_empty_gpu(gpu: object) -> None:
    seen = finished_run_of(progress_of(finished(gpu=gpu)), b"")
    assert seen is not None
    assert seen.gpu == ""


def test_huge_numbers_give_finite_work() -> None:
    raw = (
        "config: {process: [{datasets: [{resolution: HUGE, num_frames: HUGE}], network: {linear: HUGE},"
        " train: {batch_size: HUGE}, sample: {width: HUGE, sample_steps: HUGE, prompts: [a]}}]}"
    )
    for huge in (10**9, 10**400):
        workload = workload_of(parse_train_yml(raw.replace("HUGE", str(huge)).encode()))
        assert math.isfinite(step_work(workload, model_work(workload.mode.model)) + image_work(workload))


def test_the_workload_is_read_as_ai_toolkit_reads_it() -> None:
    process = {
        "network": {"rank": 32, "linear": 8},
        "train": {"batch_size": 2, "gradient_accumulation": 3, "gradient_accumulation_steps": 1},
        "datasets": [{"resolution": [1024, 512]}, {"resolution": 768}],
    }
    document = {"job": "extension", "config": {"process": [process]}}
    for read in (document, parse_train_yml(json.dumps(document).encode())):
        workload = workload_of(read)
        assert (workload.rank, workload.batch, workload.accumulation) == (32, 2, 3)
        assert workload.resolutions == (512, 768, 1024)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1", b"- 1", b"config: 7", b"config: {process: [7]}"])
def test_an_invalid_train_yml_has_the_trainers_defaults(raw: bytes) -> None:
    workload = workload_of(parse_train_yml(raw))
    assert (workload.rank, workload.batch, workload.resolutions, workload.sampling.images) == (
        4,
        1,
        (512,),
        0,
    )


def wan(size: str) -> dict[str, str]:
    return {"arch": "wan21", "name_or_path": f"Wan-AI/Wan2.1-T2V-{size}-Diffusers"}


def test_a_smaller_model_of_the_same_architecture_has_less_work() -> None:
    workloads = [workload_of({"config": {"process": [{"model": wan(size)}]}}) for size in ("1.3B", "14B")]
    small, large = (step_work(workload, model_work(workload.mode.model)) for workload in workloads)
    assert small < large / 5


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ({"model": {"is_flux": True, "quantize": True}}, Mode("flux1-dev", "lora", True)),
        ({"model": {"arch": "wan21", "is_flux": True}}, Mode("wan21-14b", "lora", False)),
        ({"model": {"arch": "wan21:14b"}}, Mode("wan21-14b", "lora", False)),
        ({"model": wan("1.3B")}, Mode("wan21-1b", "lora", False)),
        ({"model": wan("14B")}, Mode("wan21-14b", "lora", False)),
        ({"model": {"arch": "wan21", "name_or_path": "me/w"}}, Mode("wan21 me/w", "lora", False)),
        ({"model": {"is_flux": True, "name_or_path": "/model"}}, Mode("flux1-dev", "lora", False)),
        ({"model": {"arch": "flux", "name_or_path": "ostris/Flex.1-alpha"}}, Mode("flex1", "lora", False)),
        ({"model": {"is_xl": True}}, Mode("sdxl", "lora", False)),
        ({"model": {"is_v3": True}}, Mode("sd35-large", "lora", False)),
        ({"model": {"arch": 7}, "network": {"type": "LoKr"}}, Mode("7", "lokr", False)),
        ({"model": {"layer_offloading": True}}, Mode("", "lora", False, True)),
        ({"train": {"gradient_checkpointing": False}}, Mode("", "lora", False, False, False)),
    ],
)
def test_the_mode_is_read_from_train_yml(process: dict[str, Any], expected: Mode) -> None:
    assert workload_of({"config": {"process": [process]}}).mode == expected


@pytest.mark.parametrize(
    ("sample", "train", "before", "after"),
    [
        ({"prompts": ["a", "b"], "sample_every": 250}, {}, 2, 16),
        ({"prompts": ["a", "b"], "samples": [{"prompt": "c"}]}, {}, 1, 20),
        ({"prompts": "cat", "sample_every": 3000}, {}, 3, 3),
        ({"prompts": ["a"], "sample_every": 1000}, {"skip_first_sample": True}, 0, 2),
        ({"prompts": ["a"]}, {"disable_sampling": True}, 0, 0),
        ({}, {}, 0, 0),
    ],
)
def test_samples_are_counted_as_ai_toolkit_draws_them(
    sample: dict[str, Any], train: dict[str, Any], before: int, after: int
) -> None:
    sampling = workload_of({"config": {"process": [{"sample": sample, "train": train}]}}).sampling
    assert (sampling.images if sampling.before_training else 0, sampling.count_samples_after(0, 2000)) == (
        before,
        after,
    )


def test_idle_time_is_counted_per_replica() -> None:
    found = bill(Work("a", 1, EXAMPLE, 0), Work("b", 1, EXAMPLE, 0), Work("c", 1, EXAMPLE, 0), replicas=2)
    assert (found.replicas, found.idle) == (2, Range(600, 900, 1200))
    alone = bill_for([], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=300)
    assert (alone.usd, alone.idle_seconds) == (0.0, 0.0)


def test_without_a_scaling_rule_there_is_no_idle_time() -> None:
    found = bill_for([Work("a", 1, EXAMPLE, 0)], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=None)
    assert (found.replicas, found.idle_seconds) == (1, 0.0)


def test_download_time_is_part_of_the_estimate() -> None:
    small, large = (time_of(Work("a", 10, EXAMPLE, size)) for size in (0, 50_000_000))
    assert large.likely == pytest.approx(small.likely + 10)


def test_replicas_rented_all_day_are_shown_with_their_daily_cost() -> None:
    dev = Rate("RTX 3090 (24 GB)", "high", 0.25)
    minimum = "cluster.minReplicas keeps 1 rented even without work; no total includes that: $10.80 a day."
    found = bill_for([], RATE, [], TFLOPS, SALAD, max_replicas=2, idle_threshold=300, always=1)
    assert describe_bill(found, local=False) == minimum
    dev_text = "dev.enabled keeps another replica (RTX 3090 (24 GB)) rented all day; no total includes that: $6.00 a day."
    assert describe_bill(replace(found, always=0, dev=dev), local=False) == dev_text
    assert describe_bill(replace(found, dev=dev), local=False) == f"{minimum} {dev_text}"


def test_an_estimate_that_is_not_finite_is_unknown() -> None:
    huge = Workload(resolutions=(10**9,), frames=10**9, batch=10**9, accumulation=10**9)
    endless = Work("cat", 10**200, huge, 0)
    assert bill(endless).lines[0].time is None
    assert bill(endless).usd is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert show_hours(seconds) == text


workloads = st.builds(
    Workload,
    st.sampled_from([Mode(), Mode("wan21-14b"), Mode("new"), Mode(offloaded=True)]),
    st.integers(1, 256),
    st.integers(1, 16),
    st.integers(1, 4),
    st.lists(st.sampled_from([256, 512, 768, 1024, 1536]), min_size=1, max_size=4).map(tuple),
    sampling=st.builds(Sampling, st.integers(0, 20), st.integers(1, 500)),
    save_every=st.integers(1, 1000),
)
runs = st.lists(
    st.builds(
        FinishedRun,
        st.sampled_from(["", "RTX 5090", "RTX 3090"]),
        workloads,
        st.floats(0, 1e6),
        st.floats(0.001, 1e6),
        st.integers(1, 10**6),
    )
)


@given(workloads, runs, st.integers(0, 10**5), st.integers(0, 10**5), st.integers(0, 10**10))
def test_more_steps_and_larger_downloads_never_cost_less(
    workload: Workload, seen: list[FinishedRun], steps: int, more: int, size: int
) -> None:
    def usd(steps: int, size: int) -> float:
        found = bill(Work("a", steps, workload, size), seen=seen)
        assert found.usd is not None
        return found.usd

    assert 0 <= usd(steps, size) <= usd(steps + more, size) <= usd(steps + more, 2 * size)


@given(workloads, runs, st.integers(0, 10**5), st.sampled_from(["high", "batch"]))
def test_ranges_are_in_order_and_each_end_is_bounded_by_twice_the_plain_estimate(
    workload: Workload, seen: list[FinishedRun], steps: int, priority: str
) -> None:
    work, rate = Work("a", steps, workload, 0), replace(RATE, priority=priority)
    plain = time_of(work, rate)
    own = [replace(run, gpu="RTX 5090", workload=workload) for run in seen]
    for given_runs in (seen, own):
        found = time_of(work, rate, *given_runs)
        assert 0 <= found.low <= found.likely <= found.high
        assert correction_from(workload, "RTX 5090", given_runs, PEAK, False) or found == plain
        for end in ("low", "likely", "high"):
            usual = getattr(plain, end)
            assert 0.499 * usual <= getattr(found, end) <= 2.001 * usual


@given(
    workloads,
    st.integers(0, 200),
    st.integers(0, 8),
    st.sampled_from([0, 64, 512]),
    st.sampled_from(sorted(TFLOPS)),
)
def test_a_larger_workload_is_never_estimated_faster(
    workload: Workload, rank: int, images: int, pixels: int, card: str
) -> None:
    larger = replace(
        workload,
        rank=workload.rank + rank,
        batch=workload.batch + images,
        resolutions=tuple(side + pixels for side in workload.resolutions),
    )
    small, large = (time_of(Work("a", 100, one, 0), Rate(card, "high", 1.0)) for one in (workload, larger))
    assert small.likely <= large.likely


@given(st.lists(st.integers(1, 5000), max_size=12), st.integers(1, 12))
def test_the_total_is_the_sum_of_its_lines_and_grows_with_jobs(steps: list[int], most: int) -> None:
    works = [Work(str(number), one, EXAMPLE, 0) for number, one in enumerate(steps)]
    found = bill(*works, replicas=most)
    lines = sum(one.usd for one in found.lines if one.usd is not None)
    assert found.usd == pytest.approx(lines + (found.idle_usd or 0.0))
    fewer = bill(*works[:-1], replicas=most)
    assert (fewer.usd or 0.0) <= (found.usd or 0.0)


def test_of_several_classes_the_range_holds_each_and_the_first_is_likely() -> None:
    work = Work("cat", 1000, GUIDE, 0)
    bills = [bill(work, rate=Rate(gpu, "high", usd)) for gpu, usd in (("RTX 5090", 0.45), ("RTX 4090", 0.3))]
    found = combine_gpu_classes(bills)
    (line_of_both,) = found.lines
    times = [one.lines[0].time for one in bills]
    costs = [one.lines[0].cost for one in bills]
    assert (found.rate.gpu, found.rate.usd_an_hour) == ("RTX 5090 or RTX 4090", 0.45)
    assert line_of_both.time is not None
    assert times[0] is not None
    assert times[1] is not None
    assert line_of_both.time.low == pytest.approx(times[0].low)
    assert line_of_both.time.likely == pytest.approx(times[0].likely)
    assert line_of_both.time.high == pytest.approx(times[1].high)
    assert line_of_both.cost is not None
    assert costs[0] is not None
    assert costs[1] is not None
    assert line_of_both.cost.low == min(costs[0].low, costs[1].low)
    assert line_of_both.cost.high == max(costs[0].high, costs[1].high)
    unknown = combine_gpu_classes([bills[0], bill(work, rate=Rate("RTX 9999", "high", 0.1))])
    assert unknown.usd is None
