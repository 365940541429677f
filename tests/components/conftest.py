"""Fixtures of more than one file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components import claims, queueing
from tests.components.in_memory import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    time = SimpleNamespace(monotonic=lambda: made.now)
    monkeypatch.setattr(queueing, "time", time)
    monkeypatch.setattr(queueing, "pause", made.sleep)
    monkeypatch.setattr(claims, "time", time)
    monkeypatch.setattr(claims, "_now", lambda: made.now)
    return made
