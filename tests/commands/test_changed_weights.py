"""Weights that somebody replaced after they were verified, with the keys of a node, against a real S3 server."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from localcloud.testing import running_cloud

from flux_training.clients.connection import connect
from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights, accept_weights, list_pin_keys, pin_weights, read_pin
from flux_training.clients.results import CHANGED_CONFIG, inspect_run
from flux_training.clients.storage import Storage
from flux_training.commands.results.outputs import FetchOptions, FetchResult, fetch_results
from flux_training.commands.results.trusted_config import CHANGED_FILE, trusted_config
from flux_training.commands.results.trusted_weights import UNKNOWN_ORIGIN
from flux_training.commands.watch.job_status import JobStatus, StackJob, find_problems, job_status
from flux_training.training.runs.pins import PinnedWeights, StageDigests
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import CONFIG_VARIABLE, Layout, RunKeys, config_digest, run_id
from flux_training.training.runs.run_state import RunState
from flux_training.training.untrusted import parse_record

LAYOUT = Layout("p/")
STEPS = 20
MANIFEST, CONFIG = b"{}", b"job: extension\n"
DIGEST = config_digest(MANIFEST, CONFIG)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0):
        storage = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")}).storage("pins")
        storage.ensure()
        yield storage


def weights(content: bytes, step: int = STEPS) -> bytes:
    """A safetensors file with four bytes of data."""
    header = {
        "__metadata__": {"training_info": json.dumps({"step": step, "epoch": 1})},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + content


GOOD, OTHERS = weights(b"good"), weights(b"evil")


class TrainedRun:
    """A run whose node has uploaded its weights; `node_writes` uses only keys that nodes may write."""

    def __init__(self, storage: Storage, name: str, outputs: Path) -> None:
        self.storage, self.outputs = storage, outputs
        self.keys = LAYOUT.run("cat", name)
        self.node_writes(GOOD)
        storage.put_bytes(self.keys.posted, b'{"kelpie_id": "forgotten by the queue"}')
        storage.put_bytes(f"{self.keys.config}manifest.json", MANIFEST)
        storage.put_bytes(f"{self.keys.config}train.yml", CONFIG)

    def node_writes(self, data: bytes) -> None:
        self.storage.put_bytes(self.keys.weights, data)
        done = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        self.storage.put_bytes(self.keys.done, json.dumps(done).encode())

    def problem(self, stored: PinnedWeights | None = None) -> str:
        job = StackJob("cat", self.keys.run, "", STEPS, self.keys, weights=stored)
        found = job_status(job, None, self.storage)
        assert found.state is RunState.COMPLETED  # never trained and paid for again
        return find_problems([found], datetime.now(UTC)).get("cat", "")

    def fetch(
        self, stored: PinnedWeights | None = None, accept: bool = False, force: bool = False
    ) -> FetchResult:
        job = StackJob("cat", self.keys.run, "", STEPS, self.keys, weights=stored)
        options = FetchOptions(force=force, accept_changed=accept)
        return fetch_results(job_status(job, None, self.storage), self.storage, self.outputs, options=options)

    @property
    def local(self) -> bytes:
        return (self.outputs / "cat" / self.keys.run / "cat.safetensors").read_bytes()


@pytest.fixture
def run(bucket: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> TrainedRun:
    attempt = int(hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:5], 16)
    made = TrainedRun(bucket, run_id(MANIFEST, CONFIG, attempt), tmp_path)
    bucket.put_bytes(made.keys.record, json.dumps({"attempt": attempt}).encode())
    return made


def test_the_first_fetch_records_the_weights(run: TrainedRun) -> None:
    assert read_pin(run.storage, run.keys) is None
    run.fetch()
    pin = read_pin(run.storage, run.keys)
    assert pin is not None
    assert (pin.sha256, pin.size, pin.step) == (hashlib.sha256(GOOD).hexdigest(), len(GOOD), STEPS)
    assert run.keys.results in list_pin_keys(run.storage, LAYOUT)
    assert run.problem() == ""


@pytest.mark.parametrize("force", [False, True])
def test_replaced_weights_are_reported_and_not_fetched(run: TrainedRun, force: bool) -> None:
    run.fetch()
    run.node_writes(OTHERS)
    assert "somebody replaced them" in run.problem()
    result = run.fetch(force=force)
    assert run.local == GOOD
    assert len(result.failed) == 1
    assert "--accept-changed-weights" in result.failed[0]


def test_replaced_weights_are_not_fetched_to_another_machine(run: TrainedRun, tmp_path: Path) -> None:
    run.fetch()
    run.node_writes(OTHERS)
    run.outputs = tmp_path / "another"
    assert run.fetch().failed
    assert not list(run.outputs.rglob("*.safetensors"))


def test_deleted_weights_are_reported_and_not_trained_again(run: TrainedRun) -> None:
    run.fetch()
    run.storage.delete_many([run.keys.weights, run.keys.done])
    assert "no longer in the bucket" in run.problem()
    assert run.fetch().failed
    assert run.local == GOOD


def test_accepted_weights_are_fetched_and_recorded(run: TrainedRun) -> None:
    run.fetch()
    stored = read_pin(run.storage, run.keys)
    run.node_writes(OTHERS)
    result = run.fetch(accept=True)
    assert (result.failed, result.differing, run.local) == ([], [], OTHERS)
    # Also for a stack whose state still has the first ones, and if they are accepted twice.
    run.fetch(accept=True)
    assert run.problem(stored) == ""
    assert run.fetch(stored).failed == []


def test_weights_of_a_run_that_the_queue_has_forgotten_can_be_accepted(run: TrainedRun) -> None:
    run.storage.delete_many([run.keys.posted])
    assert UNKNOWN_ORIGIN in run.fetch().failed[0]
    assert "./flux fetch cat --accept-changed-weights" in run.fetch().failed[0]
    assert run.fetch(accept=True).failed == []
    assert read_pin(run.storage, run.keys) is not None
    assert run.fetch().failed == []


def test_accepting_keeps_other_files_that_the_user_changed(run: TrainedRun) -> None:
    folder = run.fetch().folder
    (folder / "train.yml").write_bytes(b"mine")
    run.node_writes(OTHERS)
    assert run.fetch(accept=True).differing == ["train.yml"]
    assert (folder / "train.yml").read_bytes() == b"mine"


@pytest.mark.parametrize("data", [weights(b"evil", step=STEPS - 1), b"no weights", weights(b"too long")])
def test_invalid_weights_cannot_be_accepted(run: TrainedRun, data: bytes) -> None:
    run.fetch()
    run.node_writes(data)
    assert "are not valid" in run.fetch(accept=True).failed[0]
    assert run.local == GOOD


def test_without_a_record_verified_weights_are_not_replaced_either(run: TrainedRun) -> None:
    """As for runs that an older version has fetched."""
    run.fetch()
    run.storage.delete_many([run.keys.results])
    run.node_writes(OTHERS)
    assert run.fetch().differing == ["cat.safetensors"]
    assert run.local == GOOD


def test_a_record_that_contradicts_the_state_is_not_believed(run: TrainedRun) -> None:
    """With keys for the whole bucket a node can replace the record too."""
    run.fetch()
    stored = read_pin(run.storage, run.keys)
    longer = weights(b"evil") + b" "
    run.node_writes(longer)
    run.storage.delete_many([run.keys.results])
    found = next(run.storage.list(run.keys.weights))
    pin_weights(run.storage, run.keys, StoredWeights((found,)), STEPS)
    assert "somebody replaced them" in run.problem(stored)
    assert run.fetch(stored).failed
    assert run.local == GOOD


def queued(config: str) -> Job:
    return Job(id="1", container_group_id="g", status="completed", environment={"FLUX_CONFIG_SHA256": config})


def test_results_of_a_run_with_changed_files_are_not_believed(run: TrainedRun) -> None:
    assert inspect_run(run.storage, run.keys, STEPS, queued(DIGEST)).finished
    run.storage.put_bytes(f"{run.keys.config}train.yml", CONFIG + b"#")
    found = inspect_run(run.storage, run.keys, STEPS, queued(DIGEST))
    assert found.evidence.problems == (CHANGED_CONFIG,)


@pytest.mark.parametrize(
    ("size", "etag", "words"),
    [
        (7, "e", ""),
        (7, "f", "somebody replaced them"),
        (8, "e", "somebody replaced them"),
        (None, "", "no longer in the bucket"),
    ],
)
def test_how_weights_differ(size: int | None, etag: str, words: str) -> None:
    pin = PinnedWeights(sha256="a" * 64, size=7, step=STEPS, etag="e")
    found = pin.difference(size, etag)
    assert (words in found) if words else (found == "")
    assert pin.model_copy(update={"etag": ""}).difference(7, "anything") == ""


def test_the_launcher_and_we_compute_the_same_digest() -> None:
    from flux_training.node.launcher import settings

    assert settings.config_digest(MANIFEST, CONFIG) == DIGEST
    assert RunKeys("runs/cat/1/", "cat").results == ".flux/runs/cat/1/results.json"


@pytest.mark.parametrize("case", ["another train.yml", "no done.json", "another step"])
def test_weights_that_are_not_believed_are_not_fetched(case: str, run: TrainedRun) -> None:
    """A node placed them below a run that waits or is being trained: the name would hide what they are."""
    if case == "another train.yml":
        run.storage.put_bytes(f"{run.keys.config}train.yml", b"job: of somebody else\n")
    elif case == "no done.json":
        run.storage.delete_many([run.keys.done])
    else:
        run.node_writes(weights(b"evil", STEPS - 1))
    queued = Job(id="j", container_group_id="g", status="running", environment={"FLUX_CONFIG_SHA256": DIGEST})
    job = StackJob("cat", run.keys.run, "j", STEPS, run.keys)
    result = fetch_results(job_status(job, queued, run.storage), run.storage, run.outputs)
    refused = [one.partition(":")[0] for one in result.failed]
    assert set(refused) - {"train.yml", "manifest.json"} == {"weights"}
    assert not list(run.outputs.rglob("*.safetensors"))
    assert read_pin(run.storage, run.keys) is None


def test_an_unfinished_run_without_weights_is_fetched_without_a_complaint(run: TrainedRun) -> None:
    run.storage.delete_many([run.keys.weights, run.keys.done])
    queued = Job(id="j", container_group_id="g", status="running")
    job = StackJob("cat", run.keys.run, "j", STEPS, run.keys)
    assert fetch_results(job_status(job, queued, run.storage), run.storage, run.outputs).failed == []


def test_a_changed_record_is_an_error_also_for_weights_of_the_same_length(run: TrainedRun) -> None:
    """With keys for the whole bucket a node can change both; only the stack's state has the first digest."""
    run.fetch()
    stored = read_pin(run.storage, run.keys)
    run.node_writes(OTHERS)
    run.storage.delete_many([run.keys.results])
    job_status(StackJob("cat", run.keys.run, "", STEPS, run.keys), None, run.storage)
    found = run.storage.head(run.keys.weights)
    assert found is not None
    pin_weights(run.storage, run.keys, StoredWeights((found,)), STEPS)
    assert stored is not None
    stored = PinnedWeights.model_validate(stored.state_record)
    assert "somebody changed the record" in run.problem(stored)
    assert run.fetch(stored).failed
    assert run.local == GOOD


