"""Documents that comments, docstrings and documents cite, and the files that these citations lead to."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

# A path or a name, but no part of an address or of a glob.
CITED = re.compile(r"(?<![\w/.:*#-])(?:\.{1,2}/)*\w[\w./-]*\.md\b")
ADDRESS = re.compile(r"https?://\S+")
WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def unresolved(root: Path, files: list[Path]) -> list[str]:
    """`file:line cites DOCUMENT` for each citation in `files` that leads nowhere."""
    return [
        f"{path.relative_to(root).as_posix()}:{line} cites {cited}"
        for path in files
        for line, text in _texts(path)
        for cited in CITED.findall(ADDRESS.sub("", text))
        if not any((base / cited).is_file() for base in _bases(root, path))
    ]


def _bases(root: Path, path: Path) -> list[Path]:
    """The folders that a path may start from. A package stands alone, so it only cites documents of its own."""
    parts = path.relative_to(root).parts
    top = root / "packages" / parts[1] if parts[0] == "packages" else root
    if path.suffix != ".md":
        return [top]
    return [top, path.parent] if top != root else [top, path.parent, root / "docs", root / ".github"]


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of what people read: a document, the comments and docstrings of Python, the comments of other files."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _python_texts(source)
        return
    for number, line in enumerate(source.splitlines(), 1):
        if path.suffix == ".md" or "#" in line:
            yield number, line if path.suffix == ".md" else line.partition("#")[2]


def _python_texts(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, WITH_DOCSTRINGS) and ast.get_docstring(node):
            yield node.body[0].lineno, ast.get_docstring(node) or ""
