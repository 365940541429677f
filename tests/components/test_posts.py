"""Exactly one job for a run, with queue and bucket in memory. With real services: test_queueing.py."""

import json
import os
from typing import Any, cast

import pytest

from flux_training.clients.connection import Connection
from flux_training.clients.errors import UncertainOutcome
from flux_training.clients.kelpie import Job, Sync, SyncRule
from flux_training.clients.queue import posting
from flux_training.clients.queue.claims import ClaimFile, host_identity
from flux_training.clients.queue.own_jobs import choose_own_job, jobs_by_age, own_job
from flux_training.clients.queue.posting import Queue, shared_queue
from flux_training.training.errors import FluxError
from tests.components.in_memory import (
    KEY,
    KEYS,
    PLACE,
    REQUEST,
    BusyStorage,
    FakeClock,
    FakeKelpie,
    FakeStorage,
    held,
    job,
    lost,
    post_once,
)

pytestmark = pytest.mark.usefixtures("clock")


# ---- without failures


def test_a_new_run_is_posted_once_under_a_claim(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    prepared: list[int] = []
    found = post_once(kelpie, storage, prepare=lambda: prepared.append(kelpie.posted))
    assert (found.id, kelpie.posted, prepared) == ("posted-1", 1, [0])
    assert (kelpie.lists, clock.slept, kelpie.canceled) == (1, [], [])
    assert len(storage.writes) == 1  # a claim is not renewed within a second
    assert storage.job() == "posted-1"
    assert storage.claim() | {"token": ""} == {
        "version": 1,
        "owner": "p/s",
        "host": host_identity(),
        "pid": os.getpid(),
        "claimed_at": 1000.0,
        "token": "",
    }


def test_a_claim_older_than_a_second_is_renewed_before_the_post(clock: FakeClock) -> None:
    """R2 refuses a second write of a key within a second (docs/services.md)."""
    kelpie, storage = FakeKelpie(), FakeStorage()
    post_once(kelpie, storage, prepare=lambda: clock.sleep(1.0))
    first, second = (json.loads(raw) for raw in storage.writes)
    assert (first["claimed_at"], second["claimed_at"]) == (1000.0, 1001.0)
    assert first["token"] != second["token"]
    assert storage.job() == "posted-1"


@pytest.mark.parametrize("status", ["pending", "running", "completed", "failed"])
def test_an_existing_job_is_adopted_without_a_claim(status: str) -> None:
    kelpie, storage = FakeKelpie(job("1", status)), FakeStorage()
    assert post_once(kelpie, storage).id == "1"
    assert (kelpie.posted, storage.content) == (0, None)


def test_a_canceled_job_is_posted_again() -> None:
    kelpie, storage = FakeKelpie(job("1", "canceled")), FakeStorage()
    assert post_once(kelpie, storage).id == "posted-1"


def test_jobs_of_other_runs_of_the_same_job_are_canceled() -> None:
    kelpie = FakeKelpie(
        job("old", run="before"),
        job("running", "running", run="before"),
        job("done", "completed", run="before"),
        job("other", run="before", environment={"FLUX_RUN_ID": "before", "FLUX_JOB": "dog"}),
    )
    assert post_once(kelpie, FakeStorage()).id == "posted-1"
    assert kelpie.canceled == ["old", "running"]
    assert kelpie.lists == 2  # a cancellation makes the first list outdated


def test_a_posted_job_is_listed_without_another_request() -> None:
    kelpie = FakeKelpie()
    queue = Queue(cast(Any, kelpie), "g")
    queue.post_once(PLACE, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    assert [one.id for one in queue.jobs()] == ["posted-1"]
    assert kelpie.lists == 1
    queue.forget()
    assert [one.id for one in queue.jobs()] == ["posted-1"]
    queue.jobs(fresh=True)
    assert kelpie.lists == 3
    queue.jobs().clear()
    assert len(queue.jobs()) == 1


# ---- a post without an answer


def test_a_post_without_an_answer_is_found_in_the_queue(clock: FakeClock) -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("arrived"))]
    assert post_once(kelpie, FakeStorage()).id == "arrived"
    assert (kelpie.posted, clock.slept, kelpie.canceled) == (1, [5.0], [])


def test_a_lost_post_is_repeated_and_a_late_duplicate_canceled(clock: FakeClock) -> None:
    kelpie = FakeKelpie()

    def second() -> Job:
        kelpie.queue(job("first", created=1))
        return kelpie.queue(job("second", created=2))

    kelpie.posts = [lost(kelpie), second]
    queue = Queue(cast(Any, kelpie), "g")
    found = queue.post_once(PLACE, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    assert found.id == "first"
    assert (kelpie.posted, kelpie.canceled, clock.slept) == (2, ["second"], [5.0])
    # The canceled job is not listed as pending.
    assert [one.status for one in queue.jobs()] == ["pending", "canceled"]


def test_a_single_job_is_not_listed_again() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("arrived"))]
    queue = Queue(cast(Any, kelpie), "g")
    queue.post_once(PLACE, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    lists = kelpie.lists
    queue.jobs()
    assert kelpie.lists == lists


def test_the_oldest_of_two_posted_jobs_is_kept() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("b", created=2), job("a", created=1), job("z", "completed", created=0))]
    assert post_once(kelpie, FakeStorage()).id == "a"
    assert kelpie.canceled == ["b"]


