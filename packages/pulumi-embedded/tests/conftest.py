"""A stack for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_stack import EngineStack, new_stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EngineStack]:
    """A new stack `dev`, gone with all its processes at the end."""
    made = new_stack(tmp_path)
    yield made
    made.clean_up()
