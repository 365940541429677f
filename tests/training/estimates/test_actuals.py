"""Actual costs beside estimates, and what was paid for without training."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flux_training.training.estimates.actuals import (
    Waste,
    advice,
    expected_cost,
    group_run_costs,
    run_cost,
    total_waste,
    waste_of,
)
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import EstimateRecord, RunRecord
from flux_training.training.untrusted import parse_record

PROGRESS = RunProgress(
    state="finished",
    step=1000,
    steps=1000,
    seconds_per_step=3.0,
    gpu_seconds=3500.0,
    start_seconds=100.0,
    restarts=2,
    download_seconds=40.0,
)
ESTIMATE = EstimateRecord(usd=0.4, usd_low=0.3, usd_high=0.6, gpu="RTX 5090 (32 GB)", usd_an_hour=0.45)
RECORD = RunRecord(estimate=ESTIMATE, created_at=datetime(2026, 11, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("progress", "waste"),
    [
        (PROGRESS, Waste(downloads=40.0, loading=100.0, starts=200.0, repeated=200.0)),
        (PROGRESS.model_copy(update={"restarts": 0}), Waste(downloads=40.0, loading=100.0)),
        (PROGRESS.model_copy(update={"seconds_per_step": None}), Waste(40.0, 100.0, 200.0)),
        (PROGRESS.model_copy(update={"gpu_seconds": 3000.0}), Waste(40.0, 100.0, 200.0)),
        # What the launcher has summed up does not change with the speed of the last steps.
        (
            PROGRESS.model_copy(
                update={"restart_seconds": 210.0, "repeated_seconds": 90.0, "seconds_per_step": 3.2}
            ),
            Waste(40.0, 100.0, 210.0, 90.0),
        ),
        (RunProgress(), Waste()),
    ],
)
def test_waste_by_cause(progress: RunProgress, waste: Waste) -> None:
    assert waste_of(progress) == waste


def test_interruptions_are_said_in_words() -> None:
    assert waste_of(PROGRESS).interruption_waste_in_words == "starting again 3 min, steps trained again 3 min"
    assert waste_of(RunProgress()).interruption_waste_in_words == ""


def test_a_finished_run_has_an_error_and_is_inside_its_range_or_not() -> None:
    found = run_cost("cat", "0123456789ab", RECORD, PROGRESS)
    assert (found.month, found.gpu) == ("2026-11", "RTX 5090 (32 GB)")
    assert found.usd == pytest.approx(3540 / 3600 * 0.45)
    assert found.error == pytest.approx(0.4425 / 0.4 - 1)
    assert found.is_within_estimate is True
    assert replace(found, usd=0.61).is_within_estimate is False
    running = run_cost("cat", "0123456789ab", RECORD, PROGRESS.model_copy(update={"state": "training"}))
    assert (running.error, running.is_within_estimate) == (None, None)


def test_runs_without_an_estimate_are_not_compared() -> None:
    found = run_cost("cat", "0123456789ab", RunRecord(), PROGRESS)
    assert (found.usd, found.error, found.month) == (None, None, "")
    assert group_run_costs([found], lambda run: run.month) == []


def test_a_price_that_no_node_has_is_ignored() -> None:
    raw = b'{"estimate": {"usd": 0.4, "usd_an_hour": 100000.0}}'
    record = parse_record(raw, RunRecord).value
    assert record is not None
    assert run_cost("cat", "0123456789ab", record, PROGRESS).usd is None


def test_groups_have_totals_of_finished_runs() -> None:
    found = run_cost("cat", "0123456789ab", RECORD, PROGRESS)
    other = replace(found, month="2026-10", usd=0.7)
    months = group_run_costs([found, found, other], lambda run: run.month)
    assert [(one.name, one.runs, one.inside) for one in months] == [("2026-10", 1, 0), ("2026-11", 2, 2)]
    assert months[1].estimate == pytest.approx(0.8)


def test_the_expected_range_narrows_while_a_run_trains() -> None:
    widths = []
    for done in (0.1, 0.5, 0.9):
        progress = PROGRESS.model_copy(update={"gpu_seconds": 3600 * done, "eta_seconds": 3600 * (1 - done)})
        found = expected_cost(progress, 0.5)
        assert found is not None
        assert found.likely == pytest.approx(0.5)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert expected_cost(PROGRESS, 0.5) is None
    assert expected_cost(progress, None) is None


def test_advice_names_the_setting_that_helps() -> None:
    assert advice(Waste(repeated=100.0, idle=300.0), 3600.0) == []
    assert advice(Waste(repeated=400.0), 3600.0) == [
        "11% of the paid time repeats steps after interruptions: lower save.save_every in train.yml"
    ]
    assert advice(Waste(idle=450.0), 3600.0) == [
        "11% of the paid time is idle after the last job: queue several jobs at once, or lower cluster.idleThresholdSeconds"
    ]
    assert advice(Waste(), 0.0) == []


def test_the_idle_time_of_a_run_counts_once_it_has_finished() -> None:
    record = RunRecord(estimate=ESTIMATE.model_copy(update={"idle_seconds": 450.0}))
    found = run_cost("cat", "0123456789ab", record, PROGRESS)
    assert (found.waste.idle, found.paid_seconds) == (450.0, 3540.0)
    assert found.waste.causes_in_words.endswith("steps trained again 3 min, idle after the last job 8 min")
    assert waste_of(PROGRESS.model_copy(update={"state": "training"}), 450.0).idle == 0.0
    assert total_waste([found.waste, Waste(idle=50.0)]).idle == 500.0
