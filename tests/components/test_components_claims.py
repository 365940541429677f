"""One job for a run: every decision about claim and queue, with both in memory. What gets lost on real wires: test_components_queueing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clients.connection import Connection
from clients.errors import Conflict, NotFound, RateLimited, UncertainOutcome
from clients.kelpie import Job, JobRequest, Sync, SyncRule
from clients.own_jobs import Wanted, choose_job, in_order
from clients.storage import ObjectInfo
from components import queueing
from components.queueing import (
    Claim,
    ClaimFile,
    Queue,
    is_dead,
    queue_of,
    this_host,
)
from training.errors import FluxError
from training.run import RunKeys

WANTED = Wanted("cat", "run", "b", "runs/cat/run/output/", "runs/cat/")
REQUEST = JobRequest(container_group_id="g", command="python", sync=Sync())
KEYS = RunKeys("runs/cat/run/", "cat")
KEY = KEYS.claim


def job(name: str, status: str = "pending", run: str = "run", created: int | None = None, **more: Any) -> Job:
    rule = SyncRule(bucket="b", prefix=f"runs/cat/{run}/output/", local_path="o/", direction="upload")
    values: dict[str, Any] = {
        "id": name,
        "container_group_id": "g",
        "status": status,
        "environment": {"FLUX_RUN_ID": run, "FLUX_JOB": "cat"},
        "sync": Sync(during=[rule]),
        "created": None if created is None else datetime(2026, 1, 1, 0, 0, created, tzinfo=UTC),
    }
    return Job(**(values | more))


class FakeKelpie:
    """A queue in memory.  `posts`: what each post comes to; a post that raises may have queued its job all the same."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {one.id: one for one in jobs}
        self.elsewhere: dict[str, Job] = {}
        self.posts: list[Callable[[], Job]] = []
        self.posted = 0
        self.lists = 0
        self.canceled: list[str] = []

    def list_jobs(self, container_group_id: str) -> list[Job]:
        assert container_group_id == "g"
        self.lists += 1
        return list(self.jobs.values())

    def get_job(self, job_id: str) -> Job:
        found = self.jobs.get(job_id) or self.elsewhere.get(job_id)
        if found is None:
            raise NotFound("no such job")
        return found

    def cancel_job(self, job_id: str) -> bool:
        self.canceled.append(job_id)
        if job_id in self.jobs:
            self.jobs[job_id] = self.jobs[job_id].model_copy(update={"status": "canceled"})
        return True

    def post_job(self, request: JobRequest) -> Job:
        assert request is REQUEST
        self.posted += 1
        if self.posts:
            return self.posts.pop(0)()
        return self.queue(job(f"posted-{self.posted}", created=self.posted))

    def queue(self, made: Job) -> Job:
        self.jobs[made.id] = made
        return made


def lost(kelpie: FakeKelpie, *arrived: Job) -> Callable[[], Job]:
    """A post whose answer never came; `arrived`: what it queued."""

    def post() -> Job:
        for one in arrived:
            kelpie.queue(one)
        raise UncertainOutcome("no answer")

    return post


class FakeStorage:
    """The claim with its ETags, and beside it the job that was posted under it."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.version = 0
        self.writes: list[bytes] = []
        self.posted: bytes | None = None

    def head(self, key: str) -> ObjectInfo | None:
        assert key == KEY
        return None if self.content is None else ObjectInfo(key, len(self.content), f"e{self.version}")

    def get_bytes(self, key: str) -> bytes | None:
        assert key == KEY
        return self.content

    def get_range(self, key: str, first: int, most: int) -> bytes:
        assert key == KEYS.posted
        if self.posted is None:
            raise NotFound("no such object")
        return self.posted[first : first + most]

    def put_bytes(
        self, key: str, content: bytes, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        if key == KEYS.posted:
            self.posted = content
            return "posted"
        assert key == KEY
        there = None if self.content is None else f"e{self.version}"
        if (if_none_match and there) or (if_match and if_match != there):
            raise Conflict("changed")
        self.content, self.version = content, self.version + 1
        self.writes.append(content)
        return f"e{self.version}"

    def claim(self) -> dict[str, Any]:
        assert self.content is not None
        return cast(dict[str, Any], json.loads(self.content))

    def job(self) -> str | None:
        """The job that the present claim is known to have."""
        posted = json.loads(self.posted or b"{}")
        return posted["kelpie_id"] if posted.get("claim") == self.claim()["token"] else None


class Clock:
    """Time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(queueing, "time", SimpleNamespace(sleep=made.sleep, monotonic=lambda: made.now))
    monkeypatch.setattr(queueing, "_now", lambda: made.now)
    return made


