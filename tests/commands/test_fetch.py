"""Fetching: what is there is kept, what was cut off goes on, what a person changed is left alone. Against the real S3 server."""

from __future__ import annotations

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
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results import download as downloading
from flux_training.commands.results import fetch as fetching
from flux_training.commands.results.download import download, part_path
from flux_training.commands.results.outputs import INDEX, RECORD, Options, Wish, decide, fetch
from flux_training.commands.watch.job_status import Sight, StackJob
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout, RunKeys

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
def sight(bucket: Storage, request: pytest.FixtureRequest) -> Sight:
    """A finished run in the bucket, one for each test."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    keys = RunKeys(f"runs/cat/{name}/", "cat")
    done = {"sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    objects = {
        keys.weights: WEIGHTS,
        keys.done: json.dumps(done).encode(),
        keys.record: json.dumps({"job": "cat", "run_id": name}).encode(),
        keys.progress: json.dumps({"step": 20, "gpu_seconds": 3600}).encode(),
        f"{keys.config}train.yml": b"job: extension\n",
        f"{keys.config}manifest.json": b"{}",
        f"{keys.output}loss.csv": b"step,loss\n1,0.5\n",
        f"{keys.output}samples/1__000000010_0.jpg": b"one",
        f"{keys.output}samples/.thumbs/1__000000010_0.jpg.jpg": b"small",
        f"{keys.output}samples/page.html": b"<script>",
        f"{keys.output}cat_000000010.safetensors": b"between",
    }
    for key, data in objects.items():
        bucket.put_bytes(key, data)
    return Sight(StackJob("cat", name, "", 20, keys), "completed", "", {"gpu_seconds": 3600}, None)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "CHUNK", CHUNK)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_whole_and_a_second_time_nothing_comes(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    first = fetch(sight, bucket, tmp_path)
    assert names(first.place) == {
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
    assert (first.place / "cat.safetensors").read_bytes() == WEIGHTS
    second = fetch(sight, bucket, tmp_path)
    assert (second.new, second.kept, second.differing, second.failed) == (0, first.new, [], [])


def test_checkpoints_come_when_asked_for(bucket: Storage, sight: Sight, tmp_path: Path) -> None:
    place = fetch(sight, bucket, tmp_path, options=Options(checkpoints=True)).place
    assert (place / "checkpoints/cat_000000010.safetensors").read_bytes() == b"between"


def test_what_a_run_cost_is_written_down_and_kept_when_the_price_is_gone(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    place = fetch(sight, bucket, tmp_path, 0.45).place
    fetch(sight, bucket, tmp_path)
    assert json.loads((place / RECORD).read_text())["cost"]["actualUsd"] == 0.45


@pytest.mark.parametrize("name", ["train.yml", "cat.safetensors", "samples/1__000000010_0.jpg"])
def test_a_file_that_a_person_changed_is_left_alone_until_forced(
    bucket: Storage, sight: Sight, tmp_path: Path, name: str
) -> None:
    place = fetch(sight, bucket, tmp_path).place
    before = (place / name).read_bytes()
    (place / name).write_bytes(b"mine")
    again = fetch(sight, bucket, tmp_path)
    assert (again.differing, (place / name).read_bytes()) == ([name], b"mine")
    forced = fetch(sight, bucket, tmp_path, options=Options(force=True))
    assert (forced.differing, (place / name).read_bytes()) == ([], before)


def test_weights_of_one_size_and_other_bytes_are_not_taken_for_the_same(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    target = tmp_path / "cat" / sight.job.run_id
    target.mkdir(parents=True)
    (target / "cat.safetensors").write_bytes(bytes(len(WEIGHTS)))
    assert fetch(sight, bucket, tmp_path).differing == ["cat.safetensors"]


def test_what_has_grown_in_the_bucket_is_renewed(bucket: Storage, sight: Sight, tmp_path: Path) -> None:
    place = fetch(sight, bucket, tmp_path).place
    bucket.put_bytes(f"{sight.job.keys.output}loss.csv", b"step,loss\n1,0.5\n2,0.4\n")
    result = fetch(sight, bucket, tmp_path)
    assert (result.new, (place / "loss.csv").read_text()) == (1, "step,loss\n1,0.5\n2,0.4\n")


def test_damaged_weights_are_named_and_not_kept(bucket: Storage, sight: Sight, tmp_path: Path) -> None:
    bucket.put_bytes(sight.job.keys.weights, WEIGHTS[:-1] + b"x")
    result = fetch(sight, bucket, tmp_path)
    assert [fault.split(":")[0] for fault in result.failed] == ["cat.safetensors"]
    assert "is not what was written there" in result.failed[0]
    assert not (result.place / "cat.safetensors").exists()
    assert not list(result.place.glob(".*.part"))
    assert fetch(sight, bucket, tmp_path).failed


class Broken(Storage):
    """A storage that answers `left` range requests and then no more; counts what it was asked."""

    left: int
    asked: list[int]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.left == 0:
            raise Unavailable("the network is gone")
        self.left -= 1
        self.asked.append(start)
        return super().get_range(key, start, length)


def broken(bucket: Storage, left: int) -> Broken:
    made = Broken.__new__(Broken)
    made.__dict__.update(bucket.__dict__, left=left, asked=[])
    return made


@pytest.mark.parametrize("came", [1, 3, 5])
def test_a_fetch_that_was_cut_off_goes_on_where_it_was(
    bucket: Storage, sight: Sight, tmp_path: Path, came: int
) -> None:
    info = bucket.head(sight.job.keys.weights)
    assert info is not None
    path, digest = tmp_path / "w", hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(ServiceError):
        download(broken(bucket, came), info, path, digest, lambda _: None)
    assert (path.exists(), part_path(path, info).stat().st_size) == (False, came * CHUNK)
    second = broken(bucket, 100)
    download(second, info, path, digest, lambda _: None)
    assert (path.read_bytes(), second.asked[0]) == (WEIGHTS, came * CHUNK)
    assert names(tmp_path) == {"w"}


def test_the_part_of_an_object_that_has_changed_is_not_gone_on_with(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    info = bucket.head(sight.job.keys.weights)
    assert info is not None
    path = tmp_path / "w"
    with pytest.raises(ServiceError):
        download(broken(bucket, 2), info, path, None, lambda _: None)
    bucket.put_bytes(sight.job.keys.weights, WEIGHTS[::-1])
    changed = bucket.head(sight.job.keys.weights)
    assert changed is not None
    with pytest.raises(ServiceError, match="changed while"):
        download(bucket, info, path, None, lambda _: None)
    download(bucket, changed, path, None, lambda _: None)
    assert (path.read_bytes(), names(tmp_path)) == (WEIGHTS[::-1], {"w"})


def test_two_fetches_of_one_file_do_not_write_into_each_other(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    info = bucket.head(sight.job.keys.weights)
    assert info is not None
    with part_path(tmp_path / "w", info).open("ab") as file:
        downloading._lock(file, tmp_path / "w")
        with pytest.raises(FluxError, match="another `flux fetch`"):
            download(bucket, info, tmp_path / "w", None, lambda _: None)


def test_a_name_that_leaves_the_folder_is_refused(bucket: Storage, sight: Sight, tmp_path: Path) -> None:
    listed = ObjectInfo(f"{sight.job.keys.output}samples/../../../../out.jpg", 3, "e")

    class Listing(Storage):
        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            del prefix
            yield listed

    made: Any = Listing.__new__(Listing)
    made.__dict__.update(bucket.__dict__)
    with pytest.raises(FluxError, match="stays below its folder"):
        fetch(sight, made, tmp_path)


def test_what_is_a_folder_here_and_an_object_there_is_named(
    bucket: Storage, sight: Sight, tmp_path: Path
) -> None:
    (tmp_path / "cat" / sight.job.run_id / "train.yml").mkdir(parents=True)
    assert fetch(sight, bucket, tmp_path).differing == ["train.yml"]


def test_what_to_do_with_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    etag = hashlib.md5(b"abc", usedforsecurity=False).hexdigest()
    wish = Wish(ObjectInfo("k", 3, etag), "loss.csv")
    other = replace(wish, name="train.yml")
    assert decide(wish, path, None) == "fetch"
    path.write_bytes(b"abc")
    assert decide(wish, path, None) == "keep"
    path.write_bytes(b"xyz")
    mine = {"sha256": hashlib.sha256(b"xyz").hexdigest(), "etag": "older"}
    # A record of an earlier version is renewed; what a person wrote is not; what we wrote is.
    assert [decide(wish, path, None), decide(other, path, None), decide(other, path, mine)] == [
        "fetch",
        "differs",
        "fetch",
    ]
    assert decide(wish, path, {"sha256": "of something else"}) == "differs"


def test_names_that_a_node_made_up_choose_no_folder_here(bucket: Storage) -> None:
    layout = Layout("made-up/")
    for base in ("runs/cat/0123456789ab/", "runs/-rf/0123456789ab/", "runs/cat/output/", "runs/cat/..x/"):
        bucket.put_bytes(f"made-up/{base}output/run.json", b'{"created_at": "2026"}')
    found = fetching._choose(bucket, layout, [], None, None, all_runs=True)
    assert [(run.name, run.run_id) for run in found] == [("cat", "0123456789ab")]
