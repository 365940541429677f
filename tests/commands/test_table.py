"""The table of jobs, what it says is wrong, and what a run has cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from flux_training.clients.gpu_classes import GpuClass
from flux_training.clients.kelpie import Job
from flux_training.clients.salad import ContainerGroup
from flux_training.commands.watch.health import problems
from flux_training.commands.watch.job_status import Sight, StackJob
from flux_training.commands.watch.logs import lines_of_job
from flux_training.commands.watch.table import render
from flux_training.commands.watch.watcher import Row, View, usd_an_hour
from flux_training.training.cost import usd_of
from flux_training.training.runs.run import RunKeys

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def sight(name: str, state: str, /, minutes: float = 0, reason: str = "", **progress: object) -> Sight:
    created = NOW - timedelta(minutes=minutes)
    status = "running" if state == "stalled" else state
    queue = Job(id=name, container_group_id="g", status=status, created=created, machine_id="machine-12345")
    job = StackJob(name, "0123456789ab", name, 300, RunKeys(f"runs/{name}/0123456789ab/", name))
    return Sight(job, state, reason, progress, queue)


def row(seen: Sight, problem: str = "", spent: float | None = None) -> Row:
    return Row(seen, 0.45, spent, "machine-12345", "", problem)


@pytest.mark.parametrize(
    ("sights", "wrong"),
    [
        ([sight("a", "completed"), sight("b", "running"), sight("c", "pending", 5)], set()),
        ([sight("a", "running"), sight("b", "pending", 300)], set()),
        ([sight("a", "completed"), sight("b", "pending", 16)], {"b"}),
        ([sight("a", "failed", reason="why")], {"a"}),
        (
            [sight("a", "canceled"), sight("b", "lost"), sight("c", "completed without weights")],
            {"a", "b", "c"},
        ),
        ([sight("a", "stalled", reason="no node")], {"a"}),
    ],
)
def test_a_job_is_unwell_when_it_ended_badly_or_nothing_moves(sights: list[Sight], wrong: set[str]) -> None:
    assert set(problems(sights, NOW)) == wrong


def drawn(view: View, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - nothing is kept
    console.print(render(view, width, local=False))
    return console.export_text()


TRAINING = sight(
    "chelsea-cat",
    "running",
    state="training",
    step=120,
    loss_smoothed=0.4123,
    eta_seconds=3700,
    gpu_seconds=3600,
    restarts=2,
)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_at_any_width_a_row_is_one_line_with_what_matters(width: int) -> None:
    view = View([row(TRAINING, spent=0.45)])
    lines = drawn(view, width).splitlines()
    assert all(len(line) <= width for line in lines)
    for word in ("chelsea-cat", "training", "120/300", "0.4123", "62 min", "$0.45"):
        assert word in lines[1]
    assert ("machine-" in lines[1]) == (width >= 84)


def test_what_is_wrong_stands_below_and_markup_of_others_is_plain_text() -> None:
    view = View([row(sight("cat", "failed", reason="[bold]x[/bold]"), "failed: [bold]x[/bold]")])
    assert not view.well
    assert "cat: failed: [bold]x[/bold]" in drawn(view, 100)


def test_what_a_node_says_cannot_move_the_cursor() -> None:
    view = View([row(sight("cat", "running", state="tra\x1b[2Jin\ring"))])
    assert "\x1b" not in drawn(view, 100)


GROUP = {
    "id": "g",
    "name": "g",
    "replicas": 1,
    "priority": "low",
    "container": {"image": "i", "resources": {"cpu": 1, "memory": 1024, "gpu_classes": ["a", "b"]}},
    "current_state": {"status": "running"},
}


def test_the_price_is_that_of_the_dearest_class_at_the_groups_priority() -> None:
    classes = [
        GpuClass.model_validate({"id": name, "name": name, "prices": [{"priority": "low", "price": price}]})
        for name, price in (("a", "0.20"), ("b", "0.30"), ("c", "9.00"))
    ]
    group = ContainerGroup.model_validate(GROUP)
    assert usd_an_hour(group, classes) == 0.30
    assert usd_an_hour(group.model_copy(update={"priority": "high"}), classes) is None


def test_cost_is_time_by_price_and_unknown_without_one_of_them() -> None:
    assert usd_of(5400, 0.30) == pytest.approx(0.45)
    assert (usd_of(None, 1.0), usd_of(1, None)) == (None, None)


def test_of_a_nodes_log_a_job_gets_its_own_lines() -> None:
    lines = ["boot", "1 node received job a", "x", "2 node received job b", "y", "3 node received job a", "z"]
    assert lines_of_job(lines, "a") == ["1 node received job a", "x", "3 node received job a", "z"]
    assert lines_of_job(lines, "c") == []
