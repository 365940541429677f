"""Fixtures of more than one file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components import queueing
from tests.components.in_memory import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(queueing, "time", SimpleNamespace(sleep=made.sleep, monotonic=lambda: made.now))
    monkeypatch.setattr(queueing, "_now", lambda: made.now)
    return made
