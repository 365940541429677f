"""What a running job's times say about its launcher."""

from datetime import UTC, datetime, timedelta

import pytest

from flux_training.training.runs.handout import (
    HUNG_SECONDS,
    MAX_REQUEUES,
    REQUEUES_VARIABLE,
    SILENT_SECONDS,
    UNREPORTED_SECONDS,
    HandOut,
    HandOutState,
    count_requeues,
    hand_out_state,
    is_hung,
    is_trained_elsewhere,
    judge,
)

START = datetime(2026, 11, 30, 12, tzinfo=UTC)
STALL_MINUTES = 30.0


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("heartbeat", "reported", "state"),
    [
        (0, None, HandOutState.STARTING),
        (SILENT_SECONDS, None, HandOutState.STARTING),
        (SILENT_SECONDS + 1, None, HandOutState.SILENT),
        (SILENT_SECONDS + 1, -1, HandOutState.SILENT),  # the last report is about an earlier hand-out
        (SILENT_SECONDS + 1, 0, HandOutState.REPORTED),
        (SILENT_SECONDS + 1, 9, HandOutState.REPORTED),
        (5, 3, HandOutState.REPORTED),
    ],
)
def test_a_launcher_that_never_reports_while_heartbeats_arrive_is_silent(
    heartbeat: float, reported: float | None, state: HandOutState
) -> None:
    job = HandOut(START, at(heartbeat), None if reported is None else at(reported))
    assert hand_out_state(job, at(heartbeat + 1), STALL_MINUTES) == state


def test_a_shorter_stall_time_also_limits_the_silence() -> None:
    job = HandOut(START, at(61))
    assert hand_out_state(job, at(62), stall_minutes=1) == HandOutState.SILENT
    assert hand_out_state(job, at(62), stall_minutes=2) == HandOutState.STARTING


def test_a_wrong_clock_on_this_machine_makes_no_launcher_silent() -> None:
    assert hand_out_state(HandOut(START, at(20)), at(86_400), STALL_MINUTES) == HandOutState.STARTING


@pytest.mark.parametrize(
    ("failures", "heartbeat", "reported", "has_failed", "state"),
    [
        (1, 10, 9, True, HandOutState.RETRYING),  # the launcher has just reported the failure
        (0, 10, 9, True, HandOutState.RETRYING),  # and the queue has not counted it yet
        (1, 10, 9, False, HandOutState.REPORTED),  # another machine has it already
        (1, 10, -5, True, HandOutState.STARTING),  # and its launcher has not reported yet
        (1, -200, -201, False, HandOutState.RETRYING),  # no machine sends heartbeats
        (0, -200, -201, False, HandOutState.STARTING),  # lost with its node, not failed
        (1, SILENT_SECONDS + 20, None, False, HandOutState.SILENT),
    ],
)
def test_a_failed_attempt_waits_for_another_machine(
    failures: int, heartbeat: float, reported: float | None, has_failed: bool, state: HandOutState
) -> None:
    started = START if heartbeat > 0 else at(heartbeat)
    job = HandOut(started, at(heartbeat), None if reported is None else at(reported), has_failed, failures)
    now = at(max(heartbeat, 0) + 1)
    assert hand_out_state(job, now, STALL_MINUTES) == state


@pytest.mark.parametrize(
    ("text", "count"), [(None, 0), ("", 0), ("2", 2), ("-1", 0), ("²", 0), ("9" * 9, 0), ("x", 0)]
)
def test_how_often_a_run_was_queued_again(text: str | None, count: int) -> None:
    environment = {} if text is None else {REQUEUES_VARIABLE: text}
    assert count_requeues(environment) == count


@pytest.mark.parametrize(("reported", "count"), [(None, 2), (-1, 2), (0, 0), (50, 0)])
def test_a_report_since_the_job_was_queued_ends_a_series(reported: float | None, count: int) -> None:
    at_time = None if reported is None else at(reported)
    assert count_requeues({REQUEUES_VARIABLE: "2"}, START, at_time) == count


