"""What the documents tell to type exists: commands, their options, targets of make, settings."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from commands.__main__ import COMMANDS
from training.settings import StackSettings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALL = re.compile(r"\./flux ([a-z]+)([^`\n]*)")
TARGET = re.compile(r"`make ([a-z]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_told_exists_with_its_options(document: Path) -> None:
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_that_is_told_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(TARGET.findall(document.read_text(encoding="utf-8"))) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_in_an_example_is_one(document: Path) -> None:
    known = {field.alias or name for name, field in StackSettings.model_fields.items()}
    examples = re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    keys = re.findall(r"flux-training:([A-Za-z]+):", "\n".join(examples))
    assert [key for key in keys if key not in known] == []
    for example in examples:
        yaml.safe_load(
            "\n".join(line.removeprefix("   ") for line in example.split("\n"))
            if example[:1] == " "
            else example
        )
