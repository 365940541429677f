import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud.testing import running_cloud
from warm_python import MODULES, warm_python

from flux_training.commands.stack.engine import find_cli
from tests.life import stacks

# What the program imports, and with it nearly all that it needs.
PROGRAM = ("components.pipeline", "components.preparation", "flux_training.clients.stack.survey")


@pytest.fixture(scope="session", autouse=True)
def virtualenv() -> Iterator[None]:
    """New stacks have a virtual environment whose interpreter starts fast."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warm_python(Path(folder) / "venv", (*MODULES, *PROGRAM), stacks.ROOT) as made,
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
