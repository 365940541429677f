"""A queue and a bucket in memory, with failures."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from flux_training.clients.errors import Conflict, NotFound, RateLimited, UncertainOutcome
from flux_training.clients.kelpie import Job, JobRequest, Sync, SyncRule
from flux_training.clients.queue.claims import Claim, ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.storage import ObjectInfo
from flux_training.training.runs.run import RunKeys

PLACE = RunPlace("cat", "run", "b", "runs/cat/run/output/", "runs/cat/")
REQUEST = JobRequest(container_group_id="g", command="python", sync=Sync())
KEYS = RunKeys("runs/cat/run/", "cat")
KEY = KEYS.claim


def job(
    name: str,
    status: str = "pending",
    run: str = "run",
    created: int | None = None,
    prefix: str = "",
    **more: Any,
) -> Job:
    output = f"{prefix}runs/cat/{run}/output/"
    rule = SyncRule(bucket="b", prefix=output, local_path="o/", direction="upload")
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
    """`posts`: the outcome of each post; one that raises may still have queued its job."""

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
    """A post whose answer was lost; `arrived`: the jobs that it queued."""

    def post() -> Job:
        for one in arrived:
            kelpie.queue(one)
        raise UncertainOutcome("no answer")

    return post


class FakeStorage:
    """Holds the claim with its ETags, and posted.json."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.version = 0
        self.writes: list[bytes] = []
        self.posted: bytes | None = None

    def head(self, key: str) -> ObjectInfo | None:
        assert key == KEY
        return None if self.content is None else ObjectInfo(key, len(self.content), f"e{self.version}")

    def get_range(self, key: str, first: int, most: int) -> bytes:
        found = {KEY: self.content, KEYS.posted: self.posted}[key]
        if found is None:
            raise NotFound("no such object")
        return found[first : first + most]

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
        """The job recorded for the current claim."""
        posted = json.loads(self.posted or b"{}")
        return posted["kelpie_id"] if posted.get("claim") == self.claim()["token"] else None


class BusyStorage(FakeStorage):
    """Rate-limits writes to some keys."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.busy = set(keys)

    def put_bytes(
        self, key: str, content: bytes, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        if key in self.busy:
            raise RateLimited("too many")
        return super().put_bytes(key, content, if_none_match=if_none_match, if_match=if_match)


class FakeClock:
    """Time passes only during `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()


def post_once(kelpie: FakeKelpie, storage: FakeStorage, **more: Any) -> Job:
    claims = ClaimFile(cast(Any, storage), KEYS, "p/s")
    return Queue(cast(Any, kelpie), "g").post_once(PLACE, REQUEST, claims, **more)


def claim(owner: str, host: str, pid: int, claimed_at: float, token: str = "") -> Claim:
    """A claim with this token, or with one of its own."""
    return Claim(owner=owner, host=host, pid=pid, claimed_at=claimed_at, token=token or uuid4().hex)


def held(storage: FakeStorage, claimed_at: float = 1000.0, job: str | None = None) -> None:
    """Let another machine hold the claim; `job`: the one that it posted."""
    theirs = claim("x/y", "there", 1, claimed_at)
    storage.put_bytes(KEY, theirs.to_json())
    if job is not None:
        storage.put_bytes(KEYS.posted, json.dumps({"claim": theirs.token, "kelpie_id": job}).encode())
