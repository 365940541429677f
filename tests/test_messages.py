"""Commands in messages can be typed as shown: `flux_command` and `make_command` add the stack, which a literal text would lack."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_measures import ROOT, tracked

COMMAND = re.compile(r"`(?:\./flux|make) ([a-z]+)(?! STACK=)\b")
# They are about the machine, the tool, all stacks or a job folder.
WITHOUT_STACK = {"cloud", "down", "aws", "ready", "generated", "models", "new", "caption"}
# Left out: generated documents, which are about no stack, and `flux init`, whose messages are about other projects.
FILES = [
    path
    for path in tracked("*.py")
    if path.parts[len(ROOT.parts)] in ("__main__.py", "components", "flux_training")
    and path.name not in ("document.py", "reference.py")
    and path.parent.name != "init"
]


def texts(path: Path) -> Iterator[str]:
    """The text constants of a module that are no docstrings, with the constant parts of f-strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_about_a_stack_name_it(path: Path) -> None:
    named = {command for text in texts(path) for command in COMMAND.findall(text)}
    assert named <= WITHOUT_STACK


def test_sentences_are_wrapped_on_a_terminal() -> None:
    """`say` prints lines as they are; a sentence needs `say_wrapped`, so that no word is cut at the terminal's width."""
    unwrapped = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in FILES
        if path.is_relative_to(ROOT / "flux_training/commands")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "say"
        if max(map(len, _constant_text(call.args[0]).split("\n"))) > 40
    ]
    assert unwrapped == []


def _constant_text(text: ast.expr) -> str:
    parts = [part.value for part in ast.walk(text) if isinstance(part, ast.Constant)]
    return "".join(part for part in parts if isinstance(part, str))
