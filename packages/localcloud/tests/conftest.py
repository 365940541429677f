"""Fixtures of several modules."""

from collections.abc import Iterator
from typing import Any

import pytest
from localcloud.testing import running_cloud


@pytest.fixture(scope="module")
def connection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A cloud for all tests of a module. CLOUD_SETTINGS in the module changes its settings."""
    settings = {"nodes": 0} | getattr(request.module, "CLOUD_SETTINGS", {})
    with running_cloud(tmp_path_factory.mktemp("module") / "cloud", **settings) as running:
        yield running
