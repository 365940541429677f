import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcloud.testing import running_cloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a local cloud without nodes: jobs wait in its queue."""
    home = tmp_path_factory.mktemp("cloud")
    with running_cloud(home, nodes=0, autoscaler_seconds=0.2):
        yield home


NO_CLI = pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="no `pulumi` on the PATH: only the embedded engine is tried"
)


@pytest.fixture(params=["embedded", pytest.param("cli", marks=NO_CLI)])
def engine(request: pytest.FixtureRequest) -> str:
    """Which Pulumi runs the stacks."""
    chosen: str = request.param
    return chosen
