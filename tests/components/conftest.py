"""Fixtures of more than one file."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from localcloud.testing import running_cloud

from flux_training.clients.connection import Connection, connect
from flux_training.clients.queue import claims, posting
from tests.components.in_memory import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    time = SimpleNamespace(monotonic=lambda: made.now)
    monkeypatch.setattr(posting, "time", time)
    monkeypatch.setattr(posting, "pause", made.sleep)
    monkeypatch.setattr(claims, "time", time)
    monkeypatch.setattr(claims, "_now", lambda: made.now)
    return made


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A local cloud without nodes."""
    with running_cloud(tmp_path_factory.mktemp("cloud"), nodes=0) as running:
        yield running


@pytest.fixture(scope="module")
def connection(cloud: dict[str, Any]) -> Connection:
    file = Path(cloud["request_log"]).parent / "connection.json"
    return connect("local", {}, {"FLUX_LOCAL_CLOUD": str(file)})