def test_a_job_that_reported_once_is_queued_again_although_its_series_had_ended() -> None:
    job = HandOut(at(100), at(101 + SILENT_SECONDS), reported=at(50), queued=START)
    environment = {REQUEUES_VARIABLE: str(MAX_REQUEUES)}
    assert judge(job, environment, at(402), 30) == (HandOutState.SILENT, "")


@pytest.mark.parametrize(
    ("reported", "heartbeat", "hung"),
    [
        (None, UNREPORTED_SECONDS, False),
        (None, UNREPORTED_SECONDS + 1, True),
        (-1, UNREPORTED_SECONDS + 1, True),
        (0, UNREPORTED_SECONDS + 1, False),
        (10, HUNG_SECONDS + 1, False),
        (10, 10 + HUNG_SECONDS, False),
        (10, 11 + HUNG_SECONDS, True),
    ],
)
def test_a_node_hangs_whose_worker_sends_heartbeats_long_after_the_launchers_last_report(
    reported: float | None, heartbeat: float, hung: bool
) -> None:
    job = HandOut(START, at(heartbeat), None if reported is None else at(reported))
    assert is_hung(job, STALL_MINUTES) == hung
    assert is_hung(job, stall_minutes=0.1) == (heartbeat > max(0, reported or 0) + 6)


def test_a_silent_job_is_stalled_once_it_was_queued_again_often_enough() -> None:
    job = HandOut(START, at(SILENT_SECONDS + 1))
    for count in range(MAX_REQUEUES):
        assert judge(job, {REQUEUES_VARIABLE: str(count)}, at(7200), 30) == (HandOutState.SILENT, "")
    state, reason = judge(job, {REQUEUES_VARIABLE: str(MAX_REQUEUES)}, at(482), 30)
    assert state is HandOutState.SILENT
    assert reason.endswith("the nodes' keys for the bucket may not work")


def test_a_launcher_that_stopped_reporting_is_stalled() -> None:
    job = HandOut(START, at(3700), at(30))
    state, reason = judge(job, {}, at(3700), STALL_MINUTES)
    assert state == HandOutState.REPORTED
    assert "nothing has been written to the bucket for 61 min" in reason


@pytest.mark.parametrize(("minutes", "stalled"), [(9, False), (11, True)])
def test_a_failed_attempt_is_not_stalled_before_another_machine_can_have_started(
    minutes: int, stalled: bool
) -> None:
    job = HandOut(START, at(10), at(5), has_failed=True, failures=1)
    state, reason = judge(job, {}, at(10 + minutes * 60), stall_minutes=2)
    assert (state, bool(reason)) == (HandOutState.RETRYING, stalled)


COMPLETED = 100.0


@pytest.mark.parametrize(
    ("started", "reported", "state", "now", "expected"),
    [
        (99, 105, "training", 110, True),
        (99, 105, "training", 105 + HUNG_SECONDS, False),  # its launcher is gone, too
        (99, 80, "training", 101, True),  # the second launcher has not reported yet
        (99, 80, "finished", 101, True),
        (99, 80, "finished", 99 + HUNG_SECONDS, False),
        (0, 98, "training", 101, True),  # nothing shows yet whether it was its last report
        (0, 98, "finished", 101, False),  # the only node lost its weights
        (0, 98, "", 101, False),
        (99, 150, "finished", 151, True),  # the weights of the second node are being uploaded
        (99, 150, "failed", 151, False),
        (0, None, "", 101, False),  # nothing was ever uploaded
    ],
)
def test_a_second_node_may_train_a_job_that_the_first_one_has_reported_as_completed(
    started: float, reported: float | None, state: str, now: float, expected: bool
) -> None:
    job = HandOut(
        at(started), at(COMPLETED), None if reported is None else at(reported), completed=at(COMPLETED)
    )
    assert is_trained_elsewhere(job, state, at(now), STALL_MINUTES) == expected
