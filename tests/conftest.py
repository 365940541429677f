"""What tests of several folders need."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import MODULES, warm_python

from tests.support.browser import END
from tests.support.libraries import LIBRARIES


@pytest.fixture(scope="session", autouse=True)
def end_of_browser() -> Iterator[None]:
    yield
    END.close()


@pytest.fixture(scope="session")
def virtualenv() -> Iterator[Path]:
    """A virtual environment whose interpreter starts fast; `make` takes it for complete."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warm_python(Path(folder) / "venv", (*MODULES, *LIBRARIES)) as made,
    ):
        (made / "ready").touch()
        yield made
