"""`flux costs`, against runs in the local cloud's bucket."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from localcloud.testing import running_cloud

from flux_training.clients.connection import connect
from flux_training.commands.costs.command import costs, note_about_uncounted_runs
from flux_training.commands.stack.file import stack_settings
from flux_training.training.estimates.actuals import RunCost, Waste
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.run import Layout
from tests.support.flux import make_checkout

Run = Callable[..., str]
# Nodes can write these records: the name of a GPU must not be read as rich's markup, nor as a spreadsheet's formula.
ESTIMATE = {
    "usd": 0.4,
    "usd_low": 0.3,
    "usd_high": 0.6,
    "usd_an_hour": 0.5,
    "gpu": "=RTX [/x] (32 GB)",
    "idle_seconds": 600.0,
}
PROGRESS = {"state": "finished", "step": 100, "steps": 100, "seconds_per_step": 30.0, "start_seconds": 200.0}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), nodes=0) as running:
        yield running


@pytest.fixture
def checkout(tmp_path: Path, cloud: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished runs in the bucket, the second of them interrupted once and outside its range, and one without progress."""
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FLUX_LOCAL_CLOUD", str(Path(cloud["request_log"]).parent / "connection.json"))
    storage = connect("local", {}, os.environ).storage(stack_settings(root, "dev").storage.bucket)
    storage.ensure()
    runs = (("cat", "a" * 12, 3200.0, 0), ("dog", "b" * 12, 7200.0, 1), ("new", "c" * 12, None, 0))
    for job, run, seconds, restarts in runs:
        keys = Layout("").run(job, run)
        record = {"job": job, "run_id": run, "created_at": "2026-11-30T12:00:00+00:00", "estimate": ESTIMATE}
        storage.put_bytes(keys.record, json.dumps(record).encode())
        if seconds is not None:
            progress = {**PROGRESS, "gpu_seconds": seconds, "restarts": restarts}
            storage.put_bytes(keys.progress, json.dumps(progress).encode())
    return root


@pytest.mark.usefixtures("checkout")
def test_runs_months_classes_and_waste_are_shown_in_eighty_columns(run: Run) -> None:
    lines = run(costs).splitlines()
    assert max(len(line) for line in lines if not line.startswith("- ")) <= 80
    assert lines[0].split() == ["Job", "Run", "Month", "Estimate", "Cost", "Error"]
    assert [line.split()[0] for line in lines[1:3]] == ["cat", "dog"]
    assert [line.split()[-1] for line in lines[1:3]] == ["+11%", "*"]
    assert "* outside the estimated range" in lines
    assert any(line.split()[0] == "2026-11" and line.endswith("1 of 2") for line in lines[3:] if line)
    assert "Paid time that trained nothing: 1.6 h of 3.2 h" in lines
    assert "  idle after the last job: 20 min" in lines
    assert any(line.startswith("- 10% of the paid time is idle") for line in lines)
    assert any(line.startswith("- 33% of the paid time repeats steps") for line in lines)


def test_runs_that_the_totals_leave_out_are_counted() -> None:
    finished = RunCost(
        "cat", "a" * 12, "2026-11", "RTX", "finished", Range(0.3, 0.4, 0.6), 0.5, 3600.0, Waste()
    )
    canceled = replace(finished, state="canceled", usd=0.2)
    assert note_about_uncounted_runs([finished]) == ""
    assert (
        "leave out 1 run that did not finish (yet), or without an estimate: $0.20."
        in note_about_uncounted_runs([finished, canceled])
    )


@pytest.mark.usefixtures("checkout")
def test_json_and_csv_have_the_same_runs(run: Run) -> None:
    document = json.loads(run(costs, "--json"))
    rows = list(csv.DictReader(io.StringIO(run(costs, "--csv"))))
    assert [one["run_id"] for one in document["runs"]] == [row["run_id"] for row in rows]
    assert [row["gpu"] for row in rows] == ["'=RTX [/x] (32 GB)"] * 2
    assert [float(row["usd"]) for row in rows] == [one["usd"] for one in document["runs"]]
    assert document["runs"][1]["waste"] == {
        "downloads": 0.0,
        "loading": 200.0,
        "starts": 200.0,
        "repeated": 3800.0,
        "idle": 600.0,
    }
    assert [one["inside"] for one in document["runs"]] == [True, False]
