"""Imports point one way (docs/architecture.md): drawn from the source, so that a wrong one names file and line."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Package → where it lies.
FOLDERS = {
    "__main__": "__main__.py",
    "components": "components",
    "flux_training.commands": "flux_training/commands",
    "flux_training.clients": "flux_training/clients",
    "flux_training.training": "flux_training/training",
    "flux_training.node": "flux_training/node",
    "pulumi_embedded": "packages/pulumi-embedded/pulumi_embedded",
    "localcloud": "packages/localcloud/localcloud",
}
MAY_IMPORT = {
    "__main__": {"components", "flux_training.clients", "flux_training.training"},
    "components": {"flux_training.clients", "flux_training.node", "flux_training.training"},
    "flux_training.commands": {"flux_training.clients", "flux_training.training"},
    "flux_training.clients": {"flux_training.training"},
    "flux_training.training": set[str](),
    "flux_training.node": set[str](),
    "pulumi_embedded": set[str](),
    "localcloud": set[str](),
}
LAUNCHER = ROOT / "flux_training/node/launcher"
STANDARD_LIBRARY_ONLY = [
    ROOT / "flux_training/node/archive_main.py",
    *sorted(LAUNCHER.glob("*.py")),
]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def package_of(module: str) -> str:
    """Which of ours a module belongs to; empty for others."""
    return next((name for name in FOLDERS if f"{module}.".startswith(f"{name}.")), "")


def sources(package: str) -> list[Path]:
    place = ROOT / FOLDERS[package]
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_point_one_way(package: str) -> None:
    assert sources(package)
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {module}"
        for file in sources(package)
        for line, module in imports(file)
        if package_of(module) not in ("", package) and package_of(module) not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("path", STANDARD_LIBRARY_ONLY, ids=lambda path: path.name)
def test_the_launcher_imports_only_the_standard_library(path: Path) -> None:
    """And its own modules, which are all that the archive holds."""
    assert [
        module
        for _, module in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names
        and not module.startswith("flux_training.node.launcher.")
    ] == []


def test_training_imports_neither_pulumi_nor_network_modules() -> None:
    network = {"pulumi", "httpx", "boto3", "socket", "urllib", "requests"}
    assert [
        f"{file.name}: {module}"
        for file in sources("flux_training.training")
        for _, module in imports(file)
        if module.split(".")[0] in network
    ] == []