def post_once(kelpie: FakeKelpie, storage: FakeStorage, **more: Any) -> Job:
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    return Queue(cast(Any, kelpie), "g").post_once(WANTED, REQUEST, claims, **more)


def held(storage: FakeStorage, claimed_at: float = 1000.0, job: str | None = None) -> None:
    """By another machine; `job`: what it has posted."""
    claim = Claim("x/y", "there", 1, claimed_at)
    storage.put_bytes(KEY, claim.to_json())
    if job is not None:
        storage.put_bytes(KEYS.posted, json.dumps({"claim": claim.token, "kelpie_id": job}).encode())


# ---- the usual way


def test_a_run_that_nobody_has_queued_is_posted_once_under_a_claim(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    prepared: list[int] = []
    found = post_once(kelpie, storage, prepare=lambda: prepared.append(kelpie.posted))
    assert (found.id, kelpie.posted, prepared) == ("posted-1", 1, [0])
    assert (kelpie.lists, clock.slept, kelpie.canceled) == (1, [], [])
    assert len(storage.writes) == 1  # within a second there is nothing to renew
    assert storage.job() == "posted-1"
    assert storage.claim() | {"token": ""} == {
        "version": 1,
        "owner": "p/s",
        "host": this_host(),
        "pid": os.getpid(),
        "claimed_at": 1000.0,
        "token": "",
    }


def test_a_claim_is_renewed_before_the_post_when_a_second_has_passed(clock: Clock) -> None:
    """R2 refuses a second write of a key within a second (UPSTREAM.md)."""
    kelpie, storage = FakeKelpie(), FakeStorage()
    post_once(kelpie, storage, prepare=lambda: clock.sleep(1.0))
    first, second = (json.loads(raw) for raw in storage.writes)
    assert (first["claimed_at"], second["claimed_at"]) == (1000.0, 1001.0)
    assert first["token"] != second["token"]
    assert storage.job() == "posted-1"


@pytest.mark.parametrize("status", ["pending", "running", "completed", "failed"])
def test_a_job_that_is_there_is_adopted_without_a_claim(status: str) -> None:
    kelpie, storage = FakeKelpie(job("1", status)), FakeStorage()
    assert post_once(kelpie, storage).id == "1"
    assert (kelpie.posted, storage.content) == (0, None)


def test_a_canceled_job_is_wanted_again() -> None:
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
    assert kelpie.lists == 2  # what was listed was no longer so


def test_a_post_is_in_the_queues_list_without_listing_again() -> None:
    kelpie = FakeKelpie()
    queue = Queue(cast(Any, kelpie), "g")
    queue.post_once(WANTED, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    assert [one.id for one in queue.jobs()] == ["posted-1"]
    assert kelpie.lists == 1
    queue.drop()
    assert [one.id for one in queue.jobs()] == ["posted-1"]
    queue.jobs(fresh=True)
    assert kelpie.lists == 3
    queue.jobs().clear()
    assert len(queue.jobs()) == 1


# ---- a claim is there


def test_a_claims_job_is_adopted_from_another_list(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere["1"] = job("1", "completed")
    held(storage, job="1")
    assert post_once(kelpie, storage).id == "1"
    assert (kelpie.posted, kelpie.canceled, clock.slept) == (0, [], [])
    assert (storage.job(), storage.claim()["owner"]) == ("1", "x/y")


def test_a_job_posted_under_an_earlier_claim_is_not_that_of_the_present_one(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.elsewhere["1"] = job("1", "completed")
    held(storage, job="1")
    held(storage)
    clock.meanwhile = [lambda: kelpie.queue(job("theirs"))]
    assert post_once(kelpie, storage).id == "theirs"


def test_whoever_finds_a_job_that_its_holder_did_not_write_down_does_so(clock: Clock) -> None:
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
    elsewhere: Job | None, canceled: list[str], clock: Clock
) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    if elsewhere is not None:
        kelpie.elsewhere["1"] = elsewhere
    held(storage, job="1")
    assert post_once(kelpie, storage).id == "posted-1"
    assert (kelpie.canceled, clock.slept) == (canceled, [])


def test_a_claim_that_cannot_be_read_holds_nobody_back(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    storage.content = b"rubbish"
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == []


def test_a_live_holders_job_is_waited_for(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage)
    clock.meanwhile = [lambda: None, lambda: kelpie.queue(job("theirs"))]
    assert post_once(kelpie, storage).id == "theirs"
    assert (kelpie.posted, clock.slept) == (0, [1.0, 1.0])


def test_a_holder_that_never_posts_is_told_of(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage, claimed_at=1e6)
    with pytest.raises(FluxError) as caught:
        post_once(kelpie, storage)
    assert str(caught.value) == (
        f"{KEY} is held by another update that does not post its job; wait for it and run it again"
    )
    assert (kelpie.posted, sum(clock.slept)) == (0, 1200.0)


def test_a_dead_holders_post_has_time_to_arrive(clock: Clock) -> None:
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


def test_a_claim_that_was_renewed_meanwhile_is_another_one(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage, claimed_at=1000.0 - 601)
    clock.meanwhile = [lambda: None] * 4 + [lambda: held(storage, claimed_at=1000.0 - 601)]
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == [1.0] * 11


def test_who_loses_the_claim_waits_for_the_winner(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    storage.content = b"rubbish"
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


# ---- a post without an answer


def test_a_post_that_arrived_is_found_after_a_while(clock: Clock) -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("arrived"))]
    assert post_once(kelpie, FakeStorage()).id == "arrived"
    assert (kelpie.posted, clock.slept, kelpie.canceled) == (1, [5.0], [])


def test_a_post_that_was_lost_is_repeated_and_what_comes_late_is_canceled(clock: Clock) -> None:
    kelpie = FakeKelpie()

    def second() -> Job:
        kelpie.queue(job("first", created=1))
        return kelpie.queue(job("second", created=2))

    kelpie.posts = [lost(kelpie), second]
    queue = Queue(cast(Any, kelpie), "g")
    found = queue.post_once(WANTED, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    assert found.id == "first"
    assert (kelpie.posted, kelpie.canceled, clock.slept) == (2, ["second"], [5.0])
    # What was canceled is no longer listed as pending.
    assert [one.status for one in queue.jobs()] == ["pending", "canceled"]


def test_one_that_stays_alone_is_not_listed_for_again() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("arrived"))]
    queue = Queue(cast(Any, kelpie), "g")
    queue.post_once(WANTED, REQUEST, ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s"))
    lists = kelpie.lists
    queue.jobs()
    assert kelpie.lists == lists


def test_two_that_arrived_are_made_one() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("b", created=2), job("a", created=1), job("z", "completed", created=0))]
    assert post_once(kelpie, FakeStorage()).id == "a"
    assert kelpie.canceled == ["b"]


def test_three_posts_without_an_answer_are_told_of(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    kelpie.posts = [lost(kelpie)] * 4
    with pytest.raises(UncertainOutcome):
        post_once(kelpie, storage)
    assert (kelpie.posted, clock.slept) == (3, [5.0] * 3)
    assert storage.job() is None


def test_a_repeated_post_whose_job_ended_at_once_is_taken_as_it_is() -> None:
    kelpie = FakeKelpie()
    ended = job("quick", "completed")
    kelpie.posts = [lost(kelpie), lambda: kelpie.queue(ended)]
    assert post_once(kelpie, FakeStorage()).id == "quick"


def test_who_was_taken_over_does_not_post() -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    with pytest.raises(FluxError) as caught:
        post_once(kelpie, storage, prepare=lambda: held(storage))
    assert str(caught.value) == f"{KEY} was taken over by another update; only one may post; run it again"
    assert kelpie.posted == 0


def test_a_claim_written_over_while_its_job_was_posted_stays() -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()

    def post() -> Job:
        held(storage)
        return kelpie.queue(job("1"))

    kelpie.posts = [post]
    assert post_once(kelpie, storage).id == "1"
    assert storage.claim()["owner"] == "x/y"


# ---- by themselves


@pytest.mark.parametrize(
    ("held_by", "dead"),
    [
        (("here", 7, 1000.0), False),
        (("here", 7, 400.0), False),  # its patience to the second
        (("here", 7, 399.9), True),
        (("here", 8, 1000.0), True),
        (("here", 99, 1000.0), True),
        (("there", 8, 1000.0), False),
        (("there", 99, 1000.0), False),
        (("there", 7, 399.9), True),
        (("here", 7, 2000.0), False),
    ],
)
def test_who_is_dead(held_by: tuple[str, int, float], dead: bool) -> None:
    host, pid, at = held_by
    assert is_dead(Claim("p/s", host, pid, at), "here", 99, lambda one: one in (7, 99), now=1000.0) == dead


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
        b"[" * 100_000,
    ],
)
def test_rubbish_is_no_claim(raw: bytes) -> None:
    assert Claim.from_json(raw) is None


