"""What the declared runs still cost, and how few requests tell it: a real local cloud without nodes, requests counted."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from localcloud.testing import logged_requests, running_cloud, wait_until

from components.migration import migrate
from flux_training.clients import results
from flux_training.clients.connection import Connection, connect
from flux_training.clients.kelpie import Job, JobRequest, Sync, SyncRule
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.salad import GroupSpec
from flux_training.clients.stack import run_states
from flux_training.clients.stack.owner import new_mark
from flux_training.clients.stack.run_states import run_states_of, state_in_queue
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import Survey, findings_of_survey, survey_stack
from flux_training.clients.verified import CACHE_FILE, VerifiedWeightsCache
from flux_training.clients.waiting import in_parallel
from flux_training.training.cluster_settings import BudgetSettings, ClusterSettings
from flux_training.training.dataset.image_cache import CACHE_FOLDER, NO_CACHE_VARIABLE
from flux_training.training.errors import BadInput
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import DeclaredJob, declare_jobs
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, Layout, RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings
from tests.training.job_folders import make_job

R = TypeVar("R")

_marks = iter(range(1000))
NAMES = ("bad", "canceled", "finished", "moved", "new", "queued")
STEPS = 20


class Ground:
    """A bucket, a container group, a checkout with a job of each state."""

    def __init__(self, cloud: dict[str, Any], root: Path, name: str) -> None:
        self.cloud = cloud
        file = Path(cloud["request_log"]).parent / "connection.json"
        self.connection: Connection = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(file)})
        self.settings = StackSettings(
            cloud="local",
            storage=StorageSettings(bucket=name),
            cluster=ClusterSettings(name=name),
            jobs={job: JobSettings() for job in NAMES},
        )
        self.storage = self.connection.storage(name)
        for number, job in enumerate(NAMES):
            make_job(root / "jobs", job, images=1, steps=STEPS, seed=number)
        self.jobs = declare_jobs(self.settings)

    def job(self, name: str) -> DeclaredJob:
        return next(job for job in self.jobs if job.name == name)

    def group(self, name: str) -> str:
        return self.connection.salad().create_group(GroupSpec(name=name, image="i", environment={})).id

    def post(self, name: str, group: str) -> str:
        """As `up` does it, written down beside the claim."""
        job = self.job(name)
        keys = Layout("").run(name, job.run_id)
        output = SyncRule(
            bucket=self.storage.bucket, prefix=keys.output, local_path="output/", direction="upload"
        )
        posted = self.connection.kelpie().post_job(
            JobRequest(
                container_group_id=group,
                command="python",
                environment={RUN_ID_VARIABLE: job.run_id, JOB_VARIABLE: name},
                sync=Sync(during=[output]),
            )
        )
        self.storage.put_bytes(keys.posted, json.dumps({"kelpie_id": posted.id}).encode())
        return posted.id

    def finish(self, name: str, data: bytes = b"") -> None:
        keys = Layout("").run(name, self.job(name).run_id)
        self.storage.put_bytes(keys.weights, data or weights(STEPS))
        self.storage.put_bytes(keys.done, b"{}")
        if self.storage.head(keys.posted) is None:  # the queue has forgotten its job
            self.storage.put_bytes(keys.posted, json.dumps({"kelpie_id": "forgotten"}).encode())

    def look(self) -> tuple[dict[str, RunState], Counter[tuple[str, str, str]]]:
        """The states, and the requests: service, method, and what it was about."""
        found, requests = self.with_requests(lambda: run_states_of(self.stack, self.jobs))
        return dict(found.by_job), requests

    @property
    def stack(self) -> StackServices:
        return StackServices(self.connection, self.settings)

    def with_requests(self, call: Callable[[], R]) -> tuple[R, Counter[tuple[str, str, str]]]:
        self._all_logged()
        before = len(logged_requests(self.cloud))
        found = call()
        self._all_logged()
        since = logged_requests(self.cloud)[before:]
        return found, Counter((one["service"], one["method"], about(one["path"])) for one in since)

    def _all_logged(self) -> None:
        """An answer comes before its line in the log: until the line of one more request is there, and nothing comes after it."""
        mark = f"/the-end-{next(_marks)}"
        self.storage.head(mark[1:])
        wait_until(lambda: any(one["path"].endswith(mark) for one in logged_requests(self.cloud)))
        time.sleep(0.1)


def about(path: str) -> str:
    for part in ("the-end", "posted.json", ".safetensors", "/jobs/", "/containers"):
        if part in path:
            return part
    return "jobs" if path.endswith("/jobs") else "bucket" if path.count("/") == 1 else "else"


def weights(step: int) -> bytes:
    header = {
        "__metadata__": {"training_info": json.dumps({"step": step, "epoch": 1})},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + b"1234"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with running_cloud(tmp_path_factory.mktemp("states") / "cloud", nodes=0) as running:
        yield running


@pytest.fixture
def ground(
    cloud: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Ground:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(NO_CACHE_VARIABLE, raising=False)
    made = Ground(cloud, tmp_path, f"states-{abs(hash(request.node.name)) % 10**9}")
    made.storage.ensure()
    return made


def test_each_standing_is_told_with_one_request_a_run_and_one_listing(ground: Ground) -> None:
    group, other = ground.group(ground.settings.cluster.name), ground.group(f"{ground.storage.bucket}-old")
    ground.post("queued", group)
    ground.post("moved", other)
    ground.connection.kelpie().cancel_job(ground.post("canceled", group))
    ground.finish("finished")
    ground.post("bad", group)
    ground.finish("bad", weights(STEPS)[:-1])
    found, asked = ground.look()
    assert found == {
        "bad": RunState.PENDING,
        "canceled": RunState.CANCELED,
        "finished": RunState.COMPLETED,
        "moved": RunState.PENDING,
        "new": RunState.NEW,
        "queued": RunState.PENDING,
    }
    # That of all groups tells which node can have trained `finished`.
    assert asked["kelpie", "GET", "jobs"] == 2
    # Those that the listing does not have: canceled, new, and moved, of which two were posted.
    assert (asked["s3", "GET", "posted.json"], asked["kelpie", "GET", "/jobs/"]) == (3, 2)
    assert asked["s3", "GET", ".safetensors"] == 2
    assert {method for _, method, _ in asked} == {"GET", "HEAD"}


def test_a_second_look_asks_once_for_each_run_that_is_queued_or_finished(ground: Ground) -> None:
    group = ground.group(ground.settings.cluster.name)
    for name in NAMES:
        if name != "finished":
            ground.post(name, group)
    ground.finish("finished")
    first, asked = ground.look()
    assert asked["s3", "GET", ".safetensors"] == 1
    second, asked = ground.look()
    assert first == second
    assert second["finished"] is RunState.COMPLETED
    assert asked == {
        ("s3", "HEAD", "bucket"): 1,
        ("s3", "GET", "bucket"): len(NAMES) + 1,  # and the records of verified weights
        ("s3", "GET", "else"): 1,  # owner.json
        ("s3", "HEAD", "posted.json"): 1,
        ("kelpie", "GET", "jobs"): 2,
        ("salad", "GET", "/containers"): 1,
        ("s3", "HEAD", "the-end"): 1,
    }


def test_a_run_that_ends_between_the_look_and_the_list_is_finished(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.group(ground.settings.cluster.name)
    run = ground.job("queued").run_id

    def meanwhile(_stack: StackServices) -> list[Job]:
        ground.finish("queued")
        keys = Layout("").run("queued", run)
        return [queued_job("completed", run, keys.output, ground.storage.bucket)]

    monkeypatch.setattr(run_states, "jobs_in_container_groups", meanwhile)
    assert ground.look()[0]["queued"] is RunState.COMPLETED


def test_a_node_that_fills_its_folder_costs_one_page_and_hides_nothing(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_LISTED", 5)
    keys = Layout("").run("finished", ground.job("finished").run_id)
    for number in range(9):
        ground.storage.put_bytes(f"{keys.model}a{number}", b"")
    assert ground.look()[0]["finished"] is RunState.NEW
    ground.finish("finished")
    found, asked = ground.look()
    assert found["finished"] is RunState.COMPLETED
    # Objects are found by listings: a node can make one that refuses HEAD.
    assert asked["s3", "HEAD", ".safetensors"] == 0


def test_the_queue_is_listed_once_for_weights_that_nobody_has_verified(ground: Ground) -> None:
    for name in NAMES:
        ground.finish(name)
    found, asked = ground.look()
    assert set(found.values()) == {RunState.COMPLETED}
    assert sum(count for (service, _, _), count in asked.items() if service != "s3") == 1


@pytest.mark.parametrize("is_posted", [False, True])
def test_weights_below_a_run_that_no_node_has_got_do_not_count(ground: Ground, is_posted: bool) -> None:
    """A node places them below a pending run, or below a run that is not declared yet."""
    ground.finish("queued")
    keys = Layout("").run("queued", ground.job("queued").run_id)
    ground.storage.delete_many([keys.posted])
    if is_posted:
        ground.post("queued", ground.group(ground.settings.cluster.name))
    assert ground.look()[0]["queued"] is (RunState.PENDING if is_posted else RunState.NEW)


def test_runs_of_an_earlier_bucket_stay_finished_although_the_queue_has_forgotten_them(
    ground: Ground,
) -> None:
    """Before its records are moved, and after that; a stack's `preview`, `refresh` and `fetch` look at the same."""
    keys = Layout("").run("finished", ground.job("finished").run_id)
    ground.finish("finished")
    ground.storage.delete_many([keys.posted])
    ground.storage.put_bytes(keys.record, json.dumps({"steps": STEPS}).encode())
    assert ground.look()[0]["finished"] is RunState.NEW
    ground.storage.put_bytes(Layout("").owner, b'{"owner": "flux/me", "layout": 1}')
    assert ground.look()[0]["finished"] is RunState.COMPLETED
    assert results.inspect_run(ground.storage, keys, STEPS).finished

    migrate(ground.stack, "flux/me")
    assert not ground.stack.has_earlier_layout
    assert ground.look()[0]["finished"] is RunState.COMPLETED
    assert results.inspect_run(ground.storage, keys, STEPS).pin is not None
    ground.finish("new")  # a node writes other weights later
    ground.storage.delete_many([Layout("").run("new", ground.job("new").run_id).posted])
    assert ground.look()[0]["new"] is RunState.NEW