@pytest.mark.parametrize("nodes_reach_records", [False, True])
def test_a_forged_acceptance_counts_only_where_nodes_cannot_write_it(
    run: TrainedRun, nodes_reach_records: bool
) -> None:
    run.fetch()
    stored = read_pin(run.storage, run.keys)
    assert stored is not None
    run.node_writes(OTHERS)
    found = run.storage.head(run.keys.weights)
    assert found is not None
    accept_weights(run.storage, run.keys, StoredWeights((found,)), STEPS, stored)
    job = StackJob(
        "cat", run.keys.run, "", STEPS, run.keys, weights=stored, nodes_reach_records=nodes_reach_records
    )
    status = job_status(job, None, run.storage)
    assert bool(status.changed_weights) == nodes_reach_records
    kept = fetch_results(status, run.storage, run.outputs)
    assert (bool(kept.failed), run.local) == (nodes_reach_records, GOOD)
    accepted = FetchOptions(force=True, accept_changed=True)
    assert fetch_results(status, run.storage, run.outputs, options=accepted).failed == []
    assert run.local == OTHERS


@pytest.mark.parametrize("done", [b"{}", b'{"sha256": [1]}'])
def test_weights_without_a_digest_in_done_json_are_recorded_too(run: TrainedRun, done: bytes) -> None:
    run.storage.put_bytes(run.keys.done, done)
    run.fetch()
    pin = read_pin(run.storage, run.keys)
    assert pin is not None
    assert pin.sha256 == hashlib.sha256(GOOD).hexdigest()
    run.node_writes(OTHERS)
    assert "somebody replaced them" in run.problem()


