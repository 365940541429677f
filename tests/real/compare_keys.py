"""Compares the table of ai-toolkit's keys with a checkout of it: `make trainer-keys CHECKOUT=~/ai-toolkit`.

Exit code 1 if a key is missing in the table, or no longer in the checkout.
"""

import ast
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


def differences(checkout: Path) -> list[str]:
    """One line for each key that only the table or only the checkout has."""
    tree = ast.parse((checkout / "toolkit/config_modules.py").read_text(encoding="utf-8"))
    lines = []
    for section, class_name in CLASSES.items():
        known, read = set(TRAINER_KEYS[section]), set(keys_read(tree, class_name))
        lines += [f"{section}.{key}: not in the table" for key in sorted(read - known)]
        lines += [f"{section}.{key}: only in the table" for key in sorted(known - read)]
    return lines


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]).expanduser())
    print("\n".join(found) or f"The table (commit {COMMIT[:8]}) has the same keys as this checkout.")
    sys.exit(bool(found))