def test_three_posts_without_an_answer_are_an_error(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.posts = [lost(kelpie)] * 4
    with pytest.raises(UncertainOutcome):
        post_once(kelpie, storage)
    assert (kelpie.posted, clock.slept) == (3, [5.0] * 3)
    assert storage.job() is None


def test_a_repeated_post_whose_job_ended_at_once_is_adopted() -> None:
    kelpie = FakeKelpie()
    ended = job("quick", "completed")
    kelpie.posts = [lost(kelpie), lambda: kelpie.queue(ended)]
    assert post_once(kelpie, FakeStorage()).id == "quick"


def test_an_update_whose_claim_was_taken_over_does_not_post() -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    with pytest.raises(FluxError) as caught:
        post_once(kelpie, storage, prepare=lambda: held(storage))
    assert (
        str(caught.value)
        == f"{KEY} was taken over by another update; only one update may post the job; run the same command again"
    )
    assert kelpie.posted == 0


def test_a_claim_taken_over_during_the_post_is_kept() -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()

    def post() -> Job:
        held(storage)
        return kelpie.queue(job("1"))

    kelpie.posts = [post]
    assert post_once(kelpie, storage).id == "1"
    assert storage.claim()["owner"] == "x/y"


def test_jobs_are_ordered_by_time_and_id() -> None:
    jobs = [job("c", created=2), job("b", created=1), job("a", created=2), job("z")]
    assert [one.id for one in jobs_by_age(jobs)] == ["z", "b", "a", "c"]
    ended = [job("1", "completed", created=1), job("2", "failed", created=2), job("3", "canceled", created=3)]
    chosen = choose_own_job(ended, PLACE)
    assert chosen is not None
    assert chosen.id == "2"


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, True),
        ({"environment": {"FLUX_RUN_ID": "other"}}, False),
        ({"environment": {}}, False),
        ({"sync": Sync()}, False),
        (
            {
                "sync": Sync(
                    before=[SyncRule(bucket="b", prefix=PLACE.output, local_path="o/", direction="download")]
                )
            },
            False,
        ),
        (
            {
                "sync": Sync(
                    during=[SyncRule(bucket="z", prefix=PLACE.output, local_path="o/", direction="upload")]
                )
            },
            False,
        ),
        (
            {"sync": Sync(during=[SyncRule(bucket="b", prefix="x/", local_path="o/", direction="upload")])},
            False,
        ),
    ],
)
def test_which_jobs_belong_to_a_run(changes: dict[str, Any], own: bool) -> None:
    assert PLACE.is_own(job("1", **changes)) is own


def test_all_jobs_of_a_group_share_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_queues", {})
    made = Connection(
        cloud="salad",
        kelpie_url="http://127.0.0.1:1",
        salad_url="http://127.0.0.1:1",
        api_key="k",
        organization="o",
        project="p",
        s3_endpoint=None,
        s3_access_key_id="i",
        s3_secret_access_key="s",
    )
    found = shared_queue(made, "claims-a")
    assert found is shared_queue(made, "claims-a")
    assert found is not shared_queue(made, "claims-b")
    assert (found.group_id, found.kelpie) == ("claims-a", made.kelpie())


def test_a_post_that_arrived_and_ended_at_once_is_adopted() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("quick", "completed"))]
    assert post_once(kelpie, FakeStorage()).id == "quick"


def test_the_posted_job_is_recorded_beside_the_claim() -> None:
    storage = FakeStorage()
    post_once(FakeKelpie(), storage)
    assert json.loads(storage.posted or b"") == {
        "version": 1,
        "claim": storage.claim()["token"],
        "kelpie_id": "posted-1",
    }
    assert post_once(FakeKelpie(), BusyStorage(KEYS.posted)).id == "posted-1"


def test_another_holders_job_is_recorded_once() -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    claims.record("1")  # without a claim nothing is recorded
    assert storage.posted is None
    held(storage)
    claims.record("1")
    assert storage.job() == "1"
    first = storage.posted
    claims.record("1")
    assert storage.posted is first
    claims.record("2")
    assert storage.job() == "2"


def test_a_job_is_recorded_under_its_own_claim() -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    assert claims.take(None)
    ours = storage.claim()["token"]
    held(storage)
    claims.record("1")
    assert json.loads(storage.posted or b"")["claim"] == ours


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        (job("1"), True),
        (job("1", run="another run"), False),
        (job("1", prefix="other-stack/"), False),
        (job("1", environment={}), False),
        (job("1", sync=Sync()), False),
    ],
)
def test_a_job_belongs_to_a_run_only_by_what_nodes_cannot_write(theirs: Job, found: bool) -> None:
    kelpie = cast(Any, FakeKelpie(theirs))
    assert (own_job(kelpie, "1", PLACE) is not None) == found
    assert own_job(kelpie, "2", PLACE) is None


def test_only_runs_that_name_themselves_are_superseded() -> None:
    kelpie = FakeKelpie(
        job("nameless", run="before", environment={"FLUX_JOB": "cat"}),
        job("elsewhere", run="before", environment={"FLUX_JOB": "cat", "FLUX_RUN_ID": "other"}),
    )
    post_once(kelpie, FakeStorage())
    assert kelpie.canceled == []
