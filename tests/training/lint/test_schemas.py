"""Generated files are up to date; the schemas accept valid files and reject invalid ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from flux_training.commands.generate import generated_files
from flux_training.training.lint.rules import RULES
from flux_training.training.schemas import stack_schema, train_schema
from tests.training.lint_folders import TRAIN_YML

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "jobs").glob("*/train.yml"))


@pytest.mark.parametrize("name", generated_files())
def test_generated_files_are_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == generated_files()[name], "type `make generated`"


def test_every_rule_is_in_the_document() -> None:
    text = generated_files()["docs/lint.md"]
    assert [code for code in RULES if f"| `{code}` |" not in text] == []


@pytest.mark.parametrize("schema", [stack_schema(), train_schema()], ids=["stack", "train"])
def test_the_schemas_are_valid_json_schemas(schema: dict[str, Any]) -> None:
    Draft7Validator.check_schema(schema)


def refused(schema: dict[str, Any], document: object) -> list[str]:
    return [
        ".".join(map(str, error.absolute_path)) for error in Draft7Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_examples_fit_the_schema_that_their_first_line_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    schema = text.splitlines()[0].rpartition("$schema=")[2]
    assert (path.parent / schema).resolve() == ROOT / "schemas/train.schema.json"
    assert refused(train_schema(), yaml.safe_load(text)) == []


def test_the_dev_stack_fits_its_schema() -> None:
    text = (ROOT / "Pulumi.dev.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith("$schema=schemas/stack.schema.json")
    assert refused(stack_schema(), yaml.safe_load(text)) == []


STACK = {
    "config": {
        "flux-training:cloud": "salad",
        "flux-training:storage": {"bucket": "my-bucket"},
        "flux-training:jobs": {"cat": None, "dog": {"lint": {"silence": {"image-few": "a test"}}}},
        "flux-training:saladApiKey": {"secure": "v1:xyz"},
        "flux-training:cluster": {"environment": {"HF_TOKEN": {"secure": "v1:xyz"}}},
        "aws:region": "eu-central-1",
    }
}


def test_secrets_and_other_providers_settings_fit() -> None:
    assert refused(stack_schema(), STACK) == []


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("flux-training:clutser", {}, "config"),
        ("flux-trainig:budget", {"maxUsd": 1}, "config"),
        ("flux-training:cloud", "aws", "config.flux-training:cloud"),
        ("flux-training:storage", {"bucket": "NO"}, "config.flux-training:storage.bucket"),
        ("flux-training:cluster", {"cpu": 99}, "config.flux-training:cluster.cpu"),
    ],
)
def test_the_stack_schema_refuses_what_the_settings_refuse(key: str, value: object, place: str) -> None:
    assert place in refused(stack_schema(), {"config": {**STACK["config"], key: value}})


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("batch_size", "batchsize", "config.process.0.train"),
        ("folder_path: dataset", "folder_path: data", "config.process.0.datasets.0.folder_path"),
        ("steps: 2000", "steps: -1", "config.process.0.train.steps"),
        ("job: extension", "jobb: extension", ""),
    ],
)
def test_the_train_schema_refuses_what_lint_refuses(old: str, new: str, place: str) -> None:
    good = TRAIN_YML.format(name="cat")
    load: Callable[[str], object] = yaml.safe_load
    assert refused(train_schema(), load(good)) == []
    assert place in refused(train_schema(), load(good.replace(old, new, 1)))