def test_a_wrong_digest_in_done_json_stops_no_one_who_accepts_the_weights(run: TrainedRun) -> None:
    """A node of the stack changes done.json before the weights are recorded. The paid result must not be lost."""
    run.storage.put_bytes(run.keys.done, json.dumps({"sha256": "0" * 64, "size": len(GOOD)}).encode())
    (failed,) = run.fetch().failed
    assert "is not what was written there" in failed
    assert (
        "done.json named other weights: if you trust them, `./flux fetch cat --accept-changed-weights`"
        in failed
    )
    assert not list(run.outputs.rglob("*.safetensors"))
    assert run.fetch(accept=True).failed == []
    assert run.local == GOOD
    assert run.fetch().failed == []


@pytest.mark.parametrize("name", ["train.yml", "manifest.json"])
def test_a_run_keeps_its_configuration_if_a_node_changes_it_afterwards(run: TrainedRun, name: str) -> None:
    """Reports and model cards quote both files: the trigger word, the prompts, the model and its licence."""
    folder = run.fetch().folder
    before = (folder / name).read_bytes()
    run.storage.put_bytes(f"{run.keys.config}{name}", b"job: evil\n")
    failed = run.fetch().failed
    assert failed == [f"{one}: {CHANGED_FILE}" for one in ("manifest.json", "train.yml")]
    assert (folder / name).read_bytes() == before
    assert run.local == GOOD
    run.outputs = run.outputs / "another machine"
    assert len(run.fetch().failed) == 2
    assert not list(run.outputs.rglob(name))


