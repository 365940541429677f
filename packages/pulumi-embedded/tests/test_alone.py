"""The package is independent: it imports nothing else from the repository and does not mention what uses it."""

import re

from engine_stack import PACKAGE_FOLDER, EngineStack

FILES = sorted((PACKAGE_FOLDER / "pulumi_embedded").rglob("*.py"))


def test_the_package_does_not_mention_what_uses_it() -> None:
    words = re.compile(r"flux|salad|kelpie|lora\b|train(ing|er)|gpu", re.IGNORECASE)
    for path in [*FILES, PACKAGE_FOLDER / "README.md"]:
        assert not words.findall(path.read_text()), path.name


def test_scripts_for_the_programs_python_do_not_import_the_engine() -> None:
    for name in ("program/runner.py", "program/dynamic_host.py", "program/lazy_automation.py"):
        assert "pulumi_embedded" not in re.findall(
            r"^(?:from|import) (\w+)", (PACKAGE_FOLDER / "pulumi_embedded" / name).read_text(), re.M
        )


def test_progress_messages_of_providers_are_shown_at_once(stack: EngineStack) -> None:
    urn = "urn:pulumi:dev::test::pulumi-python:dynamic/test:Thing::one"
    stack.spec({"one": {"text": "a", "urn": urn, "says": ["10 of 20", "20 of 20"]}})
    output = stack.up()
    assert output.count("10 of 20") == 1
    assert "20 of 20" not in output  # not more than one in a few seconds where nothing can be overwritten
    assert "Diagnostics" not in output
