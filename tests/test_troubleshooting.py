"""docs/troubleshooting.md quotes messages that the program really prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.documents import ROOT

TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
SOURCES = (
    "components",
    "flux_training",
    "packages/pulumi-embedded/pulumi_embedded",
    "packages/localcloud/localcloud",
)
# Stands for a value in a quoted message.
GAP = "…"


def texts(path: Path) -> Iterator[str]:
    """The string literals of a module; in f-strings, each value becomes GAP."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def printable() -> list[str]:
    modules = [ROOT / "__main__.py", *(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))]
    scripts = [
        line
        for name in ("Makefile", "flux")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    return [text for path in modules for text in texts(path)] + scripts


def is_printed(quote: str, everything: list[str]) -> bool:
    """Whether one text holds the quote's parts in order, with anything in its gaps."""
    parts = [re.escape(part.strip()) for part in quote.split(GAP) if part.strip()]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in everything)


def quotes() -> Iterator[str]:
    """The code in the first column of each table whose first heading begins with `message`."""
    in_table = False
    for line in TROUBLESHOOTING.read_text(encoding="utf-8").splitlines():
        cells = line.split(" | ")
        if not line.startswith("|"):
            in_table = False
        elif cells[0] == "| message":
            in_table = True
        elif in_table and not line.startswith("|--"):
            yield from re.findall(r"`([^`]+)`", cells[0])


def test_every_quoted_message_is_in_the_code() -> None:
    found, everything = list(quotes()), printable()
    assert len(found) > 30
    assert [quote for quote in found if not is_printed(quote, everything)] == []
    assert not is_printed("no node wants it for … days", everything)
