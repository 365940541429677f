import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud.testing import running_cloud
from warm_python import MODULES, warm_python

from flux_training.commands.stack.engine import find_cli
from tests.life import stacks
from tests.support.libraries import LIBRARIES

# What the program imports at once or when it needs it, and the engine.
PROGRAM = (
    "components.migration",
    "components.pinning",
    "components.pipeline",
    "components.preparation",
    "components.repair",
    "flux_training.clients.reachability",
    "flux_training.clients.stack.survey",
    "flux_training.training.stack_bill",
    "pulumi_embedded.cli.operations",
    "pulumi_embedded.cli.stacks",
    "tests.life.prepared",
)


@pytest.fixture(scope="session", autouse=True)
def virtualenv() -> Iterator[None]:
    """New stacks have a virtual environment whose interpreter starts fast."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warm_python(Path(folder) / "venv", (*MODULES, *LIBRARIES, *PROGRAM), stacks.ROOT) as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(stacks, "virtualenv", made)
        yield


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a local cloud without nodes: jobs wait in its queue."""
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0, autoscaler_seconds=0.2):
        yield home


NO_CLI = pytest.mark.skipif(
    find_cli() is None, reason="no `pulumi` on the PATH: only the embedded engine is tried"
)


@pytest.fixture(params=["embedded", pytest.param("cli", marks=NO_CLI)])
def engine(request: pytest.FixtureRequest) -> str:
    """Which Pulumi runs the stacks."""
    chosen: str = request.param
    return chosen
