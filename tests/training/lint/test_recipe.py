"""A recipe user's `data/` folder is used unchanged: data/<job>/dataset and train.yml (or train.yaml, as the recipe's readme says)."""

import json
from pathlib import Path

import pytest

from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.edit import new_train_yml
from tests.training.job_folders import write_image

# The recipe's five changes, as its readme words them, in ai-toolkit's example (the parts that matter here).
TRAIN_YAML = """\
---
job: extension
config:
  name: "{name}"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      device: cuda:0
#      trigger_word: "p3r5on"
      network:
        type: "lora"
        linear: 16
        linear_alpha: 16
      save:
        dtype: float16 # precision to save
        save_every: 250
        max_step_saves_to_keep: 2
      datasets:
        - folder_path: "./dataset"
          caption_ext: "txt"
          resolution: [ 512, 768, 1024 ]
      train:
        batch_size: 1
        steps: 2000  # total number of steps to train
        lr: 1e-4
      model:
        name_or_path: "/model"
        is_flux: true
        quantize: true
      sample:
        sampler: "flowmatch"
        sample_every: 250
        neg: ""
        prompts:
          - "a photo of the thing"
meta:
  name: "[name]"
  version: '1.0'
"""


def recipe_job(data: Path, name: str, config_name: str) -> None:
    dataset = data / name / "dataset"
    dataset.mkdir(parents=True)
    for number, suffix in enumerate((".jpg", ".JPG", ".png"), 1):
        write_image(dataset / f"{number:05}{suffix}", number)
        # generate-captions.py appends the placeholder without a line break.
        (dataset / f"{number:05}.txt").write_text(
            f"A thing, seen from side {number}. [trigger]", encoding="utf-8"
        )
    (data / name / config_name).write_text(TRAIN_YAML.format(name=name), encoding="utf-8")
    # prepare-and-queue-jobs.py stores Kelpie's response.
    (data / name / "kelpie_job.json").write_text(
        json.dumps({"id": "x", "status": "pending"}), encoding="utf-8"
    )


@pytest.mark.parametrize("config_name", ["train.yml", "train.yaml"])
def test_a_recipe_folder_is_declared_unchanged(tmp_path: Path, config_name: str) -> None:
    recipe_job(tmp_path / "data", "job-00001", config_name)
    recipe_job(tmp_path / "data", "job-00002", config_name)
    settings = StackSettings.model_validate(
        {
            "cloud": "local",
            "storage": {"bucket": "flux-training"},
            "jobsFolder": "data",
            "jobs": {"job-*": {}},
        }
    )
    jobs = declare_jobs(settings, tmp_path)
    assert [(job.name, job.folder.steps, len(job.image_set.images)) for job in jobs] == [
        ("job-00001", 2000, 3),
        ("job-00002", 2000, 3),
    ]
    assert jobs[0].folder.raw_config == TRAIN_YAML.format(name="job-00001").encode()


def test_a_new_train_yml_makes_the_same_five_changes(tmp_path: Path) -> None:
    recipe_job(tmp_path / "jobs", "cat", "train.yml")
    (tmp_path / "jobs/cat/train.yml").write_text(new_train_yml("cat", "ch3lsea cat"), encoding="utf-8")
    settings = StackSettings.model_validate(
        {"cloud": "local", "storage": {"bucket": "flux-training"}, "jobs": {"cat": {}}}
    )
    (job,) = declare_jobs(settings, tmp_path)
    assert (job.folder.name, job.folder.steps, job.folder.save_every) == (
        "cat",
        2000,
        250,
    )
