"""What lies in the bucket can be written with a node's keys: whatever it is, it ends no preview, no `up` and no report."""

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pipeline import total_cost
from components.preparation import remaining_times
from flux_training.clients.errors import Invalid, NotFound
from flux_training.clients.kelpie import Job
from flux_training.clients.records import read_record
from flux_training.clients.results import (
    inspect_run,
    list_past_runs,
    newest_sound_checkpoint,
    read_json,
    read_stored_inputs,
    run_status,
)
from flux_training.clients.storage import Folders, ObjectInfo, Storage
from flux_training.commands.report.chart import chart_curve
from flux_training.node.job import changed_limits
from flux_training.training.bill import cost_record_of_run
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.loss_curve import parse_losses
from flux_training.training.runs.node_rights import seconds_needed
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import Layout, RunKeys
from flux_training.training.runs.run_state import NO_REPORT
from flux_training.training.untrusted import MAX_RECORD_BYTES
from tests.life.attacks import weights_file

KEYS = RunKeys("runs/cat/0123456789ab/", "cat")
ODD = [10**400, -(10**400), float("inf"), float("nan"), -5, "5", True, None, [], {}, {"a": 1}, "\ud800"]


class CountingBucket:
    """Objects by key; counts the bytes that were asked for."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.read = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if key not in self.objects:
            raise NotFound(f"{key} is not there")
        part = self.objects[key][start : start + length]
        self.read += len(part)
        return part

    def head(self, key: str) -> ObjectInfo | None:
        return ObjectInfo(key, len(self.objects[key]), "e") if key in self.objects else None

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [
            ObjectInfo(key, len(data), "e")
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        ]


def storage(objects: dict[str, bytes]) -> Storage:
    return cast(Storage, CountingBucket(objects))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_invalid_json_counts_as_missing(text: bytes) -> None:
    assert read_json(storage({"k": text}), "k") is None
    assert read_json(storage({}), "k") is None


def test_deeply_nested_json_counts_as_missing() -> None:
    """It could be read, but not be written again as run.json of outputs/."""
    text = json.dumps({"a": json.loads("[" * 500 + "]" * 500)}).encode()
    assert read_json(storage({"k": text}), "k") is None


def test_long_objects_are_read_only_to_the_limit() -> None:
    bucket = CountingBucket({"k": b'{"a": "' + b"x" * 3 * MAX_RECORD_BYTES + b'"}'})
    assert read_json(cast(Storage, bucket), "k") is None
    assert bucket.read == MAX_RECORD_BYTES + 1


def header(content: str) -> bytes:
    raw = content.encode()
    return len(raw).to_bytes(8, "little") + raw


HEADERS = [
    header('{"a": {"data_offsets": [0, Infinity]}}'),
    header('{"a": {"data_offsets": [0, NaN]}}'),
    header(f'{{"a": {{"data_offsets": [0, {"9" * 4000}]}}}}'),
    header('{"a": {"data_offsets": [0, -1]}}'),
    header('{"a": {"data_offsets": {"x": 1}}}'),
    header('{"a": ' + "[" * 100_000),
    header('{"__metadata__": {"training_info": "{\\\\"step\\\\": Infinity}"}, "a": {"data_offsets": [0, 4]}}') + b"1234",
    header(json.dumps({"__metadata__": {"training_info": "[" * 90_000}, "a": {"data_offsets": [0, 4]}})) + b"1234",
    header('{"__metadata__": {"training_info": "{\\\\"step\\\\": -9}"}, "a": {"data_offsets": [0, 4]}}') + b"1234",
    (90_000_000).to_bytes(8, "little") + b"{}",
]  # fmt: skip


@pytest.mark.parametrize("weights", HEADERS)
def test_invalid_weights_are_a_problem_not_an_exception(weights: bytes) -> None:
    found = inspect_run(storage({KEYS.done: b"{}", KEYS.weights: weights}), KEYS, 20).evidence
    assert found.done
    assert found.problems
    assert (
        newest_sound_checkpoint(storage({f"{KEYS.output}cat_000000010.safetensors": weights}), KEYS) is None
    )


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_in_run_and_progress_raise_nothing(odd: Any) -> None:
    record = {
        "estimate": {"usd": odd, "seconds": odd, "usd_an_hour": odd, "gpu": odd},
        "attempt": odd,
        "parent": odd,
    }
    progress = {"gpu_seconds": 3600, "eta_seconds": odd, "message": odd}
    objects = {
        KEYS.record: json.dumps(record).encode(),
        KEYS.progress: json.dumps(progress).encode(),
        f"{KEYS.config}manifest.json": b"{}",
        f"{KEYS.config}train.yml": b"",
    }
    bucket = storage(objects)
    recorded = read_record(bucket, KEYS.record, RunRecord).value or RunRecord()
    made = read_record(bucket, KEYS.progress, RunProgress).value or RunProgress()
    cost = cost_record_of_run(recorded.estimate, made.gpu_seconds)
    json.dumps(total_cost({"cat": cost, "dog": {"estimateUsd": 0.5, "actualUsd": 0.5}})).encode()
    seen = run_status(bucket, KEYS, 20, None, 30)
    seen.reason.encode()
    inputs = read_stored_inputs(bucket, KEYS)
    assert inputs is not None
    assert inputs.attempt == 1


@pytest.mark.parametrize("progress", [None, b"", b"[]", b"{"])
def test_a_failed_run_without_a_readable_progress_says_why(progress: bytes | None) -> None:
    bucket = storage({KEYS.progress: progress} if progress is not None else {})
    failed = Job(id="1", container_group_id="g", status="failed")
    assert run_status(bucket, KEYS, 20, failed, 30).reason.endswith(NO_REPORT)


def test_thousands_of_checkpoints_cost_a_hundred_reads_and_hide_no_result() -> None:
    made = {f"{KEYS.output}cat_{step:09}.safetensors": weights_file(step=step) for step in range(1, 3000)}
    bucket = CountingBucket(made | {f"{KEYS.output}cat.safetensors": weights_file(step=5000)})
    assert newest_sound_checkpoint(cast(Storage, bucket), KEYS) == (f"{KEYS.output}cat.safetensors", 5000)
    assert bucket.read < 100 * 1000


def test_a_checkpoint_that_vanishes_after_it_was_listed_stops_nothing() -> None:
    gone, left = f"{KEYS.output}cat_000000009.safetensors", f"{KEYS.output}cat_000000005.safetensors"

    class Vanishing(CountingBucket):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            if key == gone:
                raise NotFound(f"{key} is not there")
            return super().get_range(key, start, length)

    bucket = Vanishing({gone: weights_file(step=9), left: weights_file(step=5)})
    assert newest_sound_checkpoint(cast(Storage, bucket), KEYS) == (left, 5)


def test_a_folder_that_a_node_made_is_no_past_run() -> None:
    class BucketOfFolders(CountingBucket):
        def list_folders(self, _prefix: str) -> Folders:
            return Folders(["", "..", "0123456789ab", "0123456789ab\n", "a\x1b[2J"])

    record = json.dumps({"created_at": "2026-01-01T00:00:00Z"}).encode()
    names = ["", "..", "0123456789ab", "0123456789ab\n", "a\x1b[2J"]
    made = {Layout("").run("cat", name).record: record for name in names}
    found = list_past_runs(cast(Storage, BucketOfFolders(made)), Layout(""), "cat")
    assert [run.run_id for run in found] == ["0123456789ab"]


def test_a_progress_that_cannot_even_be_looked_at_counts_as_none() -> None:
    """Encrypted with a key of its writer's own: the storage answers HEAD with 400."""

    class Encrypted(CountingBucket):
        def head(self, key: str) -> ObjectInfo | None:
            raise Invalid(f"{key}: 400")

    running = Job(id="1", container_group_id="g", status="running")
    found = run_status(cast(Storage, Encrypted({KEYS.progress: b""})), KEYS, 20, running, 30)
    assert (found.state, len(found.findings)) == ("running", 1)


