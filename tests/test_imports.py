"""Imports point one way (DESIGN.md): drawn from the source, so that a wrong one names file and line."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("clients", "commands", "components", "engine", "localcloud", "node", "supply", "training")
MAY_IMPORT = {
    "__main__": {"components", "clients", "training"},
    "components": {"clients", "training"},
    "commands": {"clients", "training"},
    "clients": {"training"},
    "training": set[str](),
    "engine": set[str](),
    "localcloud": set[str](),
    "node": set[str](),
    "supply": set[str](),
}
STANDARD_LIBRARY_ONLY = [ROOT / "node/launch.py"]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, top-level module) of every import, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    files = [ROOT / "__main__.py"] if folder == "__main__" else sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in files
        for line, module in imports(file)
        if module in FOLDERS and module != folder and module not in MAY_IMPORT[folder]
    ]
    assert wrong == []


@pytest.mark.parametrize("path", STANDARD_LIBRARY_ONLY, ids=lambda path: path.name)
def test_what_runs_on_the_node_needs_nothing_installed(path: Path) -> None:
    assert [module for _, module in imports(path) if module not in sys.stdlib_module_names] == []


def test_training_knows_neither_pulumi_nor_the_network() -> None:
    network = {"pulumi", "httpx", "boto3", "socket", "urllib", "requests"}
    files = sorted((ROOT / "training").rglob("*.py"))
    assert [
        f"{file.name}: {module}" for file in files for _, module in imports(file) if module in network
    ] == []
