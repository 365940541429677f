"""JSON schemas, which let editors complete and check a stack's configuration and train.yml."""

import json
from pathlib import Path
from typing import Any

from flux_training.training import train_yml
from flux_training.training.lint.rules import RULES
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.known_keys import KNOWN_KEYS

DIALECT = "http://json-schema.org/draft-07/schema#"
PROJECT = "flux-training"
ENCRYPTED = {
    "type": "object",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}

Schema = dict[str, Any]

# The schemas of the keys that people edit, by section of KNOWN_KEYS; other keys have only a name.
KEY_SCHEMAS: dict[str, dict[str, Schema]] = json.loads(
    Path(train_yml.__file__).with_name("key_schemas.json").read_text(encoding="utf-8")
)


def train_schema() -> Schema:
    """For jobs/*/train.yml."""
    config = _section("config")
    config["properties"]["process"] = {"type": "array", "minItems": 1, "maxItems": 1, "items": _section("")}
    config["required"] = ["name", "process"]
    return {
        "$schema": DIALECT,
        "title": "train.yml of a job folder, for ai-toolkit",
        "type": "object",
        "properties": {"job": {"enum": ["extension", "train"]}, "config": config, "meta": {"type": "object"}},
        "required": ["job", "config"],
    }


def stack_schema() -> Schema:
    """For Pulumi.<stack>.yaml."""
    found = StackSettings.model_json_schema()
    definitions: dict[str, Schema] = found.pop("$defs")
    definitions["LintSettings"]["properties"]["silence"] = _silence()
    definitions["ClusterSettings"]["properties"]["environment"]["additionalProperties"] = {
        "anyOf": [{"type": "string"}, ENCRYPTED]
    }
    settings = {f"{PROJECT}:{key}": _may_be_encrypted(value) for key, value in found["properties"].items()}
    jobs = settings[f"{PROJECT}:jobs"]
    jobs["additionalProperties"] = {"anyOf": [jobs["additionalProperties"], {"type": "null"}]}
    known = "|".join(sorted(found["properties"]))
    return {
        "$schema": DIALECT,
        "title": "A stack's configuration: Pulumi.<stack>.yaml",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": settings,
                "required": [f"{PROJECT}:{key}" for key in found["required"]],
                # Other providers may have settings here as well.
                "patternProperties": {f"^{PROJECT}:(?!({known})$)": False},
            }
        },
        "required": ["config"],
        "$defs": definitions,
    }


def _section(name: str) -> Schema:
    """The schema of a section of train.yml, with the sections below it. ai-toolkit ignores unknown keys."""
    properties: dict[str, Schema] = {}
    for key in sorted(KNOWN_KEYS[name]):
        below = f"{name}.{key}".lstrip(".")
        if below in KNOWN_KEYS:
            properties[key] = _section(below)
        elif f"{below}[]" in KNOWN_KEYS:
            properties[key] = {"type": "array", "items": _section(f"{below}[]")}
        else:
            properties[key] = KEY_SCHEMAS.get(name or "process", {}).get(key, {})
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _silence() -> Schema:
    return {
        "type": "object",
        "description": "Lint rules to ignore for this job, each with the reason.",
        "properties": {
            rule.code: {
                "type": "string",
                "pattern": r"\S",
                "description": f"The reason. {rule.code}: {rule.why}.",
            }
            for rule in RULES.values()
            if not rule.always
        },
        "additionalProperties": False,
    }


def _may_be_encrypted(value: Schema) -> Schema:
    """Optional settings may be secrets, as `pulumi config set --secret` writes them."""
    choices = value.get("anyOf", [])
    return {**value, "anyOf": [*choices, ENCRYPTED]} if {"type": "null"} in choices else value