@pytest.mark.parametrize("odd", ODD)
def test_new_limits_survive_odd_values_in_launch_json(odd: Any) -> None:
    present = read_json(storage({"k": json.dumps({"contract": 1, "steps": odd}).encode()}), "k")
    assert present is not None
    changed = json.loads(changed_limits(present, 2.0, 20.0))
    assert (changed["contract"], changed["max_hours"], changed["stall_minutes"]) == (1, 2.0, 20.0)


@pytest.mark.parametrize("odd", ODD)
def test_odd_remaining_times_raise_nothing(odd: Any) -> None:
    job = cast(
        DeclaredJob,
        type(
            "Job",
            (),
            {"name": "cat", "run_id": "0123456789ab", "settings": type("S", (), {"max_hours": None})},
        ),
    )
    objects = {KEYS.progress: json.dumps({"eta_seconds": odd}).encode()}
    seconds_needed(remaining_times(storage(objects), Layout(""), [job], bucket_exists=True), 1)


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(["9" * 400, "1e308", "-1e308", "inf", "nan", "9" * 5000, "-0"]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=60))
def test_odd_losses_raise_nothing(rows: list[tuple[object, object]]) -> None:
    json.dumps(
        chart_curve("cat", parse_losses("".join(f"{step},{loss}\n" for step, loss in rows))), allow_nan=False
    )
