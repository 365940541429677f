"""Pulumi.prod.yaml.example is valid and holds no secret."""

import json
from pathlib import Path

import yaml

from flux_training.training.settings import parse_stack_settings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs/Pulumi.prod.yaml.example"
# The head of the file explains how to set them.
SECRETS = {"saladApiKey", "s3SecretAccessKey", "nodeSecretAccessKey", "cloudflareApiToken"}


def test_the_example_is_valid() -> None:
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["config"]
    texts = {
        key: json.dumps(value) if isinstance(value, dict | bool) else str(value)
        for key, value in config.items()
    }
    settings = parse_stack_settings("flux-training", texts)
    assert settings.cloud == "salad"
    assert settings.storage.kind == "r2"


def test_the_example_has_no_secret_and_is_not_a_stack() -> None:
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["config"]
    assert not {f"flux-training:{name}" for name in SECRETS} & set(config)
    assert EXAMPLE not in set(ROOT.glob("Pulumi.*.yaml"))
