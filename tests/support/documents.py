"""The documents, and the code blocks in them.

Blocks marked `sh` hold commands, which tests/e2e/test_documents.py runs. A block that cannot be run there is preceded by a comment such
as `<!-- needs: salad -->`, with words from NEEDS.
"""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich_click as click
from localcloud.__main__ import parser as localcloud_parser
from pulumi_embedded.cli.main import make_parser as engine_parser

from flux_training.commands.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
# In the order in which their commands are run.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / ".github/CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
    *sorted((ROOT / "packages").glob("*/docs/*.md")),
    ROOT / "docker/README.md",
]
DATED = [*sorted((ROOT / "docs/decisions").glob("*.md")), ROOT / "docs/changelog.md"]
NEEDS = {
    "salad": "an account at SaladCloud and a bucket",
    "docker": "Docker, and a registry to push to",
    "internet": "downloads from elsewhere than a package index",
    "time": "minutes to hours",
    "an empty environment": "a new virtual environment, activated",
    "a running training": "a job that is being trained",
    "the real Kelpie": "the real Kelpie API and worker on this machine",
}
# Other programs that a block may call, and the need that it must then declare.
PROGRAMS = {
    ".": "",
    "cp": "",
    "cd": "",
    "pip": "an empty environment",
    "python": "an empty environment",
    "docker/build.sh": "docker",
    "curl": "internet",
    "sha256sum": "",
    "git": "internet",
    "uv": "internet",
    ".venv/bin/uv": "time",
    ".ci/packages": "time",
}
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
NEEDED = re.compile(r"<!-- needs: ([^>]+) -->\n\Z")
LANGUAGES = ("sh", "python", "yaml", "text", "json", "mermaid")


@dataclass(frozen=True)
class Block:
    """A fenced block without its indentation. `needs` is empty if it can be run here."""

    document: Path
    line: int
    language: str
    needs: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [_block(document, text, match) for match in FENCE.finditer(text)]


def _block(document: Path, text: str, match: re.Match[str]) -> Block:
    indent = match["indent"]
    inner = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
    needed = NEEDED.search(text[: match.start()])
    needs = tuple(word.strip() for word in needed[1].split(",")) if needed else ()
    return Block(document, text.count("\n", 0, match.start()) + 1, match["language"], needs, inner)


def command_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document) if block.language == "sh"]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command in a block, without comments and leading variable assignments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip("|&;"):
                words.append(word)
                continue
            while words and (words[0] == "export" or re.match(r"\w+=", words[0])):
                words.pop(0)
            if words:
                yield words
            words = []


def fault(words: Sequence[str], needs: Sequence[str]) -> str:
    """Why a command is wrong; empty if it is right."""
    program, rest = words[0], list(words[1:])
    if program == "make":
        return _fault_of_make(rest)
    if program == "./flux":
        return _fault_of_flux(rest)
    if program in ("localcloud", "pulumi-embedded"):
        return _fault_of_module(program.replace("-", "_"), rest)
    if program in ("pulumi", ".venv/bin/pulumi"):
        return _fault_of_module("pulumi_embedded", rest)
    if program == ".venv/bin/python" and rest[:1] == ["-m"]:
        return _fault_of_module(rest[1], rest[2:])
    if program not in PROGRAMS:
        return f"{program} is not among the programs that a block may call (tests/support/documents.py)"
    if PROGRAMS[program] and PROGRAMS[program] not in needs:
        return f"{program} needs {PROGRAMS[program]}, and the block does not say so"
    if program == "cp" and not (ROOT / rest[0]).exists():
        return f"there is no {rest[0]}"
    return "" if "/" not in program or (ROOT / program).exists() else f"there is no {program}"


def _fault_of_make(words: list[str]) -> str:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"make has no target {unknown[0]}" if unknown else ""


def _fault_of_flux(words: list[str]) -> str:
    if not words or words[0] not in COMMANDS:
        return f"flux has no command {words[:1]}"
    module, attribute = COMMANDS[words[0]].split(":")
    command, rest = getattr(importlib.import_module(module), attribute), words[1:]
    if isinstance(command, click.Group):
        found = command.commands.get(rest[0]) if rest else None
        if found is None:
            return f"flux {words[0]} has no command {rest[:1]}"
        command, rest = found, rest[1:]
    try:
        # Checks options and their number of values; runs nothing.
        command.make_parser(click.Context(command)).parse_args(rest)
    except click.UsageError as error:
        return f"{' '.join(words)}: {error.format_message()}"
    return ""


def _fault_of_module(module: str, arguments: list[str]) -> str:
    parsers = {"localcloud": localcloud_parser, "pulumi_embedded": engine_parser}
    if module in parsers:
        try:
            parsers[module]().parse_args(arguments)
        except SystemExit:
            return f"python -m {module} does not take {' '.join(arguments)}"
        return ""
    if module == "pytest":
        missing = [word for word in arguments if "/" in word and not (ROOT / word).exists()]
        return f"there is no {missing[0]}" if missing else ""
    return "" if importlib.util.find_spec(module) else f"there is no module {module}"
