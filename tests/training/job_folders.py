"""Small valid job folders for tests; all images and captions are different."""

import json
from pathlib import Path

from PIL import Image

TRAIN_YML = """\
job: extension
config:
  name: "{name}"
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: "tr1gger"
      network: {{type: lora, linear: 4, linear_alpha: 4}}
      save: {{dtype: float16, save_every: {save_every}, max_step_saves_to_keep: 20}}
      datasets:
        - {{folder_path: dataset, caption_ext: txt, resolution: [512]}}
      train: {{batch_size: 1, steps: {steps}, lr: 1e-4, optimizer: adamw8bit, noise_scheduler: flowmatch, dtype: bf16}}
      model: {{name_or_path: /model, is_flux: true, quantize: true}}
      sample:
        sampler: flowmatch
        sample_every: {save_every}
        width: 512
        height: 512
        neg: ""
        prompts: ["a photo of [trigger]", "[trigger] in the rain"]
        seed: 42
        sample_steps: 4
meta:
  name: "[name]"
"""


def make_job(
    jobs: Path, name: str, images: int = 3, steps: int = 20, save_every: int = 10, seed: int = 0
) -> Path:
    """A job folder that passes every check; `seed` makes its images differ from another's."""
    folder = jobs / name
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    for number in range(1, images + 1):
        write_image(dataset / f"{number:05}.jpg", seed * 100 + number)
        (dataset / f"{number:05}.txt").write_text(f"tr1gger, picture {number}\n", encoding="utf-8")
    (folder / "train.yml").write_text(
        TRAIN_YML.format(name=name, steps=steps, save_every=save_every), encoding="utf-8"
    )
    return folder


# The image of a test stack has the weights of FLUX.1-dev.
OTHER_WEIGHTS = {"lint": {"silence": {"model-mismatch": "the stand-in trainer has no weights"}}}


def add_folders(folder: Path, *controls: str) -> None:
    """Makes it a job of an edit model, with `controls` (by default one folder), masks, and a second dataset of regularization images."""
    controls = controls or ("control",)
    for shade, name in enumerate((*controls, "mask", "reg"), 2):
        (folder / name).mkdir()
        for image in sorted((folder / "dataset").glob("*.jpg")):
            write_image(folder / name / f"{image.stem}.png", 10 * shade + int(image.stem))
    for image in (folder / "reg").glob("*.png"):
        image.with_suffix(".txt").write_text(f"a gradient, picture {int(image.stem)}\n", encoding="utf-8")
    named = f"control_path: {json.dumps(controls)}"
    sample = f"--ctrl_img {controls[0]}/00001.png"
    second = "{folder_path: reg, is_reg: true, num_repeats: 2, control_path: control, resolution: [512]}"
    text = (folder / "train.yml").read_text(encoding="utf-8")
    for old, new in (
        ("{folder_path: dataset,", f"{{folder_path: dataset, {named}, mask_path: mask,"),
        ("      train: {", f"        - {second}\n      train: {{"),
        ("is_flux: true", "arch: flux_kontext"),
        ("a photo of [trigger]", f"a photo of [trigger] {sample}"),
        ("[trigger] in the rain", f"[trigger] in the rain {sample}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "train.yml").write_text(text, encoding="utf-8")


def write_image(path: Path, shade: int) -> None:
    """A 64 x 64 gradient that no other `shade` has."""
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(shade * 37 % 256, x * 4, y * 4) for y in range(64) for x in range(64)])
    picture.save(path)
