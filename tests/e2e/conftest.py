import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_training.commands.stack.engine import find_cli
from tests.e2e.checkout import Checkout, new_checkout

NO_CLI = pytest.mark.skipif(
    find_cli() is None, reason="no `pulumi` on the PATH: only the embedded engine is tried"
)
ENGINES: list[Any] = ["embedded", pytest.param("cli", marks=NO_CLI)]


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Which Pulumi runs the stacks."""
    return str(request.param)


@pytest.fixture
def checkout(tmp_path: Path, engine: str, virtualenv: Path) -> Iterator[Checkout]:
    """A checkout of the test's own, with nothing trained."""
    with new_checkout(tmp_path / "checkout", engine=engine, virtualenv=virtualenv) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def first_up(
    tmp_path_factory: pytest.TempPathFactory, engine: str, virtualenv: Path
) -> Iterator[tuple[Checkout, str]]:
    """A checkout whose two jobs `make up` has trained, and what that printed."""
    folder = tmp_path_factory.mktemp("trained")
    with new_checkout(folder / "checkout", engine=engine, virtualenv=virtualenv) as checkout:
        shutil.copytree(checkout.root / "jobs", checkout.root.parent / "jobs")
        printed = checkout.make("up")
        (folder / "state.json").write_text(json.dumps(checkout.state()), encoding="utf-8")
        yield checkout, printed


@pytest.fixture
def trained(first_up: tuple[Checkout, str]) -> Checkout:
    """The checkout of `first_up`, with the jobs, the state and one stack file as `make up` left them."""
    checkout = first_up[0]
    for other in checkout.root.glob("Pulumi.*.yaml"):
        if other.name != "Pulumi.dev.yaml":
            other.unlink()
    shutil.rmtree(checkout.root / "jobs")
    shutil.copytree(checkout.root.parent / "jobs", checkout.root / "jobs")
    checkout.declare(cat={}, dog={})
    if checkout.state() != json.loads((checkout.root.parent / "state.json").read_text(encoding="utf-8")):
        checkout.engine("up", "--yes", "--skip-preview")
    return checkout
