"""Nothing grows past what a person reads at once, but for the reasons that stand here."""

from __future__ import annotations

import pytest

from tests.bench.measures import OURS, ROOT, files, functions

MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 500
LONGER_FILES = {"flux_training/node/launch.py": "one file travels to the node, and needs nothing else there"}


@pytest.mark.parametrize("folder", OURS)
def test_functions_and_files_stay_readable(folder: str) -> None:
    found = list(functions(ROOT / folder))
    assert found
    assert [one for one in found if one.lines > MOST_LINES_OF_A_FUNCTION] == []
    assert [
        one
        for one in files(ROOT / folder)
        if one.lines > MOST_LINES_OF_A_FILE and one.what not in LONGER_FILES
    ] == []


def test_every_package_says_what_belongs_there() -> None:
    """In its `__init__`, which is the first that a newcomer opens; tests, measurements and folders of scripts aside."""
    silent = [
        path.relative_to(ROOT).as_posix()
        for folder in OURS
        for path in (ROOT / folder).rglob("__init__.py")
        if not path.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []
