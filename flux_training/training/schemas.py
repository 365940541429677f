"""JSON schemas, which let editors complete and check a stack's configuration and train.yml."""

from typing import Any

from flux_training.training.lint.rules import RULES
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS, KeySpec, KeyType, section_below

DIALECT = "http://json-schema.org/draft-07/schema#"
PROJECT = "flux-training"
ENCRYPTED = {
    "type": "object",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}

Schema = dict[str, Any]
WHOLE: Schema = {"type": "integer"}
JSON_TYPES: dict[KeyType, Schema] = {
    KeyType.FLAG: {"type": ["boolean", "null"]},
    KeyType.INTEGER: WHOLE,
    # Editors follow YAML 1.2, which reads 1e-4 as a number; YAML 1.1 parsers read it as text.
    KeyType.NUMBER: {"type": ["number", "string"]},
    KeyType.NUMERIC: {"type": ["number", "string"]},
    KeyType.TEXT: {"type": "string"},
    KeyType.LIST: {"type": "array"},
    KeyType.NUMBER_OR_LIST: {"type": ["number", "array"]},
    KeyType.RESOLUTION: {"anyOf": [WHOLE, {"type": "array", "items": WHOLE, "minItems": 1}]},
    KeyType.MAPPING: {"type": "object"},
    KeyType.COLOR: {
        "type": "array",
        "items": WHOLE | {"minimum": 0, "maximum": 255},
        "minItems": 3,
        "maxItems": 3,
    },
}


def train_schema() -> Schema:
    """For jobs/*/train.yml."""
    config = _section_schema("config")
    config["properties"]["process"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "items": _section_schema("process"),
    }
    config["required"] = ["name", "process"]
    return {
        "$schema": DIALECT,
        "title": "train.yml of a job folder, for ai-toolkit",
        "type": "object",
        "properties": {"job": {"const": "extension"}, "config": config, "meta": {"type": "object"}},
        "required": ["job", "config"],
    }


def stack_schema(project: str = PROJECT) -> Schema:
    """For Pulumi.<stack>.yaml of the project with this name."""
    found = StackSettings.model_json_schema()
    definitions: dict[str, Schema] = found.pop("$defs")
    definitions["LintSettings"]["properties"]["silence"] = _silence()
    definitions["ClusterSettings"]["properties"]["environment"]["additionalProperties"] = {
        "anyOf": [{"type": "string"}, ENCRYPTED]
    }
    settings = {f"{project}:{key}": _may_be_encrypted(value) for key, value in found["properties"].items()}
    jobs = settings[f"{project}:jobs"]
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
                "required": [f"{project}:{key}" for key in found["required"]],
                # Settings of other Pulumi providers are allowed, but not this project's settings with a
                # different namespace, because they would be ignored.
                "patternProperties": {
                    f"^{project}:(?!({known})$)": False,
                    f"^(?!{project}:|kubernetes:).+:({known})$": False,
                },
            }
        },
        "required": ["config"],
        "$defs": definitions,
    }


def _section_schema(name: str) -> Schema:
    """The schema of a section of train.yml, with the sections below it. ai-toolkit ignores unknown keys."""
    properties: dict[str, Schema] = {}
    for key, spec in TRAINER_KEYS[name].items():
        below = section_below(name, key)
        if below in TRAINER_KEYS:
            properties[key] = _section_schema(below)
        elif f"{below}[]" in TRAINER_KEYS:
            properties[key] = {"type": "array", "items": _section_schema(f"{below}[]")}
        else:
            properties[key] = _key_schema(spec)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _key_schema(spec: KeySpec) -> Schema:
    """What an editor offers for a key. Stricter than ai-toolkit where it would take any text for true."""
    limits = {
        "minItems" if spec.type == KeyType.LIST else "minimum": spec.min,
        "maximum": spec.max,
        "exclusiveMinimum": spec.over,
        "exclusiveMaximum": spec.below,
    }
    schema: Schema = dict(JSON_TYPES.get(spec.type, {}))
    schema |= {key: limit for key, limit in limits.items() if limit is not None}
    if spec.type == KeyType.ONLY:
        schema = {"enum": list(spec.values)}
    if spec.choices and spec.type == KeyType.CHOICE:
        is_open = spec.ignore_case or spec.adapter or spec.prefixes
        names = {"enum": list(spec.choices)}
        schema = {"anyOf": [names, {"type": "string"}]} if is_open else names
    if spec.null and schema:
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema | ({"description": spec.about} if spec.about else {})


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
