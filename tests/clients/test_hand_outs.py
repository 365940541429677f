"""Which weights that nobody has verified before can be a run's own."""

from datetime import UTC, datetime, timedelta

import pytest

from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights
from flux_training.clients.queue.hand_outs import can_be_from
from flux_training.clients.storage import ObjectInfo

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