@pytest.mark.long  # it writes 3,000 objects
def test_a_thousand_finished_runs_are_known_by_listings(ground: Ground) -> None:
    """tests/life/test_requests.py counts the requests of a whole `up`, which adds none for each run."""
    jobs = [
        replace(ground.job("finished"), settings=JobSettings(attempt=number)) for number in range(1, 1001)
    ]
    keys = [Layout("").run(job.name, job.run_id) for job in jobs]
    written = [key for one in keys for key in (one.claim, one.posted, one.results)]
    in_parallel(lambda key: ground.storage.put_bytes(key, b"{}"), written)
    found, asked = ground.with_requests(lambda: run_states_of(ground.stack, jobs))
    assert (set(found.by_job.values()), len(found.pinned)) == ({RunState.COMPLETED}, 1000)
    assert asked == {("s3", "HEAD", "bucket"): 1, ("s3", "GET", "bucket"): 3, ("s3", "HEAD", "the-end"): 1}


def test_weights_that_were_replaced_are_read_again(ground: Ground) -> None:
    ground.finish("finished")
    assert ground.look()[0]["finished"] is RunState.COMPLETED
    ground.finish("finished", weights(STEPS - 1))
    found, asked = ground.look()
    assert found["finished"] is RunState.NEW
    assert asked["s3", "GET", ".safetensors"] == 1