def test_a_claim_is_read_as_it_was_written() -> None:
    raw = b'{"owner": "o", "host": "h", "pid": 7, "claimed_at": 1.5, "token": "t"}'
    assert Claim.from_json(raw) == Claim("o", "h", 7, 1.5, "t")
    assert Claim("o", "h", 7, 1.5).token != Claim("o", "h", 7, 1.5).token


def test_the_queues_order() -> None:
    jobs = [job("c", created=2), job("b", created=1), job("a", created=2), job("z")]
    assert [one.id for one in in_order(jobs)] == ["z", "b", "a", "c"]
    ended = [job("1", "completed", created=1), job("2", "failed", created=2), job("3", "canceled", created=3)]
    chosen = choose_job(ended, WANTED)
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
                    before=[SyncRule(bucket="b", prefix=WANTED.output, local_path="o/", direction="download")]
                )
            },
            False,
        ),
        (
            {
                "sync": Sync(
                    during=[SyncRule(bucket="z", prefix=WANTED.output, local_path="o/", direction="upload")]
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
def test_whose_job_it_is(changes: dict[str, Any], own: bool) -> None:
    assert WANTED.is_own(job("1", **changes)) is own


def test_one_queue_for_all_that_look_at_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "_queues", {})
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
    found = queue_of(made, "claims-a")
    assert found is queue_of(made, "claims-a")
    assert found is not queue_of(made, "claims-b")
    assert (found.group_id, found.kelpie) == ("claims-a", made.kelpie())


def test_a_host_is_a_machine_a_boot_and_a_pid_namespace() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        assert this_host() == socket.gethostname()
        return
    namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - not as the code does it
    assert this_host() == f"{socket.gethostname()}/{boot.read_text()[:8]}/{namespace}"


def test_a_claim_is_as_old_as_its_writing(clock: Clock) -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    clock.now += 50
    assert claims.take(None)
    assert storage.claim()["claimed_at"] == 1050.0


def test_who_counts_as_dead_for_this_very_process() -> None:
    claims = ClaimFile(cast(Any, FakeStorage()), KEYS, "p/s")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    here, now = this_host(), 1000.0
    holders = [
        Claim("x/y", here, os.getpid(), now),
        Claim("x/y", here, pid, now),
        Claim("x/y", here, os.getppid(), now),
        Claim("x/y", "there", pid, now),
    ]
    assert [claims.holder_is_dead(one) for one in holders] == [True, True, False, False]


def test_a_claim_that_went_away_is_taken(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), FakeStorage()
    held(storage)
    clock.meanwhile = [lambda: setattr(storage, "content", None)]
    assert post_once(kelpie, storage).id == "posted-1"
    assert clock.slept == [1.0]


def test_a_post_that_arrived_and_ended_at_once_is_taken_as_it_is() -> None:
    kelpie = FakeKelpie()
    kelpie.posts = [lost(kelpie, job("quick", "completed"))]
    assert post_once(kelpie, FakeStorage()).id == "quick"


class Busy(FakeStorage):
    """Refuses the writes of some keys: too many at once."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.busy = set(keys)

    def put_bytes(
        self, key: str, content: bytes, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        if key in self.busy:
            raise RateLimited("too many")
        return super().put_bytes(key, content, if_none_match=if_none_match, if_match=if_match)


def test_where_too_many_write_at_once_the_claim_is_anothers(clock: Clock) -> None:
    kelpie, storage = FakeKelpie(), Busy(KEY)

    def theirs() -> None:
        storage.busy.clear()
        held(storage)
        kelpie.queue(job("theirs"))

    clock.meanwhile = [theirs]
    assert post_once(kelpie, storage).id == "theirs"
    assert kelpie.posted == 0


def test_what_was_posted_is_written_down_beside_the_claim() -> None:
    storage = FakeStorage()
    post_once(FakeKelpie(), storage)
    assert json.loads(storage.posted or b"") == {
        "version": 1,
        "claim": storage.claim()["token"],
        "kelpie_id": "posted-1",
    }
    assert post_once(FakeKelpie(), Busy(KEYS.posted)).id == "posted-1"


def test_anothers_job_is_written_down_for_it_once() -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    claims.record("1")  # there is no claim that it could belong to
    assert storage.posted is None
    held(storage)
    claims.record("1")
    assert storage.job() == "1"
    first = storage.posted
    claims.record("1")
    assert storage.posted is first
    claims.record("2")
    assert storage.job() == "2"


def test_a_job_is_written_down_under_the_claim_that_it_was_posted_under() -> None:
    storage = FakeStorage()
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    assert claims.take(None)
    ours = storage.claim()["token"]
    held(storage)
    claims.record("1")
    assert json.loads(storage.posted or b"")["claim"] == ours
