"""What tests of several folders need."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import MODULES, warm_python

# What `flux` and the program import, apart from the project's own code: each checkout has its own copy of that.
LIBRARIES = (
    "boto3",
    "httpx",
    "markdown_it",
    "obstore.store",
    "PIL.Image",
    "psutil",
    "pydantic",
    "rich.markup",
    "rich.progress",
    "rich.syntax",
    "rich_click.rich_help_rendering",
    "tenacity",
    "yaml",
)


@pytest.fixture(scope="session")
def virtualenv() -> Iterator[Path]:
    """A virtual environment whose interpreter starts fast; `make` takes it for complete."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warm_python(Path(folder) / "venv", (*MODULES, *LIBRARIES)) as made,
    ):
        (made / "ready").touch()
        yield made
