"""Run ids, object keys, launcher settings, explanations of run states, and checks of weights."""

import json
import struct
from typing import Any

import pytest

from flux_training.clients.datasets import parse_dataset_record
from flux_training.training.dataset.manifest import parse_manifest
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.run import Layout, run_id
from flux_training.training.runs.run_state import (
    LastContact,
    ModelFolderContents,
    RunState,
    explain_failure,
    run_state,
    show_duration,
    stall,
)
from flux_training.training.runs.weights import (
    MAX_HEADER_BYTES,
    MAX_TENSOR_BYTES,
    WeightsHeader,
    header_length,
    header_problems,
    parse_header,
)

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("attempt", "parent", "expected"),
    [(1, None, "0706354cdb0d"), (2, None, "326d0e263fe0"), (1, "0706354cdb0d", "0896cbfabfeb")],
)
def test_run_ids_are_stable(attempt: int, parent: str | None, expected: str) -> None:
    # If these ids changed, every existing stack would train everything again.
    assert run_id(b"{}", b"job: extension\n", attempt, parent) == expected


def test_object_keys_are_stable() -> None:
    """Users' buckets and the policies of their nodes have these keys."""
    layout = Layout("team/")
    run = layout.run("cat", "0a1b")
    assert (layout.owner, layout.datasets, layout.runs) == (
        "team/.flux/owner.json",
        "team/datasets/",
        "team/runs/",
    )
    assert layout.dataset("d1") == "team/datasets/d1/"
    assert layout.dataset_indexes == "team/.flux/datasets/"
    assert layout.dataset_index("d1") == "team/.flux/datasets/d1.json"
    assert layout.dataset_references("d1") == "team/.flux/references/d1/"
    base = "team/runs/cat/0a1b/"
    assert (run.base, run.config, run.output, run.model) == (
        base,
        f"{base}config/",
        f"{base}output/",
        f"{base}model/",
    )
    own = "team/.flux/runs/cat/0a1b/"
    assert (run.claim, run.posted, run.results) == (
        f"{own}claim.json",
        f"{own}posted.json",
        f"{own}results.json",
    )
    assert (run.record, run.progress) == (
        f"{base}output/run.json",
        f"{base}output/progress.json",
    )
    assert (run.weights, run.done) == (f"{base}model/cat.safetensors", f"{base}model/done.json")


@pytest.mark.parametrize(
    ("state", "needs_gpu"),
    [
        (RunState.NEW, True),
        (RunState.PENDING, True),
        (RunState.RUNNING, True),
        (RunState.STALLED, True),
        (RunState.CANCELED, True),  # declared again, it is queued again
        (RunState.FAILED, False),
        (RunState.WITHOUT_WEIGHTS, False),
        (RunState.COMPLETED, False),
    ],
)
def test_which_states_need_a_gpu(state: RunState, needs_gpu: bool) -> None:
    assert state.needs_gpu == needs_gpu


def test_an_unknown_kelpie_status_is_neither_an_error_nor_an_end() -> None:
    assert run_state("paused", ModelFolderContents(False)) is RunState.UNKNOWN
    assert not RunState.UNKNOWN.has_ended
    assert not RunState.UNKNOWN.needs_gpu


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5369, "89 min"),
        (5400, "1 h 30 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "evidence", "words"),
    [
        ("completed", ModelFolderContents(True), ""),
        ("pending", ModelFolderContents(False), ""),
        ("running", ModelFolderContents(True, ("cut",)), ""),
        (
            "completed without weights",
            ModelFolderContents(False),
            "the worker reported the job as completed, but there are no weights in the bucket",
        ),
        (
            "lost",
            ModelFolderContents(False),
            "Kelpie no longer knows the job, and there are no weights in the bucket",
        ),
        ("failed", ModelFolderContents(False), "the job has reached the maximum number of failed attempts"),
        ("canceled", ModelFolderContents(False), "the job was canceled in the queue"),
        (
            "failed",
            ModelFolderContents(True, ("cut", "old")),
            "the weights in the bucket are not valid: cut; old",
        ),
    ],
)
def test_failed_runs_are_explained(state: str, evidence: ModelFolderContents, words: str) -> None:
    assert explain_failure(RunState(state), evidence) == words
    assert explain_failure(RunState(state), evidence, "out of memory") == (
        f"{words}: out of memory" if words else ""
    )
    assert explain_failure(RunState(state), evidence, stalled="silent") == words


