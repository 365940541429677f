"""One job per run, against the local queue and bucket, with a transport that loses posts. All decisions: test_claims.py."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from localcloud.testing import logged_requests

from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, JobRequest, Kelpie, Sync, SyncRule
from flux_training.clients.queue import posting
from flux_training.clients.queue.claims import Claim, ClaimFile, host_identity
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.records import read_record
from flux_training.clients.salad import GroupSpec
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import RunKeys
from tests.components.groups import new_name, report
from tests.components.in_memory import claim

BUCKET = "queueing"
OWNER = "project/stack"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(posting, "CLAIM_POLL_SECONDS", 0.05)


class QueuedRun:
    """A container group and a run that needs a job in its queue."""

    def __init__(self, connection: Connection) -> None:
        name = new_name()
        self.connection = connection
        self.storage: Storage = connection.storage(BUCKET)
        self.group = self.new_group()
        base = f"{name}/runs/cat/"
        self.place = RunPlace("cat", name, BUCKET, f"{base}{name}/output/", base)
        self.keys = RunKeys(f"{base}{name}/", "cat")

    def new_group(self) -> str:
        spec = GroupSpec(name=new_name(), image="image", environment={"A": "1"})
        return self.connection.salad().create_group(spec).id

    def request(self, run: str | None = None, group: str | None = None) -> JobRequest:
        name = run or self.place.run
        output = SyncRule(
            bucket=BUCKET,
            prefix=f"{self.place.runs_of_job}{name}/output/",
            local_path="output/",
            direction="upload",
        )
        return JobRequest(
            container_group_id=group or self.group,
            command="python",
            environment={"FLUX_RUN_ID": name, "FLUX_JOB": "cat"},
            sync=Sync(during=[output]),
        )

    def post_once(self, transport: httpx.BaseTransport | None = None) -> Job:
        kelpie = self.kelpie(transport)
        claims = ClaimFile(self.storage, self.keys, OWNER)
        return Queue(kelpie, self.group).post_once(self.place, self.request(), claims)

    def kelpie(self, transport: httpx.BaseTransport | None = None) -> Kelpie:
        known = self.connection
        return Kelpie(known.kelpie_url, known.api_key, known.organization, known.project, transport=transport)

    def live(self) -> list[Job]:
        jobs = self.connection.kelpie().list_jobs(container_group_id=self.group)
        return [job for job in jobs if job.unfinished]

    def claimed_by(
        self, pid: int, kelpie_id: str | None = None, host: str | None = None, at: float | None = None
    ) -> None:
        theirs = claim(OWNER, host or host_identity(), pid, time.time() if at is None else at)
        self.storage.put_bytes(self.keys.claim, theirs.to_json())
        if kelpie_id is not None:
            posted = json.dumps({"claim": theirs.token, "kelpie_id": kelpie_id}).encode()
            self.storage.put_bytes(self.keys.posted, posted)

    def known_job(self) -> str | None:
        """The job recorded for the current claim."""
        holder = read_record(self.storage, self.keys.claim, Claim).value
        assert holder is not None
        return ClaimFile(self.storage, self.keys, OWNER).posted(holder)


@pytest.fixture
def queued(connection: Connection) -> QueuedRun:
    connection.storage(BUCKET).ensure()
    return QueuedRun(connection)


class LosesAnswers(httpx.BaseTransport):
    """The first `times` posts get no answer. `arrives`: seconds until the server sees them; None: never."""

    def __init__(self, arrives: float | None, times: int = 1) -> None:
        self._real = httpx.HTTPTransport()
        self._arrives = arrives
        self._left = times
        self.threads: list[threading.Thread] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST" or self._left == 0:
            return self._real.handle_request(request)
        self._left -= 1
        body = request.read()
        if self._arrives is not None:
            late = threading.Timer(self._arrives, self._send, (request, body))
            late.start()
            self.threads.append(late)
            if self._arrives == 0:
                late.join()
        raise httpx.ReadTimeout("the answer got lost", request=request)

    def _send(self, request: httpx.Request, body: bytes) -> None:
        self._real.handle_request(
            httpx.Request(request.method, request.url, headers=request.headers, content=body)
        ).read()


def test_a_job_is_queued_without_a_write_that_the_bucket_refuses(
    cloud: dict[str, Any], queued: QueuedRun
) -> None:
    """R2 allows one write a second for each key, and claim and job are written within less than that."""
    job = queued.post_once()
    assert queued.known_job() == job.id
    written = [
        (one["path"].rpartition("/")[2], one["status"])
        for one in logged_requests(cloud)
        if one["method"] == "PUT"
        and one["path"].startswith(f"/{BUCKET}/{queued.keys.claim.removesuffix('claim.json')}")
    ]
    assert written == [("claim.json", 200), ("posted.json", 200)]


def test_many_at_once_post_one_job(queued: QueuedRun) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: queued.post_once(), range(8)))
    assert len({job.id for job in jobs}) == 1
    assert len(queued.live()) == 1


@pytest.mark.parametrize("arrives", [None, 0.0, 0.2], ids=["never", "at once", "while we wait"])
def test_a_lost_answer_makes_no_second_job(queued: QueuedRun, arrives: float | None) -> None:
    losing = LosesAnswers(arrives)
    job = queued.post_once(losing)
    for thread in losing.threads:
        thread.join()
    assert [live.id for live in queued.live()] == [job.id]


def test_a_post_that_arrives_after_its_repetition_is_canceled(
    queued: QueuedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first post arrives late, but before the queue is listed after the second one."""
    losing = LosesAnswers(arrives=0.0)
    find, hidden = Queue.find, iter([True])

    def blind_once(self: Queue, place: RunPlace, fresh: bool = False) -> Job | None:
        return None if fresh and next(hidden, False) else find(self, place, fresh)

    monkeypatch.setattr(Queue, "find", blind_once)
    job = queued.post_once(losing)
    assert [live.id for live in queued.live()] == [job.id]


