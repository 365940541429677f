"""`flux offers`: GPU classes with prices, availability and estimates, against the local cloud."""

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from localcloud.testing import running_cloud
from rich.console import Console

from flux_training.clients.connection import connect
from flux_training.clients.gpu_classes import GpuAvailability
from flux_training.clients.salad import Salad
from flux_training.clients.stack.pricing import price_stack, unavailable_gpu_warnings
from flux_training.clients.stack.services import StackServices
from flux_training.commands.jobs.offers import _table, offer_row, offers, read_offers
from flux_training.commands.stack.file import stack_settings
from flux_training.training.bill import FREE
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.cost import Bill, Line, Rate, StackBill
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.runs.run_state import RunState
from tests.support.flux import make_checkout
from tests.training.job_folders import make_job

Run = Callable[..., str]
LINE = Line("cat", "new", 100, None, None, "")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), nodes=0) as running:
        yield running


@pytest.fixture
def checkout(tmp_path: Path, cloud: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_checkout(tmp_path / "checkout")
    for job in ("chelsea-cat", "coffee-cup"):
        make_job(root / "jobs", job)
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FLUX_LOCAL_CLOUD", str(Path(cloud["request_log"]).parent / "connection.json"))
    return root


@pytest.mark.usefixtures("checkout")
def test_each_class_has_price_availability_and_estimate_in_eighty_columns(run: Run) -> None:
    lines = run(offers).splitlines()
    assert lines[0] == "RTX 5090 at priority high"
    assert lines[1].split() == ["GPU", "class", "$/hour", "Free", "Time", "Dollars"]
    assert lines[-2:] == ["* has less memory than the jobs need", FREE]
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("RTX 3060")]
    assert " * " in row


@pytest.mark.usefixtures("checkout")
def test_ranges_are_whole_in_a_narrow_terminal() -> None:
    """The names of the classes wrap in their place."""
    (found,) = read_offers("dev").values()
    console = Console(width=60, file=io.StringIO())
    console.print(_table(found))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert len(lines) > len(found) + 1
    for offer in found:
        *_, time, dollars = offer_row(offer)
        assert any(line.endswith(f"{time}  {dollars}") for line in lines)


@pytest.mark.usefixtures("checkout")
def test_json_begins_with_the_cheapest_class_that_fits(run: Run) -> None:
    found = json.loads(run(offers, "--json"))["clusters"][""]
    fitting = [offer["usd"]["likely"] for offer in found if offer["fits"]]
    assert fitting == sorted(fitting)
    assert [offer["fits"] for offer in found] == sorted((offer["fits"] for offer in found), reverse=True)
    assert all(
        offer["available"] > 0 and offer["seconds"]["low"] < offer["seconds"]["high"] for offer in found
    )


def test_a_class_without_free_nodes_is_a_warning_if_something_is_trained(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = StackServices(connect("local", {}, os.environ), stack_settings(checkout, "dev"))
    rate = Rate("RTX 5090 (32 GB) or RTX 4090 (24 GB)", "high", 0.45)
    bill = StackBill({"": Bill(rate, (LINE,))})
    assert unavailable_gpu_warnings(services, bill, "prod") == []
    found = Salad.gpu_availability

    def none_left(salad: Salad, gpu: str) -> Any:
        return found(salad, gpu).model_copy(update={"available_gpu_high": 0})

    monkeypatch.setattr(Salad, "gpu_availability", none_left)
    assert unavailable_gpu_warnings(services, bill, "prod") == [
        "no RTX 5090 (32 GB) or RTX 4090 (24 GB) is free at priority high now; jobs wait until one is; `./flux offers --stack prod` lists the others"
    ]
    assert unavailable_gpu_warnings(services, StackBill({"": Bill(rate, ())}), "prod") == []


@pytest.mark.parametrize("gpu", ["RTX 4090", ["RTX 4090", "RTX 3090"], "cheapest"])
@pytest.mark.parametrize(
    ("free", "group", "state", "chosen"),
    [
        ({"batch", "low", "high"}, None, RunState.NEW, "batch"),
        ({"low", "high"}, None, RunState.NEW, "low"),
        (set(), None, RunState.NEW, "high"),
        # The group keeps its priority while runs are unfinished, and when nothing is to be trained.
        ({"batch"}, "low", RunState.RUNNING, "low"),
        ({"batch"}, "low", RunState.COMPLETED, "low"),
        ({"batch"}, "low", RunState.NEW, "batch"),
        ({"batch"}, "medium", RunState.RUNNING, "batch"),
    ],
)
def test_the_first_priority_is_chosen_at_which_a_node_is_free(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: object,
    free: set[str],
    group: str | None,
    state: RunState,
    chosen: str,
) -> None:
    make_job(checkout / "jobs", "first")
    settings = stack_settings(checkout, "dev")
    choice = ClusterSettings.model_validate({"gpu": gpu, "priority": ["batch", "low", "high"]})
    services = StackServices(
        connect("local", {}, os.environ), settings.model_copy(update={"cluster": choice})
    )
    monkeypatch.setattr(
        Salad,
        "gpu_availability",
        lambda *_: GpuAvailability.model_validate({f"available_gpu_{priority}": 1 for priority in free}),
    )
    existing = SimpleNamespace(
        priority=group, container=SimpleNamespace(resources=SimpleNamespace(gpu_classes=[]))
    )
    monkeypatch.setattr(Salad, "get_group", lambda *_: existing if group else None)
    jobs = declare_jobs(services.settings)
    bill = price_stack(services, jobs, {job.name: state for job in jobs}).clusters[""]
    assert bill.rate.priority == chosen
