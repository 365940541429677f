"""`flux fetch` against a real S3 server: skips current files, continues interrupted downloads, keeps what the user changed."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from localcloud.testing import running_cloud

from flux_training.clients.connection import connect
from flux_training.clients.errors import ServiceError, Unavailable
from flux_training.clients.kelpie import Job
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results import download as downloading
from flux_training.commands.results import outputs
from flux_training.commands.results.download import download, part_path
from flux_training.commands.results.fetch import select_runs
from flux_training.commands.results.outputs import (
    INDEX,
    RECORD,
    DownloadDecision,
    FetchOptions,
    RemoteFile,
    decide_download,
    fetch_results,
    write_run_record,
)
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.training.errors import FluxError
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import Layout, RunKeys, run_id
from flux_training.training.runs.run_state import RunState

CHUNK = 1000
WEIGHTS = bytes(range(256)) * 20


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0):
        connection = connect("local", {}, {"FLUX_LOCAL_CLOUD": str(home / "connection.json")})
        storage = connection.storage("flux-fetch")
        storage.ensure()
        yield storage


@pytest.fixture
def status(bucket: Storage, request: pytest.FixtureRequest) -> JobStatus:
    """A finished run in the bucket, one for each test."""
    config = f"job: extension  # {request.node.name}\n".encode()
    name = run_id(b"{}", config)
    keys = RunKeys(f"runs/cat/{name}/", "cat")
    done = {"sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    objects = {
        keys.weights: WEIGHTS,
        keys.done: json.dumps(done).encode(),
        keys.record: json.dumps({"job": "cat", "run_id": name}).encode(),
        keys.progress: json.dumps({"step": 20, "gpu_seconds": 3600}).encode(),
        f"{keys.config}train.yml": config,
        f"{keys.config}manifest.json": b"{}",
        f"{keys.output}loss.csv": b"step,loss\n1,0.5\n",
        f"{keys.output}samples/1__000000010_0.jpg": b"one",
        f"{keys.output}samples/.thumbs/1__000000010_0.jpg.jpg": b"small",
        f"{keys.output}samples/page.html": b"<script>",
        f"{keys.output}cat_000000010.safetensors": b"between",
    }
    for key, data in objects.items():
        bucket.put_bytes(key, data)
    return JobStatus(
        StackJob("cat", name, "", 20, keys), RunState.COMPLETED, progress=RunProgress(gpu_seconds=3600)
    )


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "CHUNK_BYTES", CHUNK)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_fetched_completely_and_only_once(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    first = fetch_results(status, bucket, tmp_path)
    assert names(first.folder) == {
        "cat.safetensors",
        "done.json",
        "loss.csv",
        "manifest.json",
        "progress.json",
        "samples/1__000000010_0.jpg",
        "train.yml",
        RECORD,
        INDEX,
    }
    assert (first.folder / "cat.safetensors").read_bytes() == WEIGHTS
    second = fetch_results(status, bucket, tmp_path)
    assert (second.new, second.kept, second.differing, second.failed) == (0, first.new, [], [])


def test_two_stacks_with_the_same_run_have_two_whole_results(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    dev = FetchOptions(owner="mine/dev", local=True)
    prod = FetchOptions(owner="mine/prod", stack="prod")
    first = fetch_results(status, bucket, tmp_path / "dev", options=dev)
    other = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    bucket.put_bytes(status.job.keys.weights, WEIGHTS[::-1])
    bucket.put_bytes(status.job.keys.done, json.dumps({"sha256": other}).encode())
    second = fetch_results(status, bucket, tmp_path / "prod", options=prod)
    assert names(first.folder) == names(second.folder)
    weights = [result.folder / "cat.safetensors" for result in (first, second)]
    assert [path.read_bytes() for path in weights] == [WEIGHTS, WEIGHTS[::-1]]
    records = [json.loads((result.folder / RECORD).read_text()) for result in (first, second)]
    assert [record["stand_in"] for record in records] == [True, False]


@pytest.mark.parametrize("has_index", [True, False])
def test_results_of_another_stack_are_not_replaced(
    bucket: Storage, status: JobStatus, tmp_path: Path, has_index: bool
) -> None:
    record = {"job": "cat", "run_id": status.job.run_id, "owner": "mine/prod"}
    bucket.put_bytes(status.job.keys.record, json.dumps(record).encode())
    place = fetch_results(status, bucket, tmp_path, options=FetchOptions(owner="mine/prod")).folder
    if not has_index:
        (place / INDEX).unlink()  # versions before this rule wrote the owner only to run.json
    before = {name: (place / name).read_bytes() for name in names(place)}
    bucket.put_bytes(f"{status.job.keys.output}loss.csv", b"step,loss\n9,0.1\n")
    options = FetchOptions(owner="mine/dev", force=True, checkpoints=True)
    result = fetch_results(status, bucket, tmp_path, options=options)
    assert {name: (place / name).read_bytes() for name in names(place)} == before
    (refusal,) = result.failed
    assert "holds results of mine/prod, and this is mine/dev" in refusal
    again = f"`./flux fetch cat --run {status.job.run_id} --checkpoints --to OTHER_FOLDER`"
    assert again in refusal


def test_valid_files_of_the_old_folder_are_not_downloaded_again(
    bucket: Storage, status: JobStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fetch_results(status, bucket, tmp_path).folder
    (old / "train.yml").write_bytes(b"mine")
    (old / "loss.csv").unlink()
    (old / "loss.csv").symlink_to(old / "progress.json")
    downloaded: list[str] = []

    def note(storage: Storage, info: ObjectInfo, path: Path, *rest: Any) -> None:
        downloaded.append(path.name)
        download(storage, info, path, *rest)

    monkeypatch.setattr("flux_training.commands.results.outputs.download", note)
    options = FetchOptions(owner="mine/dev", adopt_from=tmp_path)
    result = fetch_results(status, bucket, tmp_path / "dev", options=options)
    assert sorted(downloaded) == ["loss.csv", "train.yml"]
    assert (result.new, result.kept, result.adopted, result.failed) == (2, 5, 5, [])
    assert names(result.folder) == names(old)
    assert (result.folder / "cat.safetensors").samefile(old / "cat.safetensors")
    assert (old / "train.yml").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "is_checkpoint"),
    [
        ("cat_000000010.safetensors", True),
        ("cat_000000010_low_noise.safetensors", True),
        ("cat_high_noise.safetensors", False),
        ("cat_low_noise.safetensors", False),
        ("cat_10.safetensors", False),
    ],
)
def test_only_names_with_a_step_are_checkpoints(name: str, is_checkpoint: bool) -> None:
    assert outputs._output_name(name, "cat", True) == (f"checkpoints/{name}" if is_checkpoint else "")


def test_checkpoints_are_fetched_on_request(bucket: Storage, status: JobStatus, tmp_path: Path) -> None:
    place = fetch_results(status, bucket, tmp_path, options=FetchOptions(checkpoints=True)).folder
    assert (place / "checkpoints/cat_000000010.safetensors").read_bytes() == b"between"


def test_the_cost_is_kept_when_the_price_is_no_longer_known(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    place = fetch_results(status, bucket, tmp_path, 0.45).folder
    fetch_results(status, bucket, tmp_path)
    assert json.loads((place / RECORD).read_text())["cost"]["actualUsd"] == 0.45


@pytest.mark.parametrize("name", ["train.yml", "cat.safetensors", "samples/1__000000010_0.jpg"])
def test_a_changed_file_is_kept_unless_forced(
    bucket: Storage, status: JobStatus, tmp_path: Path, name: str
) -> None:
    place = fetch_results(status, bucket, tmp_path).folder
    before = (place / name).read_bytes()
    (place / name).write_bytes(b"mine")
    again = fetch_results(status, bucket, tmp_path)
    assert (again.differing, (place / name).read_bytes()) == ([name], b"mine")
    forced = fetch_results(status, bucket, tmp_path, options=FetchOptions(force=True))
    assert (forced.differing, (place / name).read_bytes()) == ([], before)


def test_weights_of_the_same_size_are_compared_by_content(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    target = tmp_path / "cat" / status.job.run_id
    target.mkdir(parents=True)
    (target / "cat.safetensors").write_bytes(bytes(len(WEIGHTS)))
    assert fetch_results(status, bucket, tmp_path).differing == ["cat.safetensors"]


def test_a_file_that_has_grown_in_the_bucket_is_fetched_again(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    place = fetch_results(status, bucket, tmp_path).folder
    bucket.put_bytes(f"{status.job.keys.output}loss.csv", b"step,loss\n1,0.5\n2,0.4\n")
    result = fetch_results(status, bucket, tmp_path)
    assert (result.new, (place / "loss.csv").read_text()) == (1, "step,loss\n1,0.5\n2,0.4\n")


def test_damaged_weights_are_reported_and_not_kept(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    bucket.put_bytes(status.job.keys.weights, WEIGHTS[:-1] + b"x")
    result = fetch_results(status, bucket, tmp_path)
    assert [fault.split(":")[0] for fault in result.failed] == ["cat.safetensors"]
    assert "is not what was written there" in result.failed[0]
    assert not (result.folder / "cat.safetensors").exists()
    assert not list(result.folder.glob(".*.part"))
    assert fetch_results(status, bucket, tmp_path).failed


class FailingStorage(Storage):
    """Fails after `left` range requests; records their offsets."""

    left: int
    asked: list[int]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.left == 0:
            raise Unavailable("the network is gone")
        self.left -= 1
        self.asked.append(start)
        return super().get_range(key, start, length)


def broken(bucket: Storage, left: int) -> FailingStorage:
    made = FailingStorage.__new__(FailingStorage)
    made.__dict__.update(bucket.__dict__, left=left, asked=[])
    return made


@pytest.mark.parametrize("came", [1, 3, 5])
def test_an_interrupted_download_continues(
    bucket: Storage, status: JobStatus, tmp_path: Path, came: int
) -> None:
    info = bucket.head(status.job.keys.weights)
    assert info is not None
    path, digest = tmp_path / "w", hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(ServiceError):
        download(broken(bucket, came), info, path, digest, lambda _: None)
    assert (path.exists(), part_path(path, info).stat().st_size) == (False, came * CHUNK)
    second = broken(bucket, 100)
    download(second, info, path, digest, lambda _: None)
    assert (path.read_bytes(), second.asked[0]) == (WEIGHTS, came * CHUNK)
    assert names(tmp_path) == {"w"}


def test_an_interrupted_download_of_a_changed_object_starts_again(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    info = bucket.head(status.job.keys.weights)
    assert info is not None
    path = tmp_path / "w"
    with pytest.raises(ServiceError):
        download(broken(bucket, 2), info, path, None, lambda _: None)
    bucket.put_bytes(status.job.keys.weights, WEIGHTS[::-1])
    changed = bucket.head(status.job.keys.weights)
    assert changed is not None
    with pytest.raises(ServiceError, match="changed while"):
        download(bucket, info, path, None, lambda _: None)
    download(bucket, changed, path, None, lambda _: None)
    assert (path.read_bytes(), names(tmp_path)) == (WEIGHTS[::-1], {"w"})


def test_a_small_object_that_changes_meanwhile_is_fetched_as_it_is_now(
    bucket: Storage, tmp_path: Path
) -> None:
    """A running node writes its report every few seconds."""
    bucket.put_bytes("progress.json", b"old")
    (listed,) = bucket.list("progress.json")
    bucket.put_bytes("progress.json", b"newer")
    download(bucket, listed, tmp_path / "progress.json", None, lambda _: None)
    assert (tmp_path / "progress.json").read_bytes() == b"newer"
    bucket.put_bytes("progress.json", b"x" * (downloading.CHUNK_BYTES + 1))
    with pytest.raises(ServiceError, match=r"progress.json .* changed: it had 3 bytes"):
        download(bucket, listed, tmp_path / "progress.json", None, lambda _: None)


def test_only_one_process_downloads_a_file(bucket: Storage, status: JobStatus, tmp_path: Path) -> None:
    info = bucket.head(status.job.keys.weights)
    assert info is not None
    with part_path(tmp_path / "w", info).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FluxError, match="another `flux fetch`"):
            download(bucket, info, tmp_path / "w", None, lambda _: None)


def test_a_name_that_leaves_the_folder_is_reported(
    bucket: Storage, status: JobStatus, tmp_path: Path
) -> None:
    listed = ObjectInfo(f"{status.job.keys.output}samples/../../../../out.jpg", 3, "e")

    class Listing(Storage):
        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            del prefix
            yield listed

    made: Any = Listing.__new__(Listing)
    made.__dict__.update(bucket.__dict__)
    found = fetch_results(status, made, tmp_path)
    assert found.failed == ["samples/../../../../out.jpg: not the name of a sample; it is not fetched"]
    assert list(tmp_path.rglob("out.jpg")) == []


def test_a_folder_in_place_of_a_file_is_reported(bucket: Storage, status: JobStatus, tmp_path: Path) -> None:
    (tmp_path / "cat" / status.job.run_id / "train.yml").mkdir(parents=True)
    assert fetch_results(status, bucket, tmp_path).differing == ["train.yml"]


def test_an_existing_file_is_kept_replaced_or_reported(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    etag = hashlib.md5(b"abc", usedforsecurity=False).hexdigest()
    file = RemoteFile(ObjectInfo("k", 3, etag), "loss.csv")
    other = replace(file, name="train.yml")
    assert decide_download(file, path, None) == DownloadDecision.FETCH
    path.write_bytes(b"abc")
    assert decide_download(file, path, None) == DownloadDecision.KEEP
    path.write_bytes(b"xyz")
    mine = {"sha256": hashlib.sha256(b"xyz").hexdigest(), "etag": "older"}
    # Generated files are replaced, files that a user wrote are not, and files that a fetch wrote are.
    assert [
        decide_download(file, path, None),
        decide_download(other, path, None),
        decide_download(other, path, mine),
    ] == [
        DownloadDecision.FETCH,
        DownloadDecision.DIFFERS,
        DownloadDecision.FETCH,
    ]
    assert decide_download(file, path, {"sha256": "of something else"}) == DownloadDecision.DIFFERS


def test_run_names_that_a_node_made_up_are_ignored(bucket: Storage) -> None:
    layout = Layout("made-up/")
    for base in ("runs/cat/0123456789ab/", "runs/-rf/0123456789ab/", "runs/cat/output/", "runs/cat/..x/"):
        bucket.put_bytes(f"made-up/{base}output/run.json", b'{"created_at": "2026"}')
    found = select_runs(bucket, layout, [], None, None, "dev", all_runs=True)
    assert [(run.name, run.run_id) for run in found] == [("cat", "0123456789ab")]


def test_queue_facts_are_kept_when_the_queue_forgets_the_job(tmp_path: Path) -> None:
    path = tmp_path / "cat" / "run.json"
    job = StackJob("cat", "0123456789ab", "id-1", 300, RunKeys("runs/cat/0123456789ab/", "cat"))
    facts = {"id": "id-1", "machine_id": "node-1", "num_heartbeats": 4}
    queue_job = Job(container_group_id="g", status="completed", **facts)
    for known in (queue_job, None):
        write_run_record(
            path, RunRecord(run_id="0123456789ab"), JobStatus(job, RunState.COMPLETED, queue_job=known)
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    assert facts.items() <= record["kelpie"].items()
    assert (record["run_id"], record["state"]) == ("0123456789ab", "completed")