def test_a_record_that_names_another_attempt_does_not_make_another_configuration_right(
    run: TrainedRun,
) -> None:
    run.storage.put_bytes(run.keys.record, b'{"attempt": 7, "parent": "0123456789ab"}')
    assert len(run.fetch().failed) == 2


def test_the_queued_jobs_digest_counts_too(run: TrainedRun) -> None:
    """The id of a run has 48 bits, the digest that its job carries 256."""
    queued = Job(id="j", container_group_id="g", status="completed", environment={CONFIG_VARIABLE: "0" * 64})
    job = StackJob("cat", run.keys.run, "j", STEPS, run.keys)
    found = JobStatus(job, RunState.COMPLETED, queue_job=queued)
    assert trusted_config(found, run.storage, RunRecord()) == {}


class TwoStageRun(TrainedRun):
    """A run whose LoRA is a file for each noise stage."""

    def node_writes(self, data: bytes, low: bytes = b"") -> None:
        files = (data, low or data)
        for key, content in zip(self.keys.stages, files, strict=True):
            self.storage.put_bytes(key, content)
        high_digest, low_digest = (hashlib.sha256(content).hexdigest() for content in files)
        stages = StageDigests(high_noise=high_digest, low_noise=low_digest)
        done = {"sha256": stages.sha256, "size": sum(map(len, files)), "stages": stages.model_dump()}
        self.storage.put_bytes(self.keys.done, json.dumps(done).encode())

    @property
    def files(self) -> dict[str, bytes]:
        folder = self.outputs / "cat" / self.keys.run
        return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


