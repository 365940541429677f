"""Which of a run's objects can be its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights
from flux_training.clients.queue.hand_outs import (
    MAX_PLANTED,
    TOO_EARLY,
    TOO_LATE,
    PlantedObjects,
    find_planted_objects,
    reason_to_doubt_weights,
)
from flux_training.clients.results import RunResults, run_status
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results.trusted_weights import choose_weights
from flux_training.commands.watch.job_status import JobStatus, StackJob, find_problems
from flux_training.training.runs.handout import REQUEUES_VARIABLE
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import NO_REPORT, ModelFolderContents, RunState
from tests.support.hostile_buckets import as_storage

KEYS = Layout("").run("cat", "0" * 12)
CREATED = datetime(2026, 11, 30, 12, tzinfo=UTC)
STARTED = CREATED + timedelta(minutes=10)
BEFORE, WAITING, TRAINING = CREATED - timedelta(minutes=1), CREATED + timedelta(minutes=5), STARTED
ENDED = STARTED + timedelta(minutes=10)
AT_THE_END, LATER = ENDED + timedelta(seconds=10), ENDED + timedelta(seconds=11)


def job(status: str, started: datetime | None = STARTED) -> Job:
    return Job(
        id="j", container_group_id="g", status=status, created=CREATED, started=started, **{status: ENDED}
    )


@pytest.mark.parametrize(
    ("jobs", "written", "is_posted", "expected"),
    [
        ([], TRAINING, True, ""),
        ([], TRAINING, False, TOO_EARLY),
        ([job("pending", None)], TRAINING, True, TOO_EARLY),
        ([job("canceled", None)], TRAINING, True, TOO_EARLY),
        ([job("running")], TRAINING, True, ""),
        ([job("running")], WAITING, True, TOO_EARLY),
        # The node that had the job last would have published them again.
        *(([job(status)], WAITING, True, TOO_EARLY) for status in ("failed", "completed", "canceled")),
        ([job("completed", None)], WAITING, False, ""),
        ([job("completed")], BEFORE, True, TOO_EARLY),
        # A run that was queued again: its first node finished after all.
        ([job("canceled"), job("pending", None)], TRAINING, True, ""),
        ([job("running")], None, True, ""),
        # A node learns with its next heartbeat that its job was canceled, but who wrote this is not certain.
        ([job("canceled")], AT_THE_END, True, ""),
        ([job("canceled")], LATER, True, TOO_LATE),
        ([job("failed")], AT_THE_END, True, ""),
        ([job("failed")], LATER, True, TOO_LATE),
        ([job("canceled"), job("pending", None)], LATER, True, TOO_LATE),
        # The worker reports its job after the upload, so nothing says that this was not its node.
        ([job("completed")], LATER, True, ""),
    ],
)
def test_which_weights_can_be_from_a_node(
    jobs: list[Job], written: datetime | None, is_posted: bool, expected: str
) -> None:
    weights = StoredWeights((ObjectInfo("k", 1, "e", written),))
    assert reason_to_doubt_weights(jobs, weights, is_posted) == expected


def test_the_last_of_two_files_must_be_of_the_job() -> None:
    weights = StoredWeights((ObjectInfo("high", 1, "e", TRAINING), ObjectInfo("low", 1, "e", LATER)))
    assert reason_to_doubt_weights([job("failed")], weights, True) == TOO_LATE


class TimedBucket:
    """Objects in output/ that were written at these times."""

    def __init__(self, *written: datetime) -> None:
        self.written = written

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        assert prefix.endswith("/output/")
        return (ObjectInfo(f"{prefix}{number}", 1, "e", time) for number, time in enumerate(self.written))


@pytest.mark.parametrize(
    ("found", "written", "expected"),
    [
        (job("pending", None), (BEFORE, CREATED, WAITING, WAITING), 2),
        # A failed attempt, whose node may have written them.
        (job("pending"), (WAITING,), 0),
        (job("pending", None).model_copy(update={"environment": {REQUEUES_VARIABLE: "1"}}), (WAITING,), 0),
        (job("running"), (WAITING,), 0),
        (job("canceled", None), (WAITING,), 0),
        (job("pending", None), (WAITING,) * (2 * MAX_PLANTED), MAX_PLANTED),
    ],
)
def test_objects_of_a_job_that_no_node_got_are_planted(
    found: Job, written: tuple[datetime, ...], expected: int
) -> None:
    storage = cast(Storage, TimedBucket(*written))
    planted = find_planted_objects(storage, KEYS, found)
    assert planted == PlantedObjects(expected, has_more=expected == MAX_PLANTED)


def test_objects_that_were_not_examined_are_a_finding() -> None:
    objects = {f"{KEYS.output}{number:05}": b"" for number in range(MAX_PLANTED + 1)}
    findings = run_status(as_storage(objects), KEYS, 20, job("pending", None), 10).findings
    assert findings == (f"{KEYS.output} has more than 1,000 objects; only the first 1,000 were examined",)


@pytest.mark.parametrize(
    ("seconds_ago", "state", "phase"),
    [(5, RunState.RUNNING, "training"), (600, RunState.WITHOUT_WEIGHTS, "completed without weights")],
)
def test_a_completed_job_that_another_node_still_trains_has_not_ended(
    seconds_ago: float, state: RunState, phase: str
) -> None:
    """Its first node trained to the end during an outage, and lost the weights."""
    reported = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    progress = {KEYS.progress: b'{"state": "training", "step": 57}'}
    completed = job("completed")
    found = run_status(as_storage(progress, {KEYS.progress: reported}), KEYS, 300, completed, 30)
    status = JobStatus(
        StackJob("cat", KEYS.run, "j", 300, KEYS),
        found.state,
        found.reason,
        found.progress,
        completed,
        hand_out=found.hand_out,
    )
    assert (found.state, status.phase) == (state, phase)
    assert status.has_ended == (state is RunState.WITHOUT_WEIGHTS)
    assert bool(find_problems([status], datetime.now(UTC))) == status.has_ended


@pytest.mark.parametrize(("reported", "why"), [(WAITING, NO_REPORT), (TRAINING, "out of memory")])
def test_the_report_of_an_earlier_node_is_not_the_reason_of_a_failure(reported: datetime, why: str) -> None:
    progress = {KEYS.progress: b'{"state": "failed", "message": "out of memory"}'}
    found = run_status(as_storage(progress, {KEYS.progress: reported}), KEYS, 300, job("failed"), 30)
    assert found.state is RunState.FAILED
    assert found.reason.endswith(f": {why}")


@pytest.mark.parametrize("doubt", [TOO_EARLY, TOO_LATE])
def test_weights_that_an_ended_job_cannot_have_are_a_problem_with_a_way_out(doubt: str) -> None:
    results = RunResults(ModelFolderContents(done=True, problems=(doubt,)))
    ended = job("failed")
    status = JobStatus(
        StackJob("cat", KEYS.run, "j", 20, KEYS), RunState.FAILED, "failed", queue_job=ended, results=results
    )
    unverified = choose_weights(status, as_storage({}), accept_changed=False, stack="dev").problem
    for problem in (find_problems([status], ENDED)["cat"], unverified):
        assert doubt in problem
        assert "`./flux fetch cat --accept-changed-weights` verifies and accepts" in problem
