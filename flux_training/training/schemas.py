"""JSON schemas, with which editors complete and check a stack's configuration and a train.yml while they are written."""

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

# What people write by hand, by section of KNOWN_KEYS; the other keys are completed without a word.
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
            "description": "Stands for the subject; [trigger] in captions and prompts becomes this.",
        },
    },
    "network": {
        "type": {"type": "string", "description": "`lora`"},
        "linear": {"type": "integer", "minimum": 1, "description": "The rank of the LoRA, such as 16."},
        "linear_alpha": {"type": "number", "description": "Best the same as `linear`."},
    },
    "save": {
        "save_every": {
            "type": "integer",
            "minimum": 1,
            "description": "Steps between checkpoints, such as 250.",
        },
        "max_step_saves_to_keep": {
            "type": "integer",
            "description": "At least as many as one run writes: a checkpoint deleted here is deleted from the bucket.",
        },
        "push_to_hub": {"const": False},
        "dtype": {"type": "string"},
    },
    "datasets[]": {
        "folder_path": {"const": DATASET_FOLDER, "description": "Where the images lie on the node."},
        "caption_ext": {"enum": ["txt", ".txt"]},
        "caption_dropout_rate": {"type": "number", "minimum": 0, "maximum": 1},
        "resolution": {
            "description": "Pixels of a square of the same area; several are trained in turn.",
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
                # Other providers' settings may stand here, too; ours are known.
                "patternProperties": {f"^{PROJECT}:(?!({known})$)": False},
            }
        },
        "required": ["config"],
        "$defs": definitions,
    }


def _section(name: str) -> Schema:
    """The schema of a section of train.yml, with the sections below it. An unknown key is one that ai-toolkit passes over."""
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
        "description": "What lint shall not say of this job, by rule, each with the reason.",
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
    """What may be left out is text, and any may be a secret, as `pulumi config set --secret` writes it."""
    choices = value.get("anyOf", [])
    return {**value, "anyOf": [*choices, ENCRYPTED]} if {"type": "null"} in choices else value