def test_weights_are_read_each_time_without_the_cache(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_CACHE_VARIABLE, "1")
    ground.finish("finished")
    for _ in range(2):
        assert ground.look()[1]["s3", "GET", ".safetensors"] == 1
    assert not Path(CACHE_FOLDER, CACHE_FILE).exists()


@pytest.mark.parametrize(
    "broken",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"version": 1, "etags": 3}', b'{"version": 9, "etags": {}}'],
)
def test_a_broken_memory_is_none(ground: Ground, broken: bytes) -> None:
    ground.finish("finished")
    ground.look()
    place = Path(CACHE_FOLDER, CACHE_FILE)
    place.write_bytes(broken)
    assert ground.look()[1]["s3", "GET", ".safetensors"] == 1
    assert ground.look()[1]["s3", "GET", ".safetensors"] == 0


def test_an_object_without_an_etag_is_never_known(ground: Ground) -> None:
    ground.finish("finished")
    keys = Layout("").run("finished", ground.job("finished").run_id)
    info = next(item for item in ground.storage.list(keys.weights))
    verified = VerifiedWeightsCache.load()
    verified.add(ground.storage, info, STEPS)
    assert verified.knows(ground.storage, info, STEPS)
    assert not verified.knows(ground.storage, info, STEPS + 1)
    nameless = type(info)(info.key, info.size, "")
    verified.add(ground.storage, nameless, STEPS)
    assert not verified.knows(ground.storage, nameless, STEPS)


