"""How `up` ends once the jobs have: well, or with what there is to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flux_training.commands.results.outputs import Fetched
from flux_training.commands.stack import command as stack
from flux_training.commands.stack.engine import Engine
from flux_training.commands.watch.job_status import Sight, StackJob
from flux_training.commands.watch.watcher import Row, View
from flux_training.training.runs.run import RunKeys

ENTRY = {"runId": "0123456789ab", "steps": 300, "folder": "runs/cat/0123456789ab/"}
Up = Callable[..., list[str]]


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Up:
    """The closing words of an `up` whose jobs ended in these states, some without their results fetched."""

    def closing(unfetched: tuple[str, ...] = (), **states: str) -> list[str]:
        rows = [
            Row(Sight(StackJob(name, "0123456789ab", "", 300, RunKeys("r/", name)), state, "", {}, None), None, None, "", "", "")
            for name, state in states.items()
        ]  # fmt: skip

        def fetch(sight: Sight, *_rest: object) -> Fetched:
            failed = ["cat.safetensors: No space left on device"] if sight.job.name in unfetched else []
            return Fetched(tmp_path, 1, 0, [], failed)

        engine = SimpleNamespace(outputs=lambda: {"jobs": dict.fromkeys(states, ENTRY)})
        monkeypatch.setattr(stack, "connection_of", lambda *_: None)
        monkeypatch.setattr(stack, "Watcher", lambda *_: SimpleNamespace(storage=None, local=True))
        monkeypatch.setattr(stack, "follow", lambda _: View(rows))
        monkeypatch.setattr(stack, "fetch", fetch)
        monkeypatch.setattr(stack, "read_json", lambda *_: {})
        monkeypatch.setattr(stack, "write_report", lambda *_: tmp_path / "report.html")
        return [str(fault) for fault in stack.unwell(*stack._collect(cast(Engine, engine), "dev"))]

    return closing


def test_when_all_is_well_nothing_is_said(up: Up) -> None:
    assert up(cat="completed", dog="completed") == []


def test_results_that_could_not_be_fetched_are_not_well(up: Up) -> None:
    (words,) = up(("cat",), cat="completed", dog="completed")
    assert words.startswith("results of 1 of the jobs were not fetched (cat); they lie in the bucket")
    assert "attempt" not in words


def test_a_job_that_failed_is_told_with_what_trains_it_again(up: Up) -> None:
    failed, unfetched = up(("dog",), cat="failed", dog="completed", owl="canceled")
    assert failed.startswith("2 of the jobs did not end well (cat, owl)")
    assert "set `attempt: 2`" in failed
    assert "(dog)" in unfetched


def test_nobody_is_told_to_train_a_stalled_job_from_the_start(up: Up) -> None:
    """`attempt` would cancel it; it only waits for another node."""
    (words,) = up(cat="stalled", dog="completed")
    assert words.startswith("1 of the jobs do not get on (cat)")
    assert "attempt" not in words
