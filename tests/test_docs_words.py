"""Words: what troubleshooting.md quotes is really said, and what the glossary puts aside is said nowhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, ROOT

GLOSSARY = ROOT / "docs/glossary.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
PRODUCT = ("components", "flux_training", "packages/pulumi-embedded/pulumi_embedded")
# What a value is put into, as the documents write it.
GAP = "…"
# Names of others in a document's code: options, paths, what a service answers.
QUOTED_CODE = re.compile(r"`[^`]*`")


@cache
def texts(path: Path) -> tuple[str, ...]:
    """The texts of a module that are no docstrings; of an f-string, its parts with … between them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found, inside = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)} - {id(node)}
            found.append(
                "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
            found.append(node.value)
    return tuple(found)


def modules() -> list[Path]:
    return [ROOT / "__main__.py", *(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))]


def said() -> list[str]:
    """Everything that the product can print."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    local_cloud = [
        text for path in (ROOT / "packages/localcloud/localcloud").rglob("*.py") for text in texts(path)
    ]
    return [text for path in modules() for text in texts(path)] + local_cloud + makefile


def is_said(quote: str, everything: list[str]) -> bool:
    """Whether one text holds the quote's parts in their order, its gaps filled with anything."""
    parts = [re.escape(part.strip()) for part in quote.split(GAP) if part.strip()]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in everything)


def quotes() -> Iterator[str]:
    """The code in the first column of each row below a head that begins with `printed`."""
    printed = False
    for line in TROUBLESHOOTING.read_text(encoding="utf-8").splitlines():
        cells = line.split(" | ")
        if not line.startswith("|"):
            printed = False
        elif cells[0] == "| printed":
            printed = True
        elif printed and not line.startswith("|--"):
            yield from re.findall(r"`([^`]+)`", cells[0])


def test_every_quoted_message_is_in_the_code() -> None:
    found, everything = list(quotes()), said()
    assert len(found) > 30
    assert [quote for quote in found if not is_said(quote, everything)] == []
    assert not is_said("no node wants it for … days", everything)


def put_aside() -> dict[str, str]:
    """A word that is not to be used → the one that is."""
    rows = re.findall(
        r"^\| \*\*([^*]+)\*\*.*\| ([^|]*) \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {word: right for right, others in rows for word in others.split(", ") if word.strip()}


def pattern_of(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE)


@pytest.mark.parametrize("word", sorted(put_aside()))
def test_a_word_that_was_put_aside_is_not_used(word: str) -> None:
    pattern = pattern_of(word)
    found = [
        str(path.relative_to(ROOT))
        for path in DOCUMENTS
        if path != GLOSSARY and pattern.search(QUOTED_CODE.sub("", path.read_text(encoding="utf-8")))
    ]
    for path in modules():
        name = str(path.relative_to(ROOT))
        if name.startswith("packages/pulumi-embedded/"):
            # The engine says what the CLI says, word by word.
            continue
        found += [f"{name}: {text[:80]}" for text in texts(path) if pattern.search(text)]
    assert found == [], f"say `{put_aside()[word]}`"
