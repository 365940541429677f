"""Digests, run ids, YAML, weights and run states, also with generated inputs."""

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_training.clients.datasets import parse_dataset_record
from flux_training.training.dataset.manifest import (
    Image,
    dataset_digest,
    dataset_index,
    manifest_json,
)
from flux_training.training.runs.run import run_id
from flux_training.training.runs.run_state import (
    LastContact,
    ModelFolderContents,
    RunState,
    describe_unqueued_runs,
    explain_failure,
    run_state,
    stall,
)
from flux_training.training.runs.weights import header_length, header_problems, parse_header
from flux_training.training.train_yml.trainer_config import read_trainer_file

names = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)
digests = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)
image_sets = st.dictionaries(names, st.tuples(st.integers(0, 10**9), digests), min_size=1, max_size=6).map(
    lambda entries: {name: Image(name, size, sha256) for name, (size, sha256) in entries.items()}
)


@given(image_sets, st.randoms())
def test_dataset_digest_ignores_the_order_of_images(images: dict[str, Image], random: Random) -> None:
    shuffled = list(images.items())
    random.shuffle(shuffled)
    assert dataset_digest(dict(shuffled)) == dataset_digest(images)
    assert {name: one.image for name, one in parse_dataset_record(dataset_index(images)).items()} == images


@given(image_sets, digests)
def test_dataset_digest_depends_on_each_image(images: dict[str, Image], sha256: str) -> None:
    name = next(iter(images))
    changed = images | {name: Image(name, images[name].size, sha256)}
    assert (dataset_digest(changed) == dataset_digest(images)) == (changed == images)


@given(image_sets, st.text(max_size=20))
def test_a_caption_changes_the_manifest_but_not_the_dataset(images: dict[str, Image], caption: str) -> None:
    before = manifest_json(images, dict.fromkeys(images, "a cat"))
    after = manifest_json(images, dict.fromkeys(images, "a cat") | {next(iter(images)): caption})
    assert (before == after) == (caption == "a cat")


run_parts = st.tuples(st.binary(max_size=30), st.binary(max_size=30), st.integers(1, 50), st.none() | names)


@given(run_parts, run_parts)
def test_run_ids_are_equal_only_for_equal_inputs(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (run_id(*one) == run_id(*other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e-4", 1.5e-4),
        ("2E+3", 2000.0),
        (".5", 0.5),
        ("4", 4),
        ("true", True),
        ("1e", "1e"),
        ("off", False),
    ],
)
def test_yaml_values_are_read_as_ai_toolkit_reads_them(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "cat/train.yml"
    path.parent.mkdir()
    path.write_text(f"job: extension\nconfig: {{name: cat, x: {text}}}\nmeta: {{name: '[name]-v1'}}\n")
    file = read_trainer_file(path.parent)
    config = file.document["config"]
    assert (config["x"], type(config["x"])) == (value, type(value))
    assert file.document["meta"]["name"] == "cat-v1"
    assert file.raw == path.read_bytes()


def safetensors(step: int | None, size: int = 16) -> bytes:
    header: dict[str, object] = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    if step is not None:
        header["__metadata__"] = {"training_info": json.dumps({"step": step, "epoch": 1})}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (safetensors(20), []),
        (safetensors(20)[:-1], ["but their header says"]),
        (safetensors(19), ["they are from step 19"]),
        (safetensors(None), ["they are from step None"]),
        (safetensors(10) + b"x", ["but their header says", "from step 10"]),
    ],
)
def test_weights_must_be_complete_and_from_the_last_step(raw: bytes, words: list[str]) -> None:
    found = header_problems(parse_header(raw), len(raw), 20)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@given(st.binary(max_size=200))
def test_header_parser_raises_only_value_error(raw: bytes) -> None:
    try:
        header_length(raw)
        parse_header(raw)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("queue", "evidence", "state"),
    [
        ("pending", ModelFolderContents(False), "pending"),
        ("running", ModelFolderContents(False), "running"),
        ("completed", ModelFolderContents(True), "completed"),
        ("completed", ModelFolderContents(False), "completed without weights"),
        ("completed", ModelFolderContents(True, ("cut",)), "completed without weights"),
        ("canceled", ModelFolderContents(True), "completed"),
        ("canceled", ModelFolderContents(False), "canceled"),
        ("running", ModelFolderContents(True, ("missing",)), "running"),
        ("failed", ModelFolderContents(False), "failed"),
        (None, ModelFolderContents(True), "completed"),
        (None, ModelFolderContents(False), "lost"),
    ],
)
def test_run_state_depends_on_queue_and_weights(
    queue: str | None, evidence: ModelFolderContents, state: str
) -> None:
    assert run_state(queue, evidence) == state
    assert bool(explain_failure(RunState(state), evidence)) == (
        state in ("completed without weights", "failed", "lost", "canceled")
    )


@pytest.mark.parametrize(
    ("worker", "launcher", "words"),
    [
        (0, 0, ""),
        (1800, 0, ""),
        (1801, 0, "no node has reported it for 30 min"),
        (86400, 86400, "no node has reported it for 24 h 0 min"),
        (29, 3600, ""),
        (29, 3601, "nothing has been written to the bucket for 60 min"),
    ],
)
def test_a_run_is_stalled_if_worker_or_launcher_is_silent(worker: float, launcher: float, words: str) -> None:
    found = stall(LastContact(worker, launcher), stall_minutes=30)
    assert words in found
    assert bool(found) == bool(words)


def test_a_stall_needs_three_missed_heartbeats() -> None:
    assert stall(LastContact(90, 0, heartbeat_interval=30), stall_minutes=0.1) == ""
    assert stall(LastContact(91, 0, heartbeat_interval=30), stall_minutes=0.1) != ""


@pytest.mark.parametrize(
    ("queue", "evidence", "state"),
    [
        ("running", ModelFolderContents(False), "stalled"),
        ("running", ModelFolderContents(True), "completed"),
        ("pending", ModelFolderContents(False), "pending"),
        ("failed", ModelFolderContents(False), "failed"),
        (None, ModelFolderContents(False), "lost"),
    ],
)
def test_only_running_runs_can_be_stalled(
    queue: str | None, evidence: ModelFolderContents, state: str
) -> None:
    assert run_state(queue, evidence, stalled="silent") == state
    assert (explain_failure(RunState(state), evidence, "", "silent") == "silent") == (state == "stalled")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"cat": RunState.COMPLETED, "dog": RunState.RUNNING, "owl": RunState.FAILED}, ""),
        ({"fox": RunState.NEW}, ""),
        (
            {
                "owl": RunState.NEW,
                "cat": RunState.CANCELED,
                "dog": RunState.COMPLETED,
                "fox": RunState.NEW,  # waits for the budget
            },
            "A refresh queues nothing: `make up` trains cat, owl.",
        ),
    ],
)
def test_a_refresh_names_the_runs_that_it_does_not_queue(states: dict[str, RunState], said: str) -> None:
    assert describe_unqueued_runs(states, "`make up`", {"fox"}) == said
