"""Which update may post a run's job, with queue and bucket in memory. With real services: test_queueing.py."""

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from flux_training.clients.kelpie import Job, Sync
from flux_training.clients.queue.claims import Claim, ClaimFile, host_identity, is_claim_holder_dead
from flux_training.training.errors import FluxError
from flux_training.training.untrusted import parse_record
from tests.components.in_memory import (
    KEY,
    KEYS,
    BusyStorage,
    FakeClock,
    FakeKelpie,
    FakeStorage,
    claim,
    held,
    job,
    post_once,
)

pytestmark = pytest.mark.usefixtures("clock")


# ---- an existing claim


def test_a_claims_job_in_another_group_is_adopted(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere["1"] = job("1", "completed")
    held(storage, job="1")
    assert post_once(kelpie, storage).id == "1"
    assert (kelpie.posted, kelpie.canceled, clock.slept) == (0, [], [])
    assert (storage.job(), storage.claim()["owner"]) == ("1", "x/y")


def test_a_job_posted_under_an_earlier_claim_is_ignored(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere["1"] = job("1", "completed")
    held(storage, job="1")
    held(storage)
    clock.meanwhile = [lambda: kelpie.queue(job("theirs"))]
    assert post_once(kelpie, storage).id == "theirs"


def test_a_job_that_its_holder_did_not_record_is_recorded(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage)
    clock.meanwhile = [lambda: kelpie.queue(job("theirs"))]
    assert post_once(kelpie, storage).id == "theirs"
    assert (storage.job(), storage.claim()["owner"]) == ("theirs", "x/y")


@pytest.mark.parametrize(
    ("elsewhere", "canceled"),
    [(None, []), (job("1", "canceled"), []), (job("1", "running"), ["1"]), (job("1", "pending"), ["1"])],
)
def test_a_claim_whose_job_is_gone_is_taken_over_at_once(
    elsewhere: Job | None, canceled: list[str], clock: FakeClock
) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    if elsewhere is not None:
        kelpie.elsewhere["1"] = elsewhere
    held(storage, job="1")
    assert post_once(kelpie, storage).id == "posted-1"
    assert (kelpie.canceled, clock.slept) == (canceled, [])


@pytest.mark.parametrize(
    "theirs",
    [
        job("1", "running", run="another run"),
        job("1", "running", prefix="other-stack/"),
        job("1", "running", environment={}),
        job("1", "completed", run="another run"),
        job("1", "completed", sync=Sync()),
    ],
)
def test_a_job_of_others_is_neither_canceled_nor_adopted_because_a_record_names_it(theirs: Job) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere["1"] = theirs
    held(storage, job="1")
    assert post_once(kelpie, storage).id == "posted-1"
    assert kelpie.canceled == []


@pytest.mark.parametrize("named", ["../container-groups/g", "", "a b", "1" * 65, "é", "1\n"])
def test_an_id_that_kelpie_could_not_have_given_is_not_asked_for(named: str) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere[named] = job(named, "completed")
    held(storage, job=named)
    assert post_once(kelpie, storage).id == "posted-1"


def test_an_unreadable_claim_is_taken_over(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    storage.content = b"invalid"
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == []


def test_a_live_holders_job_is_waited_for(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage)
    clock.meanwhile = [lambda: None, lambda: kelpie.queue(job("theirs"))]
    assert post_once(kelpie, storage).id == "theirs"
    assert (kelpie.posted, clock.slept) == (0, [1.0, 1.0])


def test_a_holder_that_never_posts_is_an_error(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage, claimed_at=80_000.0)
    with pytest.raises(FluxError) as caught:
        post_once(kelpie, storage)
    assert str(caught.value) == (
        f"{KEY} is held by another update that has not posted its job yet; wait until that update has ended, then run the same command again"
    )
    assert (kelpie.posted, sum(clock.slept)) == (0, 1200.0)


def test_a_dead_holders_post_has_time_to_arrive(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage, claimed_at=1000.0 - 601)
    assert post_once(kelpie, storage).id == "posted-1"
    # Longer than SETTLE_SECONDS from the moment it was found dead.
    assert clock.slept == [1.0] * 6
    kelpie, storage, clock.slept = FakeKelpie(), FakeStorage(), []
    held(storage, claimed_at=clock.now - 601)
    clock.meanwhile = [lambda: None] * 3 + [lambda: kelpie.queue(job("late"))]
    assert post_once(kelpie, storage).id == "late"
    assert kelpie.posted == 0


def test_a_renewed_claim_starts_the_wait_again(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage, claimed_at=1000.0 - 601)
    clock.meanwhile = [lambda: None] * 4 + [lambda: held(storage, claimed_at=1000.0 - 601)]
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == [1.0] * 11


def test_the_loser_of_a_claim_waits_for_the_winner(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    storage.content = b"invalid"
    take = ClaimFile.take
    beaten = iter([True])

    def faster(claims: ClaimFile, etag: str | None) -> bool:
        if etag and next(beaten, False):
            held(storage)
            clock.meanwhile = [lambda: kelpie.queue(job("theirs"))]
        return take(claims, etag)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClaimFile, "take", faster)
        assert post_once(kelpie, storage).id == "theirs"
    assert kelpie.posted == 0


# ---- claims alone


@pytest.mark.parametrize(
    ("held_by", "dead"),
    [
        (("here", 7, 1000.0), False),
        (("here", 7, 400.0), False),  # exactly CLAIM_SECONDS old
        (("here", 7, 399.9), True),
        (("here", 8, 1000.0), True),
        (("here", 99, 1000.0), True),
        (("there", 8, 1000.0), False),
        (("there", 99, 1000.0), False),
        (("there", 7, 399.9), True),
        (("here", 7, 2000.0), False),
        (("here", 7, 32_503_680_000.0), True),  # the year 3000
        (("there", 7, 32_503_680_000.0), True),
    ],
)
def test_which_holders_count_as_dead(held_by: tuple[str, int, float], dead: bool) -> None:
    host, pid, at = held_by
    assert (
        is_claim_holder_dead(claim("p/s", host, pid, at), "here", 99, lambda one: one in (7, 99), now=1000.0)
        == dead
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"owner": "o", "host": "h", "pid": "x", "claimed_at": 1, "token": "t"}',
        b'{"owner": "o", "host": "h", "pid": 1e999, "claimed_at": 1, "token": "t"}',
        b'{"owner": "o", "host": "h", "pid": 1, "claimed_at": null, "token": "t"}',
        b'{"owner": "o", "host": "h", "pid": 1, "claimed_at": 1}',
        b'{"owner": "o", "host": "h", "pid": -1, "claimed_at": 1, "token": "t"}',
        b'{"owner": "o", "host": "h", "pid": 1, "claimed_at": NaN, "token": "t"}',
        b"[" * 100_000,
    ],
)
def test_invalid_json_is_no_claim(raw: bytes) -> None:
    assert parse_record(raw, Claim).value is None


def test_a_claim_is_read_as_it_was_written() -> None:
    raw = b'{"owner": "o", "host": "h", "pid": 7, "claimed_at": 1.5, "token": "t"}'
    written = claim("o", "h", 7, 1.5, "t")
    assert parse_record(raw, Claim).value == parse_record(written.to_json(), Claim).value == written


def test_a_host_is_a_machine_a_boot_and_a_pid_namespace() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        assert host_identity() == socket.gethostname()
        return
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - not as the code does it
    assert host_identity() == f"{socket.gethostname()}/{boot.read_text()[:8]}/{namespace}"


def test_a_claim_has_the_time_of_its_writing(clock: FakeClock) -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    clock.now += 50
    assert claims.take(None)
    assert storage.claim()["claimed_at"] == 1050.0


def test_which_holders_are_dead_for_the_running_process() -> None:
    claims = ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    here, now = host_identity(), 1000.0
    holders = [
        claim("x/y", here, os.getpid(), now),
        claim("x/y", here, pid, now),
        claim("x/y", here, os.getppid(), now),
        claim("x/y", "there", pid, now),
    ]
    assert [claims.is_holder_dead(one) for one in holders] == [True, True, False, False]


def test_a_deleted_claim_is_taken(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage)
    clock.meanwhile = [lambda: setattr(storage, "content", None)]
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == [1.0]


def test_a_rate_limited_claim_belongs_to_another_update(clock: FakeClock) -> None:
    kelpie, storage = FakeKelpie(), BusyStorage(KEY)

    def theirs() -> None:
        storage.busy.clear()
        held(storage)
        kelpie.queue(job("theirs"))

    clock.meanwhile = [theirs]
    assert post_once(kelpie, storage).id == "theirs"
    assert kelpie.posted == 0