def test_without_a_bucket_all_is_new_and_without_a_group_nothing_is_queued(ground: Ground) -> None:
    found, asked = ground.look()
    assert set(found.values()) == {RunState.NEW}
    assert asked["kelpie", "GET", "jobs"] == 0
    ground.storage.delete_bucket()
    assert set(run_states_of(ground.stack, ground.jobs).by_job.values()) == {RunState.NEW}


def test_a_survey_asks_once_whether_the_bucket_exists(ground: Ground) -> None:
    def survey() -> Survey:
        return survey_stack(ground.stack, ground.jobs, LintReport(list(NAMES), []), with_changes=True)[0]

    found, requests = ground.with_requests(survey)
    assert found.bucket_exists
    assert requests["s3", "HEAD", "bucket"] == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_an_earlier_version_made_of_a_windows_checkout_is_found(
    ground: Ground, resume: bool
) -> None:
    config = Path("jobs/finished/train.yml")
    config.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    jobs = {name: JobSettings(resume=resume and name == "finished") for name in NAMES}
    ground.settings = ground.settings.model_copy(update={"jobs": jobs})
    ground.jobs = declare_jobs(ground.settings)
    normalized = ground.job("finished")
    own = normalized.with_own_line_endings
    assert own is not None
    assert surveyed(ground).run_id == normalized.run_id

    ground.jobs = [own]
    ground.finish("finished")
    ground.storage.put_bytes(Layout("").run("finished", own.run_id).record, b"{}")
    ground.jobs = [normalized]
    assert surveyed(ground).run_id == own.run_id
    assert surveyed(ground).folder.raw_config == config.read_bytes()

    # In a bucket with the current layout, a node that wrote run.json would choose the id.
    ground.storage.put_bytes(Layout("").owner, new_mark("flux/me", True).to_json())
    assert surveyed(ground).run_id == own.run_id
    ground.storage.delete_many([Layout("").run("finished", own.run_id).posted])
    assert surveyed(ground).run_id == normalized.run_id


@pytest.mark.parametrize("written", ["results", "earlier"])
def test_a_resumed_run_keeps_its_id_until_an_earlier_bucket_is_migrated(ground: Ground, written: str) -> None:
    """`fetch` has recorded the parent's weights, or a migration was killed half-way: the resumed run has no record yet."""
    resuming(ground)
    layout = Layout("")
    ground.storage.put_bytes(layout.owner, b'{"owner": "flux/me", "layout": 1}')
    parent = layout.run("finished", "0" * 12)
    begun(ground, parent, 5)
    resumed = surveyed(ground)
    assert resumed.parent == parent.run
    begun(ground, layout.run("finished", resumed.run_id), 10)
    ground.storage.put_bytes(getattr(parent, written), b"{}")
    assert surveyed(ground).run_id == resumed.run_id


@pytest.mark.parametrize("left", [None, b"{", b"[]"])
@pytest.mark.parametrize("spoiled", ["own", "parent"])
def test_a_resumed_run_keeps_its_id_without_run_json(
    ground: Ground, left: bytes | None, spoiled: str
) -> None:
    """A node deletes run.json of a finished run: the job must neither continue itself nor stop all others."""
    resuming(ground)
    layout = Layout("")
    ground.storage.put_bytes(layout.owner, new_mark("flux/me", True).to_json())
    parent = layout.run("finished", "0" * 12)
    begun(ground, parent, 5)
    ground.storage.put_bytes(parent.claim, b"{}")
    resumed = surveyed(ground)
    own = layout.run("finished", resumed.run_id)
    begun(ground, own, STEPS)
    ground.storage.put_bytes(own.claim, b"{}")
    record = {"own": own, "parent": parent}[spoiled].record
    ground.storage.delete_many([record])
    if left is not None:
        ground.storage.put_bytes(record, left)
    assert surveyed(ground).run_id == resumed.run_id
    past = results.list_past_runs(ground.storage, layout, "finished")
    assert {run.run_id for run in past} == {parent.run, own.run}
    assert all(run.created_at for run in past)