def _a_dead_process() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_claim_of_a_dead_process_is_taken_over(queued: QueuedRun) -> None:
    queued.claimed_by(_a_dead_process())
    job = queued.post_once()
    assert [live.id for live in queued.live()] == [job.id]
    assert queued.known_job() == job.id


@pytest.mark.parametrize("ended", ["completed", "failed"])
def test_a_run_that_ended_in_another_group_is_not_posted_again(queued: QueuedRun, ended: str) -> None:
    job = queued.kelpie().post_job(
        queued.request(group=queued.new_group()).model_copy(update={"max_failures": 1})
    )
    report(queued.connection, job, ended)
    queued.claimed_by(_a_dead_process(), kelpie_id=job.id)
    found = queued.post_once()
    assert (found.id, found.status) == (job.id, ended)
    assert queued.live() == []


def test_an_unfinished_job_in_another_group_is_canceled_before_the_new_one_is_posted(
    queued: QueuedRun,
) -> None:
    other = queued.kelpie().post_job(queued.request(group=queued.new_group()))
    queued.claimed_by(_a_dead_process(), kelpie_id=other.id)
    job = queued.post_once()
    assert queued.connection.kelpie().get_job(other.id).status == "canceled"
    assert [live.id for live in queued.live()] == [job.id]


def test_the_job_of_a_superseded_run_is_canceled(queued: QueuedRun) -> None:
    orphan = queued.kelpie().post_job(queued.request(run="older"))
    stranger = queued.kelpie().post_job(
        queued.request().model_copy(update={"environment": {"FLUX_JOB": "dog"}})
    )
    job = queued.post_once()
    assert queued.connection.kelpie().get_job(orphan.id).status == "canceled"
    assert {live.id for live in queued.live()} == {job.id, stranger.id}
