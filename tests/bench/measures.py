"""How long our functions and files are, beside others': `python -m bench.measures [NAME=FOLDER …]`.

Ours are measured folder by folder; each NAME=FOLDER adds a row, such as a checkout of a model named in docs/decisions/0015.
"""

import ast
import statistics
import sys
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


def row(name: str, folders: list[Path]) -> str:
    """One row of the table."""
    found = sorted(length for folder in folders for length in functions(folder))
    lines = [length.lines for length in found]
    longest = max(length for folder in folders for length in files(folder))
    return (
        f"| {name} | {len(lines)} | {statistics.median(lines):.0f} | {lines[int(len(lines) * 0.9)]} | {lines[-1]} ({found[-1].what}) "
        f"| {longest.lines} ({longest.what}) |"
    )


def main(others: list[str]) -> None:
    print("| code | functions | median lines | 90 % have at most | the longest | the longest file |")
    print("|---|---|---|---|---|---|")
    print(row("**all of ours**", [ROOT / name for name in OURS]))
    for name in OURS:
        print(row(f"{name}/", [ROOT / name]))
    for other in others:
        name, _, folder = other.partition("=")
        print(row(name, [Path(folder)]))


if __name__ == "__main__":
    main(sys.argv[1:])
