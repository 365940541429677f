"""Compares the table of ai-toolkit's keys with a checkout of it: `make trainer-keys CHECKOUT=~/ai-toolkit`.

Only keys as old as the checkout's commit are expected. Exit code 1 if a key is missing in the table, or not in the checkout.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flux_training.training.train_yml.trainer_keys import COMMIT, TRAINER_KEYS

CLASSES = {
    "network": "NetworkConfig",
    "save": "SaveConfig",
    "logging": "LoggingConfig",
    "datasets[]": "DatasetConfig",
    "train": "TrainConfig",
    "train.ema_config": "EMAConfig",
    "train.validation_config": "ValidationConfig",
    "train.validation_config.validation_items[]": "ValidationItem",
    "model": "ModelConfig",
    "sample": "SampleConfig",
    "sample.samples[]": "SampleItem",
    "adapter": "AdapterConfig",
    "embedding": "EmbeddingConfig",
    "decorator": "DecoratorConfig",
    "guidance": "GuidanceConfig",
}


def keys_read(tree: ast.Module, class_name: str) -> Iterator[str]:
    """The keys that a class of toolkit/config_modules.py takes from its keyword arguments."""
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    for node in ast.walk(found[0]) if found else ():
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="kwargs"), attr="get"),
                args=[ast.Constant(value=str(key)), *_],
            ):
                yield key


def differences(checkout: Path, commit: str = "HEAD") -> list[str]:
    """One line for each key that only the table or only this commit of the checkout has."""
    tree = ast.parse(_git(checkout, "show", f"{commit}:toolkit/config_modules.py"))
    date = _git(checkout, "log", "-1", "--format=%cs", commit).strip()
    lines = []
    for section, class_name in CLASSES.items():
        known = {key for key, spec in TRAINER_KEYS[section].items() if spec.since <= date}
        read = set(keys_read(tree, class_name))
        lines += [f"{section}.{key}: not in the table" for key in sorted(read - known)]
        lines += [f"{section}.{key}: only in the table" for key in sorted(known - read)]
    return lines


def _git(checkout: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", checkout, *words], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]).expanduser())
    print("\n".join(found) or f"The table (commit {COMMIT[:8]}) has the same keys as this checkout.")
    sys.exit(bool(found))
