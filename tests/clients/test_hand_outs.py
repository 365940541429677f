"""Which of a run's objects can be its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights
from flux_training.clients.queue.hand_outs import MAX_PLANTED, can_be_from, planted_objects
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.training.runs.handout import REQUEUES_VARIABLE
from flux_training.training.runs.run import Layout

CREATED = datetime(2026, 11, 30, 12, tzinfo=UTC)
STARTED = CREATED + timedelta(minutes=10)
BEFORE, WAITING, TRAINING = CREATED - timedelta(minutes=1), CREATED + timedelta(minutes=5), STARTED


def job(status: str, started: datetime | None = STARTED) -> Job:
    return Job(id="j", container_group_id="g", status=status, created=CREATED, started=started)


@pytest.mark.parametrize(
    ("jobs", "written", "is_posted", "expected"),
    [
        ([], TRAINING, True, True),
        ([], TRAINING, False, False),
        ([job("pending", None)], TRAINING, True, False),
        ([job("canceled", None)], TRAINING, True, False),
        ([job("running")], TRAINING, True, True),
        ([job("running")], WAITING, True, False),
        # An earlier node of the job may have left them.
        ([job("failed")], WAITING, False, True),
        ([job("completed", None)], WAITING, False, True),
        ([job("completed")], BEFORE, True, False),
        # A run that was queued again: its first node finished after all.
        ([job("canceled"), job("pending", None)], TRAINING, True, True),
        ([job("running")], None, True, True),
    ],
)
def test_which_weights_can_be_from_a_node(
    jobs: list[Job], written: datetime | None, is_posted: bool, expected: bool
) -> None:
    weights = StoredWeights((ObjectInfo("k", 1, "e", written),))
    assert can_be_from(jobs, weights, is_posted) == expected


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
    assert planted_objects(storage, Layout("").run("cat", "0" * 12), found) == expected
