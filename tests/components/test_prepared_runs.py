"""The files that the program leaves for the provider: checked against the run id, replaced by each update, removed once queued."""

from dataclasses import replace
from pathlib import Path

import pytest

from components.prepared_runs import (
    DETAILS,
    FOLDER,
    MANIFEST,
    PreparedRun,
    load_prepared,
    remove_prepared,
    write_prepared,
)
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import run_id

OWNER = "flux-training/dev"
RAW, MANIFEST_JSON = b"job: extension\n", b'{"images":{}}'
RUN = PreparedRun(
    "cat", run_id(MANIFEST_JSON, RAW, 2, "0a"), RAW, MANIFEST_JSON, 250, {"usd": 0.5}, None, "Qwen/Qwen-Image"
)


def load(root: Path, attempt: int = 2, parent: str | None = "0a") -> PreparedRun:
    return load_prepared(OWNER, "cat", RUN.run_id, attempt, parent, root)


def test_a_run_is_loaded_as_it_was_written(tmp_path: Path) -> None:
    write_prepared(OWNER, [RUN], tmp_path)
    assert load(tmp_path) == RUN


def test_each_update_replaces_the_runs_of_its_own_stack_only(tmp_path: Path) -> None:
    other = replace(RUN, job="dog")
    write_prepared(OWNER, [other], tmp_path)
    write_prepared("flux-training/prod", [other], tmp_path)
    write_prepared(OWNER, [RUN], tmp_path)
    left = sorted(
        path.relative_to(tmp_path / FOLDER).parts[1:3] for path in (tmp_path / FOLDER).glob("*/*/*")
    )
    assert left == [("dev", "cat"), ("prod", "dog")]
    remove_prepared(OWNER, "cat", RUN.run_id, tmp_path)
    remove_prepared(OWNER, "cat", RUN.run_id, tmp_path)
    with pytest.raises(FluxError, match=r"cannot be read .*run the same command again"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (MANIFEST, b'{"images":{"a.jpg":1}}', "do not belong to run"),
        (MANIFEST, None, "cannot be read"),
        (DETAILS, b"{", "cannot be read"),
        (DETAILS, b"[]", "cannot be read"),
        (DETAILS, b'{"save_every":null,"estimate":null}', "cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    write_prepared(OWNER, [RUN], tmp_path)
    place = tmp_path / FOLDER / OWNER / "cat" / RUN.run_id / name
    place.write_bytes(content) if content is not None else place.unlink()
    with pytest.raises(FluxError, match=problem):
        load(tmp_path)


@pytest.mark.parametrize(("attempt", "parent"), [(3, "0a"), (2, None)])
def test_files_of_another_attempt_or_parent_are_refused(
    tmp_path: Path, attempt: int, parent: str | None
) -> None:
    write_prepared(OWNER, [RUN], tmp_path)
    with pytest.raises(FluxError, match="do not belong to run"):
        load(tmp_path, attempt, parent)
