"""Prints what ai-toolkit's own classes read in each `*.yml` of a folder. Runs with the trainer's Python: `read_templates.py CHECKOUT FOLDER`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, sys.argv[1])

from toolkit import config_modules as classes
from toolkit.config import get_config


def read(path: Path) -> dict[str, Any]:
    process = get_config(str(path))["config"]["process"][0]
    model, sample = classes.ModelConfig(**process["model"]), classes.SampleConfig(**process["sample"])
    train, network = classes.TrainConfig(**process["train"]), classes.NetworkConfig(**process["network"])
    (dataset,) = [classes.DatasetConfig(**entry) for entry in process["datasets"]]
    return {
        "arch": model.arch,
        "weights": model.name_or_path,
        "adapter": model.assistant_lora_path,
        "quantize": model.quantize,
        "steps": train.steps,
        "noise": train.noise_scheduler,
        "rank": network.linear,
        "resolution": dataset.resolution,
        "folder": dataset.folder_path,
        "controls": dataset.control_path,
        "frames": dataset.num_frames,
        "sampler": sample.sampler,
        "guidance": sample.guidance_scale,
        "sample_steps": sample.sample_steps,
        "extension": sample.ext,
        "samples": [[one.prompt, one.ctrl_img_1, one.ctrl_img_2, one.ctrl_img_3] for one in sample.samples],
    }


print(json.dumps({path.stem: read(path) for path in sorted(Path(sys.argv[2]).glob("*.yml"))}))
