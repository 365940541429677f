"""A bucket with layout 1: its posted jobs are recorded below .flux/ once, whatever happens meanwhile, and no run is queued twice."""

import json
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from components.migration import migrate
from flux_training.clients import connection as connections
from flux_training.clients import storage as storage_module
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job, JobRequest, Kelpie, Sync, SyncRule
from flux_training.clients.pins import read_pin
from flux_training.clients.queue import posting
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.salad import GroupSpec
from flux_training.clients.stack.run_states import state_of_posted_job
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings, StorageSettings
from tests.components.groups import OWNER, new_name, report
from tests.life.attacks import weights_file
from tests.support.seeds import seeds

BUCKET = "migration"
KILLS = seeds(100, short=3)
# A migration of these runs sends about as many requests.
MAX_REQUESTS = 21
# run id → what layout 1 says about it
MOVED, QUEUED, NEVER_POSTED, FORGED = "00000000000a", "00000000000b", "00000000000c", "00000000000d"
RUNS = (MOVED, QUEUED, NEVER_POSTED, FORGED)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(posting, "CLAIM_POLL_SECONDS", 0.05)


class OldBucket:
    """A prefix with layout 1. One job ended in another container group, one waits in ours; one record names somebody else's job."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = new_name()
        self.storage = connection.storage(BUCKET)
        self.storage.ensure()
        self.layout = self.stack().layout
        self.group, self.other_group = self._new_group(), self._new_group()
        mark = {"version": 1, "layout": 1, "owner": OWNER, "made": True}
        self.storage.put_bytes(self.layout.owner, json.dumps(mark).encode())
        self.moved = self._post(self.request(MOVED, self.other_group))
        report(connection, self.moved, "completed")
        self.queued = self._post(self.request(QUEUED, self.group))
        self.strangers = self._post(self.request("someone else's", self.other_group))
        for run, job in ((MOVED, self.moved), (QUEUED, self.queued), (FORGED, self.strangers)):
            self._put_old(run, "posted", {"claim": "t", "kelpie_id": job.id})
        for run in RUNS:
            claim = {"owner": OWNER, "host": "h", "pid": 1, "claimed_at": 9e9, "token": "t"}
            self._put_old(run, "claim", claim)

    def stack(self) -> StackServices:
        storage = StorageSettings(bucket=BUCKET, prefix=self.name)
        return StackServices(self.connection, StackSettings(cloud="local", storage=storage, jobs={}))

    def keys(self, run: str) -> RunKeys:
        return self.layout.run(f"job-{run[-1]}", run)

    def request(self, run: str, group: str) -> JobRequest:
        rule = SyncRule(bucket=BUCKET, prefix=self.keys(run).output, local_path="o/", direction="upload")
        environment = {"FLUX_RUN_ID": run, "FLUX_JOB": self.keys(run).job}
        return JobRequest(
            container_group_id=group, command="python", environment=environment, sync=Sync(during=[rule])
        )

    def post_once(self, run: str) -> Job:
        place = RunPlace.at(BUCKET, self.keys(run))
        queue = Queue(self.connection.kelpie(), self.group)
        return queue.post_once(
            place, self.request(run, self.group), ClaimFile(self.storage, self.keys(run), OWNER)
        )

    def jobs_of(self, run: str) -> list[Job]:
        place = RunPlace.at(BUCKET, self.keys(run))
        return [job for job in self.connection.kelpie().list_jobs() if place.is_own(job)]

    def mark(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.storage.get_bytes(self.layout.owner) or b"")
        return found

    def _post(self, request: JobRequest) -> Job:
        return self.connection.kelpie().post_job(request)

    def _new_group(self) -> str:
        spec = GroupSpec(name=new_name(), image="image", environment={"A": "1"})
        return self.connection.salad().create_group(spec).id

    def _put_old(self, run: str, what: str, content: dict[str, Any]) -> None:
        key = f"{self.keys(run).base}{what}.json"
        self.storage.put_bytes(key, json.dumps({"version": 1, **content}).encode())


@pytest.fixture
def old(connection: Connection) -> OldBucket:
    return OldBucket(connection)


def check_queued_once(old: OldBucket) -> None:
    """Each run has one job, and nobody else's was canceled."""
    for run in RUNS:
        assert old.post_once(run).id == old.post_once(run).id
        assert len(old.jobs_of(run)) == 1
    assert old.post_once(MOVED).id == old.moved.id
    assert old.post_once(QUEUED).id == old.queued.id
    assert old.connection.kelpie().get_job(old.strangers.id).status == "pending"


