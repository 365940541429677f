"""Cost and budget with a real engine and a real local cloud."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bill import EARLIER_STEPS, INTERRUPTIONS_AN_HOUR, MANY_STEPS, STEPS, compare
from tests.e2e.checkout import FAST_CLOUD, Checkout, new_checkout

CHANGES = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
def checkout(tmp_path: Path, virtualenv: Path) -> Iterator[Checkout]:
    """Its cloud has no nodes and no quota, so queued jobs stay unfinished."""
    cloud = f"{FAST_CLOUD} --nodes 0 --quota 0"
    with new_checkout(tmp_path / "checkout", cloud=cloud, virtualenv=virtualenv) as fresh:
        yield fresh


@pytest.mark.long
def test_above_the_budget_nothing_is_created(checkout: Checkout) -> None:
    checkout.configure("budget", {"maxUsd": 0.01, "maxUsdPerJob": 0.002})
    for target in ("preview", "up"):
        printed = checkout.make(target, code=2)
        assert re.search(
            r"error: budget\.maxUsdPerJob is \$0\.0020, but cat would cost up to \$0\.\d+ \(20 steps, ",
            printed,
        )
        assert re.search(
            r"error: budget\.maxUsd is \$0\.0100, but this would cost up to \$0\.\d+ on RTX 5090 \(32 GB\)",
            printed,
        )
        assert "Traceback" not in printed
    checkout.configure("budget", {"maxUsdPerDay": 0.0})
    assert re.search(
        r"cat waits: it may cost \$0\.\d+, more than budget\.maxUsdPerDay \(\$0\.00\)",
        checkout.make("preview"),
    )
    checkout.configure("budget", None)
    for command in (["preview"], ["plan"]):
        assert "no RTX 5090 (32 GB) is free at priority high now; jobs wait until one is" in checkout.flux(
            *command
        )
    checkout.configure("cluster", {"gpu": "RTX 5900"})
    printed = checkout.make("preview", code=2)
    assert "error: SaladCloud offers no GPU with the name or UUID 'RTX 5900'" in printed
    assert "similar names: RTX 5090 (32 GB)" in printed
    changes = [entry for entry in checkout.requests() if entry["method"] in CHANGES]
    assert [entry["path"] for entry in changes if "/availability/" not in entry["path"]] == []
    assert checkout.resources() == []


@pytest.mark.long
def test_the_chosen_gpu_is_kept_while_runs_are_unfinished_even_if_prices_change(checkout: Checkout) -> None:
    checkout.configure("cluster", {"gpu": ">= 24 GB", "maxReplicas": 2})
    checkout.make("cloud")
    checkout.engine("stack", "select", "--create", "dev")
    checkout.engine("up", "--yes", "--skip-preview")
    (group,) = [one for one in checkout.resources() if one["type"].endswith(":ContainerGroup")]
    gpu = group["inputs"]["gpu"]
    assert gpu in ("RTX 3090 (24 GB)", "RTX 4090 (24 GB)", "RTX 5090 (32 GB)")

    checkout.make("down")
    catalog = checkout.root / "packages/localcloud/localcloud/salad/catalog.py"
    prices = catalog.read_text(encoding="utf-8")
    dearer = re.sub(rf'("{re.escape(gpu)}"), "[0-9.]+"', r'\1, "9.000"', prices)
    assert dearer != prices
    catalog.write_text(dearer, encoding="utf-8")
    printed = checkout.make("preview")
    assert f"Estimated cost on {gpu} at priority high, $9.000 an hour" in printed
    assert "ContainerGroup" not in printed

    checkout.declare(cat={"attempt": 2}, dog={})
    assert "ContainerGroup" not in checkout.make("preview")
    checkout.configure("cluster", {"gpu": ">= 32 GB", "maxReplicas": 2})
    assert '=> "RTX 5090 (32 GB)"' in checkout.make("preview")


@pytest.mark.long
def test_the_estimate_is_within_a_tenth_of_the_bill(tmp_path: Path) -> None:
    found = compare(tmp_path / "checkout", [20], STEPS)
    print(found)
    assert abs(found.error) < 0.1


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_most_bills_are_inside_their_range_although_nodes_are_taken_away(tmp_path: Path) -> None:
    found = compare(tmp_path / "checkout", EARLIER_STEPS, MANY_STEPS, INTERRUPTIONS_AN_HOUR)
    print(found)
    assert len(found.jobs) == 20
    assert any(job.machines > 1 for job in found.jobs)
    assert found.inside >= 17
