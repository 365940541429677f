"""Thousands of buckets that hostile nodes have filled, in one process: a run's own findings, and no effect on any other run."""

import hashlib
import json
import random
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flux_training.clients.kelpie import Job
from flux_training.clients.results import (
    list_past_runs,
    newest_sound_checkpoint,
    read_stored_inputs,
    run_status,
)
from flux_training.clients.stack.pricing import finished_run
from flux_training.commands.report.page import run_page
from flux_training.commands.report.runs import ReportedRun
from flux_training.commands.results.outputs import fetch_results
from flux_training.commands.watch.job_status import JobStatus, StackJob, describe_status, job_status
from flux_training.training.bill import cost_record_of_run
from flux_training.training.runs.changes import find_changes
from flux_training.training.runs.lineage import Checkpoints, choose_parent
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import Layout, RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.untrusted import MAX_RUN_SECONDS, parse_record
from tests.life.attacks import weights_file
from tests.support.hostile_buckets import as_storage, spoil_run
from tests.support.seeds import FIRST_SEED

LAYOUT = Layout("p/")
ATTACKED, OTHER = LAYOUT.run("cat", "0123456789ab"), LAYOUT.run("dog", "ba9876543210")
GOOD = weights_file(tensor=b"good")
REPLACED = "not those that were verified first"
MAX_MEGABYTES = 500
REPORTS_EVERY = 25


# The queue's times of the attacked run's job, and when its objects were written.
CREATED = datetime(2026, 11, 30, 12, tzinfo=UTC)
STARTED, ENDED = CREATED + timedelta(hours=1), CREATED + timedelta(hours=2)
WRITTEN = [
    CREATED - timedelta(days=1),
    CREATED,
    STARTED - timedelta(minutes=1),
    STARTED,
    ENDED,
    ENDED + timedelta(days=1),
]


def job_in(queue: str) -> Job:
    started = None if queue == "pending" else STARTED
    ended = {} if queue in ("pending", "running") else {queue: ENDED}
    return Job(id="j", container_group_id="g", status=queue, created=CREATED, started=started, **ended)


def sound_run(keys: RunKeys, *, is_pinned: bool = True) -> dict[str, bytes]:
    """A finished run. `is_pinned`: there is a record of its verified weights below .flux/."""
    digest = hashlib.sha256(GOOD).hexdigest()
    record = {
        "version": 1,
        "sha256": digest,
        "size": len(GOOD),
        "step": 20,
        "etag": hashlib.md5(GOOD, usedforsecurity=False).hexdigest(),
    }
    return {
        keys.weights: GOOD,
        keys.done: json.dumps({"sha256": digest, "size": len(GOOD), "step": 20}).encode(),
        **({keys.results: json.dumps(record).encode()} if is_pinned else {}),
        keys.progress: b'{"state": "finished", "step": 20, "steps": 20, "gpu_seconds": 60}',
        f"{keys.output}samples/1__000000001_0.jpg": b"sample",
    }


@dataclass(frozen=True)
class Bench:
    """Where results are fetched to. Both runs were fetched when they were sound."""

    outputs: Path
    times: dict[str, datetime] = field(default_factory=dict)

    def status(self, objects: Mapping[str, bytes], keys: RunKeys, queue: str) -> JobStatus:
        storage = as_storage(dict(objects), self.times)
        return job_status(StackJob(keys.job, keys.run, "j", 20, keys), job_in(queue), storage)

    def fetch(self, objects: dict[str, bytes], keys: RunKeys, queue: str = "completed") -> list[str]:
        return fetch_results(
            self.status(objects, keys, queue), as_storage(objects, self.times), self.outputs, 0.45
        ).failed

    def weights(self, keys: RunKeys) -> bytes | None:
        """The fetched weights; None if there are none."""
        path = self.outputs / keys.job / keys.run / f"{keys.job}.safetensors"
        return path.read_bytes() if path.exists() else None

    def forget(self, keys: RunKeys) -> None:
        """Make the run one that was not fetched before."""
        shutil.rmtree(self.outputs / keys.job / keys.run, ignore_errors=True)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.outputs)) for path in self.outputs.rglob("*")}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "project" / "outputs")
    for keys in (ATTACKED, OTHER):
        assert made.fetch(sound_run(keys), keys) == []
    return made


def try_bucket(seed: int, bench: Bench) -> None:
    """Everything that reads the bucket. Raises AssertionError, or what the code under test does not handle."""
    chance = random.Random(seed)
    is_pinned = chance.random() < 0.5
    objects = sound_run(ATTACKED, is_pinned=is_pinned) | sound_run(OTHER)
    spoil_run(chance, objects, ATTACKED)
    spoil_weights(chance, objects, ATTACKED)
    bench.times.clear()
    bench.times.update({key: chance.choice(WRITTEN) for key in objects if key.startswith(ATTACKED.base)})
    queue = chance.choice(["pending", "running", "completed", "failed", "canceled"])

    read_run(seed, bench, objects, queue)
    assert bench.weights(ATTACKED) == GOOD
    if is_pinned:
        check_other_weights(bench, objects, queue)
    else:
        check_first_weights(chance, bench, objects, queue)
    other = bench.status(objects, OTHER, "completed")
    assert (other.state, other.findings) == (RunState.COMPLETED, ())
    assert bench.fetch(objects, OTHER) == []
    assert bench.weights(OTHER) == GOOD


