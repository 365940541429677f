"""Objects that nodes plant beside the stack's own: runs that nobody queued, files of a dataset, and other inputs of a run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from flux_training.clients.datasets import MAX_OTHERS, list_stored_images
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.results import inputs_of_run, list_past_runs, read_stored_inputs
from flux_training.clients.stack.owner import new_mark
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results.fetch import run_with_id
from flux_training.commands.results.outputs import FetchOptions, fetch_results
from flux_training.commands.watch.job_status import job_status
from flux_training.training.runs.run import Layout, run_id
from tests.life.attacks import weights_file
from tests.support.hostile_buckets import HostileBucket, as_storage

LAYOUT = Layout("p/")
OWN, PLANTED = "a" * 12, "0" * 12
DIGEST = "d" * 64
MARK = {LAYOUT.owner: new_mark("flux/me", True).to_json()}


def run_json(job: str, run: str, created: str = "2026-11-01T00:00:00Z") -> dict[str, bytes]:
    return {LAYOUT.run(job, run).record: json.dumps({"run_id": run, "created_at": created}).encode()}


def test_a_run_without_a_record_is_no_run_of_the_stack() -> None:
    """Not the newest one either, which a job with `resume` would continue."""
    storage = as_storage(
        MARK
        | {LAYOUT.run("cat", OWN).claim: b"{}", LAYOUT.run("cat", OWN).posted: b"{}"}
        | run_json("cat", OWN)
        | run_json("cat", PLANTED, "2026-11-30T00:00:00Z")
        | run_json("dog", PLANTED)
    )
    assert recorded_runs(storage, LAYOUT) == recorded_runs(storage, LAYOUT, "cat") == [("cat", OWN)]
    assert recorded_runs(storage, LAYOUT, "dog") == []
    assert [run.run_id for run in list_past_runs(storage, LAYOUT, "cat")] == [OWN]


def test_the_runs_of_an_earlier_version_are_those_in_the_bucket() -> None:
    """Its records are moved by the next `up`; until then a preview has to know the runs."""
    storage = as_storage(
        run_json("cat", OWN) | run_json("dog", OWN) | {"p/runs/cat/x/y": b"", "p/runs/../z/a": b""}
    )
    assert recorded_runs(storage, LAYOUT) == [("cat", OWN), ("dog", OWN)]
    assert recorded_runs(storage, LAYOUT, "dog") == [("dog", OWN)]


@pytest.mark.parametrize("written", ["results", "earlier", "claim"])
@pytest.mark.parametrize("mark", [{}, {LAYOUT.owner: b'{"owner": "flux/me", "layout": 1}'}])
def test_the_first_records_of_an_earlier_bucket_hide_no_run(written: str, mark: dict[str, bytes]) -> None:
    """`fetch` and `refresh` write results.json into a bucket with layout 1; a migration may be killed after any record."""
    first = {getattr(LAYOUT.run("cat", OWN), written): b"{}"}
    objects = mark | first | run_json("cat", PLANTED) | run_json("dog", OWN)
    assert recorded_runs(as_storage(objects), LAYOUT) == [("cat", PLANTED), ("cat", OWN), ("dog", OWN)]
    assert recorded_runs(as_storage(objects), LAYOUT, "dog") == [("dog", OWN)]
    assert recorded_runs(as_storage(objects | MARK), LAYOUT) == [("cat", OWN)]


@pytest.mark.parametrize(
    "name", ["..", "cat/..", "cat/" + "A" * 12, "cat/" + "a" * 13, "ca\nt/" + OWN, "cat"]
)
def test_records_with_other_names_are_ignored(name: str) -> None:
    """Keys for the whole bucket reach the records."""
    assert recorded_runs(as_storage(MARK | {f"{LAYOUT.run_records}{name}/claim.json": b"{}"}), LAYOUT) == []


@pytest.mark.parametrize("changed", ["train.yml", "manifest.json", "run.json", ""])
def test_only_what_a_run_was_made_from_counts_as_its_inputs(changed: str) -> None:
    manifest, config, record = b'{"images": {}}', b"config: {}\n", json.dumps({"attempt": 7}).encode()
    keys = LAYOUT.run("cat", run_id(manifest, config, 7))
    objects = {
        f"{keys.config}manifest.json": manifest,
        f"{keys.config}train.yml": config,
        keys.record: record,
    }
    other = {"train.yml": b"a: 1\n", "manifest.json": b"{}", "run.json": b'{"attempt": 1000000000}'}
    objects |= {key: other[changed] for key in objects if changed and key.endswith(changed)}
    found = inputs_of_run(as_storage(objects), keys)
    assert read_stored_inputs(as_storage(objects), keys) is not None
    assert (found.attempt if found else None) == (None if changed else 7)


@pytest.mark.parametrize(
    ("job", "run", "is_chosen"),
    [
        ("cat", OWN, True),
        ("cat", OWN[:6], False),
        ("cat", PLANTED, False),
        (None, OWN, False),
        ("../cat", OWN, False),
    ],
)
def test_weights_without_a_record_are_accepted_by_the_whole_id_of_their_run(
    job: str | None, run: str, is_chosen: bool, tmp_path: Path
) -> None:
    """As preview and plan suggest it, before `up` sets the weights aside."""
    keys, weights = LAYOUT.run("cat", OWN), weights_file(step=20)
    storage = as_storage(MARK | {keys.weights: weights, keys.done: b"{}", keys.record: b'{"steps": 20}'})
    chosen = run_with_id(storage, LAYOUT, job, run)
    assert [found.keys for found in chosen] == [keys] * is_chosen
    for found in chosen:
        status = job_status(found, None, storage)
        assert fetch_results(status, storage, tmp_path).failed
        accepted = FetchOptions(accept_changed=True)
        assert fetch_results(status, storage, tmp_path, options=accepted).failed == []
        assert (tmp_path / "cat" / OWN / "cat.safetensors").read_bytes() == weights
        assert recorded_runs(storage, LAYOUT) == [("cat", OWN)]


class ListedBucket(HostileBucket):
    """Counts the objects that are listed, and those that are looked up."""

    listed, looked_up = 0, 0

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for item in super().list(prefix):
            self.listed += 1
            yield item

    def head(self, key: str) -> ObjectInfo | None:
        self.looked_up += 1
        return super().head(key)


@pytest.mark.parametrize(
    ("planted", "looked_up"),
    [("00001.jpg.{}", 0), ("zzz{}", 0), ("!{}", 4)],
    ids=["between", "after", "before"],
)
def test_other_objects_of_a_dataset_are_neither_kept_nor_all_listed(planted: str, looked_up: int) -> None:
    folder, names = LAYOUT.dataset(DIGEST), ["00000.jpg", "00001.jpg", "00002.jpg"]
    others = range(3 * MAX_OTHERS if looked_up or planted.startswith("z") else MAX_OTHERS - 1)
    objects = {f"{folder}{planted.format(number)}": b"" for number in others}
    bucket = ListedBucket(objects | {f"{folder}{name}": b"x" for name in names})
    found = list_stored_images(cast(Storage, bucket), LAYOUT, DIGEST, [*names, "00003.jpg"])
    assert list(found) == names
    assert bucket.listed <= MAX_OTHERS + 5
    assert bucket.looked_up == looked_up
