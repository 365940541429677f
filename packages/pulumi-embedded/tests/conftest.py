"""A stack for each test."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_stack import EngineStack, new_stack
from warm_python import warm_python

# A shell that starts the tests in the background has Ctrl-C ignored, and processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def virtualenv() -> Iterator[Path]:
    """A virtual environment whose interpreter starts fast."""
    with tempfile.TemporaryDirectory() as folder, warm_python(Path(folder) / "venv") as made:
        yield made


@pytest.fixture
def stack(tmp_path: Path, virtualenv: Path) -> Iterator[EngineStack]:
    """A new stack `dev`, gone with all its processes at the end."""
    made = new_stack(tmp_path, virtualenv=virtualenv)
    yield made
    made.clean_up()