@pytest.mark.parametrize("step", [STEPS, 10 * STEPS])
def test_a_planted_checkpoint_stops_neither_its_job_nor_others(ground: Ground, step: int) -> None:
    resuming(ground)
    layout = Layout("")
    ground.storage.put_bytes(layout.owner, new_mark("flux/me", True).to_json())
    parent = layout.run("finished", "0" * 12)
    begun(ground, parent, 5)
    ground.storage.put_bytes(parent.claim, b"{}")
    ground.storage.put_bytes(f"{parent.output}finished_{step:09}.safetensors", weights(step))
    survey, _ = survey_stack(ground.stack, ground.jobs, LintReport(["finished"], []), with_changes=False)
    assert surveyed(ground).parent == parent.run
    assert set(survey.states) == set(NAMES)
    (finding,) = survey.findings
    assert finding.startswith(
        f"finished: `resume: true` does not continue from step {step} of run {parent.run},"
    )

    # The record of its verified weights shows that the run has finished.
    pin = PinnedWeights.of(("0" * 64,), 1, step, "e")
    ground.storage.put_bytes(parent.results, pin.to_json())
    with pytest.raises(BadInput, match=r"raise train\.steps"):
        surveyed(ground)


def test_finished_weights_of_a_run_that_was_never_queued_are_announced(ground: Ground) -> None:
    layout = Layout("")
    ground.storage.put_bytes(layout.owner, new_mark("flux/me", True).to_json())
    ground.finish("new")
    keys = layout.run("new", ground.job("new").run_id)
    ground.storage.delete_many([keys.posted])
    survey, _ = survey_stack(ground.stack, ground.jobs, LintReport(["new"], []), with_changes=False)
    assert survey.states["new"] is RunState.NEW
    (finding,) = findings_of_survey(survey, layout, "dev")
    assert f"moves them to {keys.set_aside} and trains the run" in finding
    assert f"`./flux fetch new --run {keys.run} --accept-changed-weights` records them first" in finding


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_finished_run_that_the_queue_has_forgotten_does_not_wait_for_the_budget(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """With keys for the whole bucket only the stack's state shows that it has finished. Left out, it would be deleted and trained again."""
    monkeypatch.setattr(StackServices, "nodes_reach_records", True)
    ground.settings = ground.settings.model_copy(
        update={"budget": BudgetSettings.model_validate({"maxUsdPerDay": 0.0})}
    )
    if is_finished:
        ground.finish("finished")
    survey, _ = survey_stack(ground.stack, ground.jobs, LintReport(["finished"], []), with_changes=False)
    waiting = {job.name for job in survey.waiting}
    assert waiting == set(NAMES) - ({"finished"} if is_finished else set())


def resuming(ground: Ground) -> None:
    jobs = {name: JobSettings(resume=name == "finished") for name in NAMES}
    ground.settings = ground.settings.model_copy(update={"jobs": jobs})
    ground.jobs = declare_jobs(ground.settings)


def begun(ground: Ground, keys: RunKeys, step: int) -> None:
    """A run of the job `finished` with a checkpoint."""
    created = {"created_at": f"2026-11-{step:02}T00:00:00Z"}
    ground.storage.put_bytes(keys.record, json.dumps(created).encode())
    ground.storage.put_bytes(f"{keys.output}finished_{step:09}.safetensors", weights(step))


def surveyed(ground: Ground) -> DeclaredJob:
    """The job `finished` in a survey."""
    survey, _ = survey_stack(ground.stack, ground.jobs, LintReport(["finished"], []), with_changes=False)
    return next(job for job in survey.jobs if job.name == "finished")


def queued_job(status: str, run: str = "r", prefix: str = "runs/cat/r/output/", bucket: str = "b") -> Job:
    output = {"bucket": bucket, "prefix": prefix, "local_path": "o/", "direction": "upload"}
    return Job.model_validate(
        {
            "id": f"{status}-{run}",
            "container_group_id": "g",
            "status": status,
            "environment": {RUN_ID_VARIABLE: run, JOB_VARIABLE: "cat"},
            "sync": {"during": [output]},
        }
    )


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ([], None),
        ([queued_job("canceled")], None),
        ([queued_job("failed")], RunState.FAILED),
        ([queued_job("completed")], RunState.WITHOUT_WEIGHTS),
        ([queued_job("failed"), queued_job("pending")], RunState.PENDING),
        ([queued_job("running", prefix="other/runs/cat/r/output/")], None),
        ([queued_job("running", run="s")], None),
    ],
)
def test_what_the_listing_says_of_a_run_that_is_not_finished(jobs: list[Job], state: RunState | None) -> None:
    assert state_in_queue(jobs, RunPlace.of("b", Layout(""), "cat", "r")) == state
