"""How long our functions and files are."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = (
    "components",
    "flux_training",
    "packages/pulumi-embedded/pulumi_embedded",
    "packages/localcloud/localcloud",
)


@dataclass(frozen=True, order=True)
class Length:
    """The number of lines of a function (`file:name`) or a file."""

    lines: int
    what: str


def functions(folder: Path) -> Iterator[Length]:
    """Every function and method, from its `def` to its last line."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Length((node.end_lineno or node.lineno) - node.lineno + 1, f"{path.name}:{node.name}")


def files(folder: Path) -> Iterator[Length]:
    for path in sorted(folder.rglob("*.py")):
        yield Length(
            len(path.read_text(encoding="utf-8").splitlines()), path.relative_to(folder.parent).as_posix()
        )