def spoil_weights(chance: random.Random, objects: dict[str, bytes], keys: RunKeys) -> None:
    """Sound weights of the right step, in place of others: as often as not with a done.json that agrees."""
    if chance.random() < 0.5:
        return
    weights = weights_file(tensor=chance.randbytes(4))
    objects[keys.weights] = weights
    if chance.random() < 0.5:
        done = {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights), "step": 20}
        objects[keys.done] = json.dumps(done).encode()


def check_other_weights(bench: Bench, objects: dict[str, bytes], queue: str) -> None:
    """Weights that differ from the recorded ones, or are gone, are a finding, and are not fetched."""
    if ATTACKED.done not in objects and queue in ("pending", "running"):
        # As long as its job has not ended, a run without done.json has no results to compare.
        assert bench.fetch(objects, ATTACKED, queue) or ATTACKED.weights not in objects
        return
    if ATTACKED.weights not in objects:
        assert "no longer in the bucket" in bench.status(objects, ATTACKED, queue).changed_weights
        return
    is_changed = hashlib.sha256(objects[ATTACKED.weights]).hexdigest() != pinned_digest(objects)
    status = bench.status(objects, ATTACKED, queue)
    assert bool(status.changed_weights) == is_changed
    assert any(REPLACED in failure for failure in bench.fetch(objects, ATTACKED, queue)) == is_changed


def check_first_weights(chance: random.Random, bench: Bench, objects: dict[str, bytes], queue: str) -> None:
    """Weights that nobody has verified are recorded when they are fetched for the first time, and those that come later are not."""
    bench.forget(ATTACKED)
    bench.fetch(objects, ATTACKED, queue)
    fetched = bench.weights(ATTACKED)
    if fetched is not None:
        written = bench.times[ATTACKED.weights]
        assert queue != "pending"
        assert written >= STARTED
        assert written <= ENDED or queue in ("running", "completed")
        assert pinned_digest(objects) == hashlib.sha256(fetched).hexdigest()
    if ATTACKED.results in objects:
        objects[ATTACKED.weights] = weights_file(tensor=chance.randbytes(5))
        check_other_weights(bench, objects, queue)
    assert bench.weights(ATTACKED) == fetched
    bench.forget(ATTACKED)
    assert bench.fetch(sound_run(ATTACKED), ATTACKED) == []


def pinned_digest(objects: dict[str, bytes]) -> str:
    digest: str = json.loads(objects[ATTACKED.results])["sha256"]
    return digest


def read_run(seed: int, bench: Bench, objects: dict[str, bytes], queue: str) -> None:
    storage = as_storage(objects, bench.times)
    status = bench.status(objects, ATTACKED, queue)
    describe_status(status).encode()
    assert status.progress.gpu_seconds is None or status.progress.gpu_seconds <= MAX_RUN_SECONDS
    record = parse_record(objects.get(ATTACKED.record, b"{}"), RunRecord).value or RunRecord()
    json.dumps(cost_record_of_run(record.estimate, status.progress.gpu_seconds), allow_nan=False)
    past = list_past_runs(storage, LAYOUT, "cat")
    newest = newest_sound_checkpoint(storage, ATTACKED)
    usable = newest_sound_checkpoint(storage, ATTACKED, before=20)
    found = Checkpoints(newest[1] if newest else None, usable[1] if usable else None)
    choose_parent("cat", 20, past, lambda _: found).finding.encode()
    finished_run(storage, ATTACKED)
    inputs = read_stored_inputs(storage, ATTACKED)
    if inputs:
        " ".join(find_changes(inputs, inputs).details).encode("utf-8", "replace")
    run_status(storage, ATTACKED, 20, None, 30)
    for failure in bench.fetch(objects, ATTACKED, queue):
        failure.encode()
    if seed % REPORTS_EVERY == 0:
        run = ReportedRun("cat", ATTACKED.run, bench.outputs / "cat" / ATTACKED.run)
        run_page(run, bench.outputs, bench.outputs.parent / "jobs").encode()


def forget_samples(bench: Bench) -> None:
    """Keep the folder small: each seed adds names."""
    shutil.rmtree(bench.outputs / "cat" / ATTACKED.run / "samples", ignore_errors=True)
    (bench.outputs / "cat" / ATTACKED.run / ".fetched.json").unlink(missing_ok=True)


def assert_inside(bench: Bench) -> None:
    allowed = {"cat", "dog", f"cat/{ATTACKED.run}", f"dog/{OTHER.run}"}
    odd = [
        name
        for name in bench.files() - allowed
        if not name.startswith((f"cat/{ATTACKED.run}/", f"dog/{OTHER.run}/")) or ".ssh" in name
    ]
    assert odd == []
    assert [path.name for path in bench.outputs.parent.iterdir()] == ["outputs"]


def peak_megabytes() -> float:
    """Of this process, since it started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def try_buckets(first: int, count: int, bench: Bench) -> None:
    # Other tests in this process may have needed more.
    before = peak_megabytes()
    for seed in range(first, first + count):
        try:
            try_bucket(seed, bench)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        if seed % 20 == 0:
            assert_inside(bench)
            forget_samples(bench)
    assert_inside(bench)
    assert peak_megabytes() < max(MAX_MEGABYTES, before + 1)


def test_hostile_buckets_affect_only_their_own_run(bench: Bench) -> None:
    try_buckets(FIRST_SEED, 300, bench)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_thousand_hostile_buckets(bench: Bench) -> None:
    try_buckets(FIRST_SEED + 1000, 20_000, bench)
