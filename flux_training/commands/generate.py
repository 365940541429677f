"""Generates schemas/*.json, docs/lint.md, docs/models.md, docs/commands.md and docs/settings.md. `make generated` runs it."""

import json
from pathlib import Path

from flux_training.commands.main import main
from flux_training.commands.reference import commands_document, settings_document
from flux_training.commands.stack.project import project_root
from flux_training.training.lint.document import lint_document
from flux_training.training.models.document import models_document
from flux_training.training.schemas import stack_schema, train_schema


def generated_files() -> dict[str, str]:
    """Contents by path."""
    return {
        "schemas/stack.schema.json": json.dumps(stack_schema(), indent=2) + "\n",
        "schemas/train.schema.json": json.dumps(train_schema(), indent=2) + "\n",
        "docs/lint.md": lint_document(),
        "docs/models.md": models_document(),
        "docs/commands.md": commands_document(main),
        "docs/settings.md": settings_document(),
    }


def write_generated_files(root: Path) -> None:
    for name, content in generated_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write_generated_files(project_root())
