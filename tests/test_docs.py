"""The commands, options, make targets, settings, links and documents that the documents name exist."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flux_training.commands.main import COMMANDS
from flux_training.training.settings import StackSettings
from tests.support.citations import unresolved
from tests.support.documents import DATED, DOCUMENTS, LANGUAGES, NEEDS, ROOT, blocks, commands, fault
from tests.test_imports import FOLDERS, MAY_IMPORT
from tests.test_measures import tracked

CALL = re.compile(r"\./flux ([a-z]+)([^`\n]*)")
TARGET = re.compile(r"`make ([a-z-]+)")
# `folder/test_a.py::test_b`, below tests/; without a file, in the one that is named before.
TEST = re.compile(r"`([\w./-]+\.py)?::(test_\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ALL = [*DOCUMENTS, *DATED]
# Not a package: its files lie beside the job on a node, as in the trainer's image.
IMAGE = ROOT / "packages/localcloud/localcloud/trainer"
# The base class, and the component that holds the others.
NO_ROW = {"FluxResource", "FluxProvider", "TrainingPipeline"}


TEXT_FILES = ("", ".hcl", ".md", ".py", ".sh", ".toml", ".yaml", ".yml")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", ALL, ids=place)
def test_every_command_exists_with_its_options(document: Path) -> None:
    unknown = []
    for name, rest in CALL.findall(document.read_text(encoding="utf-8")):
        if name not in COMMANDS:
            unknown.append(name)
            continue
        module, attribute = COMMANDS[name].split(":")
        command = getattr(importlib.import_module(module), attribute)
        known = {option for parameter in command.params for option in parameter.opts}
        unknown += [f"{name} {option}" for option in re.findall(r"--[a-z-]+", rest) if option not in known]
    assert unknown == []


@pytest.mark.parametrize("document", ALL, ids=place)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(TARGET.findall(document.read_text(encoding="utf-8"))) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_every_code_block_has_a_language_and_valid_commands(document: Path) -> None:
    """tests/e2e/test_documents.py also runs those that need nothing special."""
    found = blocks(document)
    fences = re.findall(r"^ *```", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(found)
    for block in found:
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'nothing'} behind the fence"
        assert [word for word in block.needs if word not in NEEDS] == [], block.place
        if block.language != "sh":
            assert block.needs == (), f"{block.place} holds no commands"
            continue
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        faults = [fault(words, block.needs) for words in commands(block)]
        assert faults, f"{block.place} is empty"
        assert list(filter(None, faults)) == [], block.place


@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_every_setting_in_an_example_exists(document: Path) -> None:
    known = {field.alias or name for name, field in StackSettings.model_fields.items()}
    for block in blocks(document):
        if block.language == "yaml":
            keys = re.findall(r"flux-training:([A-Za-z]+):", block.text)
            assert [key for key in keys if key not in known] == [], block.place
            yaml.safe_load(block.text)


@pytest.mark.parametrize("document", ALL, ids=place)
def test_every_link_resolves(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = document if not path else document.parent / path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_cited_document_exists() -> None:
    """In comments, docstrings and documents. Packages cite only their own documents."""
    files = [path for path in tracked() if path.suffix in TEXT_FILES and path.name != "LICENSE"]
    assert unresolved(ROOT, files) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=place)
def test_every_source_file_that_is_named_exists(document: Path) -> None:
    tops = [ROOT, ROOT / "/".join(document.relative_to(ROOT).parts[:2])]
    named = re.findall(r"`([\w./-]+/[\w-]+\.(?:py|yml|toml|lock))`", document.read_text(encoding="utf-8"))
    assert [path for path in named if not any((top / path).exists() for top in tops)] == []


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub generates from headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs/engine.md").read_text(
        encoding="utf-8"
    )
    stated = {Path(link.partition("#")[0]).name for link in LINK.findall(text)}
    assert [path.name for path in (ROOT / "docs").glob("*.md") if path.name not in stated] == []


def test_every_decision_is_in_the_index_with_its_date() -> None:
    folder = ROOT / "docs/decisions"
    rows = re.findall(r"\[(\d{4})\]\((\S+?)\), (\d{4}-\d\d-\d\d)", (folder / "README.md").read_text("utf-8"))
    written = []
    for path in sorted(folder.glob("0*.md")):
        head = re.match(r"# (\d{4}) .* \((\d{4}-\d\d-\d\d)\)\n", path.read_text(encoding="utf-8"))
        assert head, f"{path.name} does not begin with its number, name and date"
        written.append((head[1], path.name, head[2]))
    assert rows == written


def test_every_resource_has_a_row_in_architecture() -> None:
    stated = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Resources")[2]
    names = {
        node.name
        for path in (ROOT / "components").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any("Resource" in ast.unparse(base) for base in node.bases)
    }
    resources = {"ContainerGroup" if name == "TrainingGroup" else name for name in names} - NO_ROW
    assert len(resources) > 5
    assert [name for name in sorted(resources) if f"`{name}`" not in stated] == []


def test_architecture_states_the_allowed_imports() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Resources")[0]
    stated = {
        folder: set() if allowed == "nothing" else set(allowed.split(", "))
        for folder, allowed in re.findall(r"^\| `([\w.]+)` \| .* \| ([a-z_., ]+) \|$", text, re.MULTILINE)
    }
    assert stated == MAY_IMPORT


@pytest.mark.parametrize(
    "top", [*(place for place in FOLDERS.values() if place != "__main__.py"), "tests/bench"]
)
def test_every_package_has_a_short_docstring(top: str) -> None:
    packages = {path.parent for path in (ROOT / top).rglob("*.py")} - {IMAGE}
    assert packages
    for package in packages:
        text = (package / "__init__.py").read_text(encoding="utf-8")
        lines = (ast.get_docstring(ast.parse(text)) or "").split("\n")
        assert 1 <= len([line for line in lines if line]) <= 4, package


def test_wrong_commands_are_detected() -> None:
    for line in (
        "make trian",
        "./flux tarin",
        "./flux status --wach",
        "./flux webhook listen",
        ".venv/bin/python -m localcloud chaos bad-cpu",
        ".venv/bin/python -m pulumi_embedded output",
        ".venv/bin/python -m pytest tests/none",
        "curl http://127.0.0.1",
        "rm -rf x",
        "cp none.example x",
    ):
        assert fault(line.split(), ()), line


def test_the_list_of_targets_fits_a_terminal_and_tells_users_from_developers() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    train, change = done.stdout.split("To change this project:\n")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "  make up " in train
    assert "  make ready " in train
    assert "  make test " not in train
    assert "  make test " in change


@pytest.mark.parametrize("name", ["0032-real-inputs.md", "0052-real-captioning-server.md"])
def test_the_tests_that_tables_of_inputs_name_exist(name: str) -> None:
    named = TEST.findall((ROOT / "docs/decisions" / name).read_text(encoding="utf-8"))
    assert len(named) > 20
    file, missing = "", []
    for given, test in named:
        file = given or file
        if f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8"):
            missing.append(f"{file}::{test}")
    assert not missing
