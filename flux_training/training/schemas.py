"""JSON schemas, which let editors complete and check a stack's configuration and train.yml."""

from __future__ import annotations

from typing import Any

from flux_training.training.lint.rules import RULES
from flux_training.training.lint.rules.recipe import MODEL_FOLDER, TRAINERS
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.known_keys import KNOWN_KEYS
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, OUTPUT_FOLDER

DIALECT = "http://json-schema.org/draft-07/schema#"
PROJECT = "flux-training"
ENCRYPTED = {
    "type": "object",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}

Schema = dict[str, Any]

# Details of the keys that people edit, by section of KNOWN_KEYS; other keys have only a name.
TRAIN_YML: dict[str, dict[str, Schema]] = {
    "config": {"name": {"type": "string", "description": "The job folder's name."}},
    "": {
        "type": {"enum": list(TRAINERS)},
        "training_folder": {
            "const": OUTPUT_FOLDER,
            "description": "Only this folder is synced to the bucket.",
        },
        "device": {"enum": ["cuda:0", "cuda"]},
        "trigger_word": {
            "type": ["string", "null"],
            "description": "The word for the subject; it replaces [trigger] in captions and prompts.",
        },
    },
    "network": {
        "type": {"type": "string", "description": "`lora`"},
        "linear": {"type": "integer", "minimum": 1, "description": "The rank of the LoRA, such as 16."},
        "linear_alpha": {"type": "number", "description": "Usually the same as `linear`."},
    },
    "save": {
        "save_every": {
            "type": "integer",
            "minimum": 1,
            "description": "Steps between checkpoints, such as 250.",
        },
        "max_step_saves_to_keep": {
            "type": "integer",
            "description": "At least as many as one run writes: a checkpoint that is deleted here is deleted from the bucket as well.",
        },
        "push_to_hub": {"const": False},
        "dtype": {"type": "string"},
    },
    "datasets[]": {
        "folder_path": {"const": DATASET_FOLDER, "description": "The images' folder on the node."},
        "caption_ext": {"enum": ["txt", ".txt"]},
        "caption_dropout_rate": {"type": "number", "minimum": 0, "maximum": 1},
        "resolution": {
            "description": "The side of a square in pixels; several resolutions are trained in turn.",
            "anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}],
        },
    },
    "train": {
        "steps": {"type": "integer", "minimum": 1, "description": "500 to 4000 is a good range for FLUX."},
        "batch_size": {"type": "integer", "minimum": 1},
        "lr": {"type": ["number", "string"], "description": "The learning rate, such as 1e-4."},
        "noise_scheduler": {"const": "flowmatch"},
        "train_unet": {"const": True},
        "gradient_checkpointing": {"type": "boolean"},
        "optimizer": {"type": "string"},
        "dtype": {"type": "string", "description": "`bf16`"},
    },
    "model": {
        "name_or_path": {
            "type": "string",
            "description": f"`{MODEL_FOLDER}`: the FLUX.1-dev weights inside the container image.",
        },
        "is_flux": {"type": "boolean"},
        "quantize": {"type": "boolean", "description": "Needed below 48 GB of GPU memory."},
        "low_vram": {"type": "boolean", "description": "Needed below 24 GB of GPU memory, slow above."},
    },
    "sample": {
        "sampler": {"const": "flowmatch"},
        "sample_every": {"type": "integer", "minimum": 1},
        "prompts": {"type": "array", "items": {"type": "string"}},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "sample_steps": {"type": "integer", "minimum": 1},
        "guidance_scale": {"type": "number"},
    },
}


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
            properties[key] = TRAIN_YML.get(name, {}).get(key, {})
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