def test_posted_jobs_are_recorded_where_nodes_cannot_write(old: OldBucket) -> None:
    migrate(old.stack(), OWNER)
    assert old.mark() == {"version": 1, "layout": 2, "owner": OWNER, "made": True}
    recorded = [item.key for item in old.storage.list(old.layout.run_records)]
    posted = [key for run in (MOVED, QUEUED) for key in (old.keys(run).claim, old.keys(run).posted)]
    assert recorded == [*posted, *(old.keys(run).earlier for run in (NEVER_POSTED, FORGED))]
    assert recorded_runs(old.storage, old.layout) == [(f"job-{run[-1]}", run) for run in RUNS]
    assert (
        state_of_posted_job(old.storage, old.connection.kelpie(), old.keys(MOVED)) is RunState.WITHOUT_WEIGHTS
    )
    check_queued_once(old)


def test_only_weights_of_runs_without_a_job_are_recorded(old: OldBucket) -> None:
    """A node replaced the posted.json of a run that waits, and put weights there."""
    old._put_old(QUEUED, "posted", {"claim": "t", "kelpie_id": old.strangers.id})
    for run in (QUEUED, NEVER_POSTED):
        old.storage.put_bytes(old.keys(run).weights, weights_file(step=20))
        old.storage.put_bytes(old.keys(run).done, b"{}")
        old.storage.put_bytes(old.keys(run).record, b'{"steps": 20}')
    migrate(old.stack(), OWNER)
    assert [run for run in RUNS if read_pin(old.storage, old.keys(run))] == [NEVER_POSTED]


@pytest.mark.parametrize("record", [None, b"{", b'{"steps": 0}'])
def test_a_forgotten_run_keeps_its_weights_without_run_json(old: OldBucket, record: bytes | None) -> None:
    """A node can delete run.json. Without the record of its weights, the run would be trained and paid for again."""
    keys = old.keys(NEVER_POSTED)
    old.storage.put_bytes(keys.weights, weights_file(step=20))
    old.storage.put_bytes(keys.done, b"{}")
    old.storage.delete_many([keys.record])
    if record is not None:
        old.storage.put_bytes(keys.record, record)
    migrate(old.stack(), OWNER)
    pin = read_pin(old.storage, keys)
    assert pin is not None
    assert pin.step == 20


def test_a_listing_that_was_cut_moves_no_bucket(old: OldBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "MAX_FOLDERS", len(RUNS) - 1)
    (warning,) = migrate(old.stack(), OWNER)
    assert f"{BUCKET}/{old.layout.runs} has more folders and objects than one listing returns" in warning
    assert old.mark()["layout"] == 1
    monkeypatch.undo()
    assert migrate(old.stack(), OWNER) == ()
    assert old.mark()["layout"] == 2


def test_the_old_records_are_never_read_again(old: OldBucket) -> None:
    migrate(old.stack(), OWNER)
    before = [(item.key, item.etag) for item in old.storage.list(old.layout.run_records)]
    old._put_old(NEVER_POSTED, "posted", {"claim": "t", "kelpie_id": old.moved.id})
    old._put_old(MOVED, "posted", {"claim": "t", "kelpie_id": old.strangers.id})
    migrate(old.stack(), OWNER)
    assert [(item.key, item.etag) for item in old.storage.list(old.layout.run_records)] == before
    check_queued_once(old)


def test_the_mark_of_another_owner_is_left_to_the_adoption(old: OldBucket) -> None:
    migrate(old.stack(), "flux-training/another")
    assert old.mark()["layout"] == 1


def in_process(call: Callable[[], object], kill_at: int | None = None) -> int:
    """Run `call` in a process of its own, killed with SIGKILL before its `kill_at`th request. Returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    # Connections must not be shared with the parent.
    connections._shared_client.cache_clear()
    requests = 0

    def counted(send: Callable[..., Any]) -> Callable[..., Any]:
        def request(*args: Any, **more: Any) -> Any:
            nonlocal requests
            requests += 1
            if requests == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return send(*args, **more)

        return request

    for owner, name in ((Storage, "_call"), (Kelpie, "list_jobs")):
        setattr(owner, name, counted(getattr(owner, name)))
    call()
    os._exit(0)


@pytest.mark.parametrize("seed", KILLS)
def test_a_migration_that_is_killed_at_any_moment_queues_nothing_twice(seed: int, old: OldBucket) -> None:
    chance = random.Random(seed)
    # In turn and at once; the last one of each pair may be complete.
    for _ in range(chance.randint(1, 3)):
        pids = [
            in_process(lambda: migrate(old.stack(), OWNER), chance.randint(1, MAX_REQUESTS))
            for _ in range(chance.randint(1, 2))
        ]
        for pid in pids:
            os.waitpid(pid, 0)
    migrate(old.stack(), OWNER)
    assert old.mark()["layout"] == 2
    check_queued_once(old)