def test_stalls_are_explained() -> None:
    assert explain_failure(RunState.STALLED, ModelFolderContents(False), "step 5", "silent") == "silent"
    assert explain_failure(RunState.STALLED, ModelFolderContents(False)) == ""
    assert run_state("running", ModelFolderContents(False)) == "running"
    assert stall(LastContact(1801, 0), 30) == (
        "no node has reported it for 30 min: its node is gone and no other node takes it (none is available, or it failed on each)"
    )
    assert stall(LastContact(0, 3601), 30) == (
        "its worker reports it, but nothing has been written to the bucket for 60 min: the launcher hangs or the node cannot "
        "upload"
    )


def weights(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("length", "taken"),
    [(0, False), (1, False), (2, True), (MAX_HEADER_BYTES, True), (MAX_HEADER_BYTES + 1, False)],
)
def test_header_length_is_limited(length: int, taken: bool) -> None:
    raw = struct.pack("<Q", length)
    if taken:
        assert header_length(raw) == length
        return
    with pytest.raises(ValueError, match=r"^the file does not begin with a safetensors header$"):
        header_length(raw)


def test_a_file_shorter_than_a_header_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^the file is shorter than a safetensors header$"):
        header_length(b"1234567")


def test_the_header_is_parsed_and_checked() -> None:
    tensors = {"a": {"data_offsets": [0, 8]}, "b": {"data_offsets": [8, 12]}}
    raw = weights({**tensors, "__metadata__": {"training_info": '{"step": 7}'}}, b"x" * 12)
    assert parse_header(raw) == WeightsHeader(2, len(raw), 7)
    empty = weights({})
    assert parse_header(empty) == WeightsHeader(0, len(empty), None)
    assert header_problems(parse_header(empty), len(empty), 7) == [
        "they contain no tensor",
        "they are from step None, not from the last step (7)",
    ]
    assert header_problems(WeightsHeader(1, 10, 7), 9, 7) == [
        "they are 9 bytes long, but their header says 10"
    ]


@pytest.mark.parametrize("end", [0, MAX_TENSOR_BYTES])
def test_tensor_ends_within_the_limit_are_accepted(end: int) -> None:
    raw = weights({"a": {"data_offsets": [0, end]}})
    header = parse_header(raw)
    assert header.data_end == len(raw) + end
    # What is accepted can be recorded.
    assert PinnedWeights(sha256="0" * 64, size=header.data_end, step=1, etag="e").size == header.data_end


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": {"data_offsets": [0, -1]}},
        {"a": {"data_offsets": [0, MAX_TENSOR_BYTES + 1]}},
        77,
        {"a": 1},
        {"a": {}},
        {"a": {"data_offsets": [0]}},
        {"a": {"data_offsets": [0, None]}},
        b'{"a": {"data_offsets": [0, 1e999]}}',
        b"\xff\xff",
        b'{"a": ' + DEEP,
    ],
)
def test_invalid_weights_headers_are_rejected(header: Any) -> None:
    with pytest.raises(ValueError, match=r"^the safetensors header cannot be parsed$"):
        parse_header(weights(header))


@pytest.mark.parametrize(
    "metadata",
    [None, [], {}, {"training_info": 7}, {"training_info": "{}"}, {"training_info": "x"}]
    + [{"training_info": info} for info in ('{"step": null}', '{"step": 1e999}', DEEP.decode())],
)
def test_invalid_steps_in_weights_are_none(metadata: Any) -> None:
    assert parse_header(weights({"__metadata__": metadata})).step is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"images": 7}',
        b'{"images": {"a": 7}}',
        b'{"images": {"a": {"size": 1}}}',
        b'{"images": {"a": {"size": 1e999, "sha256": "", "caption": ""}}}',
        b'{"images": ' + DEEP,
    ],
)
def test_invalid_manifests_are_rejected(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a manifest$"):
        parse_manifest(raw)
    assert parse_dataset_record(raw) == {}


def test_a_dataset_record_that_would_need_gigabytes_is_none() -> None:
    """16 MB of `[],` would become a gigabyte of lists."""
    image = json.dumps({"a.jpg": {"size": 1, "sha256": "0" * 64}}).encode()
    assert list(parse_dataset_record(b'{"images": ' + image + b"}")) == ["a.jpg"]
    bomb = b'{"images": ' + image + b', "x": [' + b"[]," * 5_000_000 + b"[]]}"
    assert parse_dataset_record(bomb) == {}
