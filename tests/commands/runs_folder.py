"""Fetched runs for tests of the report: a folder like outputs/, with what a hostile node and an odd person could put there."""

import hashlib
import json
from pathlib import Path

from PIL import Image

from tests.training.job_folders import TRAIN_YML, write_image

HOSTILE = "\"><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>'{{7*7}}"


def make_run(
    outputs: Path,
    job: str = "cat",
    run_id: str = "aaaaaaaaaaaa",
    *,
    created: str = "2026-11-23T00:00:00+00:00",
    lr: str = "1e-4",
    caption: str = "tr1gger, a cat",
    message: str = "",
    state: str = "completed",
    parent: str | None = None,
) -> Path:
    """One run of 20 steps with two prompts, a sample each at 0, 10 and 20, and one image in its dataset."""
    folder = outputs / job / run_id
    (folder / "samples").mkdir(parents=True)
    for step in (0, 10, 20):
        for prompt in (0, 1):
            picture = Image.new("RGB", (64, 64), (step * 10, prompt * 90, 120))
            picture.save(folder / "samples" / f"17953924{step:02}000__{step:09}_{prompt}.jpg")
    config = TRAIN_YML.format(name=job, steps=20, save_every=10).replace("lr: 1e-4", f"lr: {lr}")
    (folder / "train.yml").write_text(config, encoding="utf-8")
    losses = "".join(f"{step},{1 / step:.4f}\n" for step in range(1, 21))
    (folder / "loss.csv").write_text("step,loss\n" + losses, encoding="utf-8")
    image = outputs.parent / "jobs" / job / "dataset" / "00001.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, 7)
    entry = {
        "size": image.stat().st_size,
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
        "caption": caption,
    }
    write_json(folder / "manifest.json", {"images": {"00001.jpg": entry}})
    record = {
        "job": job,
        "run_id": run_id,
        "created_at": created,
        "weights_in_image": "black-forest-labs/FLUX.1-dev",
        "state": state,
        "parent": parent,
        "steps": 20,
    }
    queue = {
        "created": "2026-11-23T00:00:00Z",
        "started": "2026-11-23T00:03:00Z",
        "completed": "2026-11-23T01:00:00Z",
    }
    cost = {"usdAnHour": 0.45, "actualUsd": 0.4275}
    write_json(folder / "run.json", {**record, "reason": message or None, "kelpie": queue, "cost": cost})
    progress = {
        "step": 20,
        "steps": 20,
        "loss_first": 1.0,
        "loss_smoothed": 0.05,
        "loss_steps": 2,
        "gpu_seconds": 3420,
        "start_seconds": 300,
        "seconds_per_step": 120,
        "download_seconds": 90,
        "restarts": 1,
        "resumed": [10],
    }
    write_json(folder / "progress.json", {**progress, "message": message})
    write_json(folder / "done.json", {"sha256": "0" * 64, "size": 123})
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