FETCHED_STAGES = {"cat_high_noise.safetensors": GOOD, "cat_low_noise.safetensors": GOOD}


@pytest.fixture
def staged(run: TrainedRun) -> TwoStageRun:
    run.storage.delete_many([run.keys.weights, run.keys.done])
    made = TwoStageRun.__new__(TwoStageRun)
    made.storage, made.outputs, made.keys = run.storage, run.outputs, run.keys
    made.node_writes(GOOD)
    return made


def test_both_stages_are_fetched_and_recorded(staged: TwoStageRun) -> None:
    assert staged.fetch().failed == []
    assert staged.files == FETCHED_STAGES
    pin = read_pin(staged.storage, staged.keys)
    assert pin is not None
    assert (pin.size, pin.digests) == (2 * len(GOOD), (hashlib.sha256(GOOD).hexdigest(),) * 2)
    assert staged.problem() == ""
    assert staged.fetch(PinnedWeights.model_validate(pin.state_record)).failed == []


def test_a_run_with_one_stage_is_not_finished(staged: TwoStageRun) -> None:
    staged.storage.delete_many([staged.keys.stages[1]])
    evidence = inspect_run(staged.storage, staged.keys, STEPS).evidence
    assert evidence.problems == (f"{staged.keys.stages[1]} is missing",)
    staged.fetch()
    assert staged.files == {}


def test_a_stage_of_another_step_is_named(staged: TwoStageRun) -> None:
    staged.node_writes(GOOD, weights(b"good", 19))
    (problem,) = inspect_run(staged.storage, staged.keys, STEPS).evidence.problems
    assert problem.startswith("cat_low_noise.safetensors: they are from step 19")


def test_one_replaced_stage_is_reported_and_not_fetched(staged: TwoStageRun) -> None:
    staged.fetch()
    staged.node_writes(GOOD, OTHERS)
    assert "somebody replaced them" in staged.problem()
    assert staged.fetch(force=True).failed
    assert staged.files == FETCHED_STAGES
    assert staged.fetch(accept=True).failed == []
    assert staged.files == {**FETCHED_STAGES, "cat_low_noise.safetensors": OTHERS}


def test_one_file_beside_recorded_stages_is_ignored(staged: TwoStageRun) -> None:
    staged.fetch()
    staged.storage.put_bytes(staged.keys.weights, OTHERS)
    assert staged.problem() == ""
    staged.fetch()
    assert staged.files == FETCHED_STAGES


def test_the_digests_of_stages_are_found_without_the_record(staged: TwoStageRun) -> None:
    """The stack's state has one digest for both."""
    staged.fetch()
    pin = read_pin(staged.storage, staged.keys)
    assert pin is not None
    stored = PinnedWeights.model_validate(pin.state_record)
    staged.storage.delete_many([staged.keys.results])
    staged.outputs /= "again"
    assert staged.fetch(stored).failed == []
    assert staged.files == FETCHED_STAGES
    staged.node_writes(GOOD, OTHERS)
    assert "--accept-changed-weights" in staged.fetch(stored, force=True).failed[0]
    assert staged.files == FETCHED_STAGES


def test_a_record_whose_stages_are_not_its_digest_is_none() -> None:
    stages = StageDigests(high_noise="a" * 64, low_noise="b" * 64)
    record = {"sha256": stages.sha256, "size": 1, "step": 1, "stages": stages.model_dump()}
    assert parse_record(json.dumps(record).encode(), PinnedWeights).value is not None
    record["sha256"] = "a" * 64
    assert parse_record(json.dumps(record).encode(), PinnedWeights).value is None
