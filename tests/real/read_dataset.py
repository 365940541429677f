"""Run by the Python of ai-toolkit: what its dataset class reads of the datasets in training-config/train.yml, as JSON.

`python read_dataset.py CHECKOUT`, in the folder of a node, or `python read_dataset.py CHECKOUT NODE…` for a line for each of
several. The model is only asked for its name and kind.
"""

import contextlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

# A kernel of omnigen2 asks for a CUDA device when it is imported.
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(warp_size=32)
sys.path.insert(0, sys.argv[1])
with contextlib.redirect_stdout(sys.stderr):
    from toolkit.config import get_config
    from toolkit.config_modules import DatasetConfig
    from toolkit.data_loader import AiToolkitDataset


class Model:
    """Knows its name and the size of its buckets, and has none of the other properties that a dataset asks for."""

    model_config = types.SimpleNamespace(latent_space_version="flux1")
    text_embedding_space_version, te_padding_side = "flux1", "right"

    def get_bucket_divisibility(self) -> int:
        return 16

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name.startswith("get_") else None


def main() -> None:
    for folder in sys.argv[2:] or ["."]:
        with contextlib.chdir(folder):
            config = get_config("training-config/train.yml")["config"]["process"][0]
            print(json.dumps([read(entry) for entry in config["datasets"]]))


def read(entry: dict[str, Any]) -> dict[str, Any]:
    with contextlib.redirect_stdout(sys.stderr):
        changes = {"resolution": 64, "cache_latents_to_disk": False, "controls": []}
        dataset = AiToolkitDataset(DatasetConfig(**{**entry, **changes}), 1, Model())
        for item in dataset.file_list:
            item.load_caption()
    return {
        "count": len(dataset.file_list),
        "captions": {Path(item.path).name: item.raw_caption for item in dataset.file_list},
        "controls": {Path(item.path).name: item.control_path for item in dataset.file_list},
        "masks": {Path(item.path).name: item.mask_path for item in dataset.file_list},
        "frames": {Path(item.path).name: item.num_frames for item in dataset.file_list},
        "sizes": {Path(item.path).name: [item.width, item.height] for item in dataset.file_list},
        "is_reg": any(item.is_reg for item in dataset.file_list),
    }


main()
