"""Jobs of all kinds of models on the local cloud: ai-toolkit's own examples, and the templates of `flux new`, to verified results.

With FLUX_TEST_PICTURES=FOLDER, Chromium takes a picture of each run's page, to be looked at.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from flux_training.training.models.choice import choose_model
from flux_training.training.models.table import MODELS
from flux_training.training.names import IMAGE_SUFFIXES
from flux_training.training.train_yml.edit import new_train_yml
from flux_training.training.train_yml.trainer_config import parse_train_yml
from tests.e2e.checkout import Checkout, new_checkout
from tests.e2e.test_main_job import results
from tests.support.browser import page_in_chromium
from tests.support.photos import photo

EXAMPLES = Path(os.environ.get("FLUX_TEST_AI_TOOLKIT", "")) / "config/examples"
CLIP = Path(__file__).resolve().parents[1] / "support/clip.mp4"
PICTURES = os.environ.get("FLUX_TEST_PICTURES", "")
IMAGES = 8
# One of each architecture. Others of the same one differ in their weights only.
FAMILIES = {model.arch: model for model in reversed(MODELS.values())}
# So many runs of the test, because one `make up` has a time limit.
PARTS = 3
# By its id, because its name would say that HiDream does not fit.
RTX_5090 = "851399fb-7329-4195-a042-d6514b28cf33"
SHORT = {
    "train": {"steps": 4},
    "save": {"save_every": 2},
    "sample": {"sample_every": 4, "sample_steps": 1, "width": 512, "height": 512},
}


def shortened(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The document as a job of this name with few steps and one prompt."""
    document["config"]["name"] = name
    process = document["config"]["process"][0]
    for section, values in SHORT.items():
        process[section] |= values
    if "switch_boundary_every" in process["train"]:
        process["train"]["switch_boundary_every"] = 2
    for key in ("prompts", "samples"):
        if key in process["sample"]:
            process["sample"][key] = process["sample"][key][:1]
    return document


def example(path: Path) -> dict[str, Any]:
    """An example of ai-toolkit with the recipe's changes: folders of the job, and its control images."""
    raw = path.read_bytes().replace(b'"OmniGen2/OmniGen2\n', b'"OmniGen2/OmniGen2"\n')
    text = re.sub(r'/path/to/[^" ]*\.(jpg|png)', "control/00001.jpg", json.dumps(parse_train_yml(raw)))
    document: dict[str, Any] = json.loads(text)
    for entry in document["config"]["process"][0]["datasets"]:
        entry["folder_path"] = "dataset"
        if paths := entry.get("control_path"):
            several = [f"control_{number}" for number in range(2, 1 + len(paths))]
            entry["control_path"] = ["control", *several] if isinstance(paths, list) else "control"
    return document


def make_job(folder: Path, document: Mapping[str, Any]) -> None:
    """The job folder with as many folders of images as train.yml names."""
    (entry,) = document["config"]["process"][0]["datasets"]
    has_videos = entry.get("num_frames", 1) > 1
    controls = entry.get("control_path") or []
    folders = ["dataset", *([controls] if isinstance(controls, str) else controls)]
    for shade, name in enumerate(folders):
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES + 1):
            if has_videos and number % 2 == 0:
                # A box without meaning makes the files different.
                (folder / name / f"{number:05}.mp4").write_bytes(
                    CLIP.read_bytes() + b"\0\0\0\x09free%d" % number
                )
            else:
                image = photo(100 * shade + number + sum(folder.name.encode()), (640, 640))
                image.resize((1024, 1024)).save(folder / name / f"{number:05}.jpg")
            if name == "dataset":
                text = f"a picture of [trigger], number {number}\n"
                (folder / name / f"{number:05}.txt").write_text(text, encoding="utf-8")
    process = document["config"]["process"][0]
    process.setdefault("trigger_word", "ohwx")
    (folder / "train.yml").write_text(json.dumps(document, indent=1), encoding="utf-8")


def train(checkout: Checkout, jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lints and trains the jobs. A line for each: its model, images, tensors and samples."""
    for name, document in jobs.items():
        make_job(checkout.root / "jobs" / name, document)
    cluster = {"gpu": RTX_5090, "maxReplicas": 4, "storage": 150, "environment": {"HF_TOKEN": "hf_test"}}
    checkout.configure("cluster", cluster)
    checkout.declare(**{name: {} for name in jobs})
    report = json.loads(checkout.flux("lint", "--json"))
    assert [found for found in report["findings"] if found["severity"] == "error"] == []
    assert report["silenced"] == []
    checkout.make("up")
    return [result_line(checkout, name, document) for name, document in jobs.items()]


def result_line(checkout: Checkout, name: str, document: Mapping[str, Any]) -> str:
    run = results(checkout, name)
    model = choose_model(document["config"]["process"][0]["model"]).model
    assert model is not None
    tensors = set()
    for ending in model.result_endings:
        with safe_open(run / f"{name}{ending}.safetensors", "numpy") as weights:
            tensors |= set(weights.keys())
    assert {tensor.startswith(model.tensor_prefix) for tensor in tensors} == {True}
    done = json.loads((run / "done.json").read_text(encoding="utf-8"))
    assert done["steps"] == 4
    samples = [path for path in (run / "samples").iterdir() if path.suffix in IMAGE_SUFFIXES]
    images = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["images"]
    if PICTURES:
        with page_in_chromium((run / "report.html").as_uri()) as seen:
            seen.page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)
    first = min(tensors)
    return f"| {name} | {model.name} | {len(images)} | {len(samples)} | {first} |"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_template_of_each_architecture_is_trained(part: int, tmp_path: Path) -> None:
    jobs = {}
    for arch, model in list(FAMILIES.items())[part::PARTS]:
        controls = model.datasets.control_images[0]
        name = arch.replace("_", "-")
        text = new_train_yml(name, "ohwx", model=model, controls=controls, is_in_image=False)
        jobs[name] = shortened(parse_train_yml(text.encode()), name)
        if model.datasets.videos:
            jobs[name]["config"]["process"][0]["datasets"][0] |= {"num_frames": 17, "resolution": [64]}
    with new_checkout(tmp_path / "checkout") as checkout:
        lines = train(checkout, jobs)
        assert len(lines) == len(jobs) > 5
        assert "unchanged" in checkout.make("up")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="FLUX_TEST_AI_TOOLKIT is not set")
def test_every_example_of_the_trainer_is_trained(tmp_path: Path) -> None:
    jobs = {}
    for path in sorted(EXAMPLES.glob("train_lora_*.yaml")):
        name = path.stem.removeprefix("train_lora_").replace("_", "-")
        jobs[name] = shortened(example(path), name)
    with new_checkout(tmp_path / "checkout") as checkout:
        lines = train(checkout, jobs)
    print("\n".join(lines))
    assert len(lines) == len(jobs) > 10
