"""The template of each model: what ai-toolkit recommends for it, and nothing that lint objects to."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.gpu import memory_needed
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.models.choice import ModelPolicy, choose_model, find_model
from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TrainableModel
from flux_training.training.train_yml.document import first_process
from flux_training.training.train_yml.edit import new_train_yml
from flux_training.training.train_yml.templates import OWN_VALUES, recommended_document
from flux_training.training.train_yml.trainer_config import TrainerFile, parse_train_yml

DOWNLOADED = "weights-downloaded"
EDITING = [model for model in MODELS.values() if model.datasets.control_images[0]]


def name_of(model: TrainableModel) -> str:
    return model.name


@functools.cache
def downloading_document(model: TrainableModel) -> dict[str, Any]:
    """The template for an image without the model's weights."""
    return parse_train_yml(new_train_yml("cat", "ohwx", model=model, is_in_image=False).encode())


def subject(model: TrainableModel, *, is_in_image: bool) -> Subject:
    text = new_train_yml(
        "cat", "ohwx", model=model, controls=model.datasets.control_images[0], is_in_image=is_in_image
    )
    document = parse_train_yml(text.encode())
    file = TrainerFile(Path("train.yml"), text.encode(), document)
    policy = ModelPolicy(weights_in_image=model.weights if is_in_image else "")
    gpu = f"X ({memory_needed(document, policy.weights_in_image)} GB)"
    return Subject("cat", Path("jobs/cat"), file, None, gpu, frozenset({"HF_TOKEN"}), policy=policy)


@pytest.mark.parametrize("model", MODELS.values(), ids=name_of)
def test_lint_accepts_the_template(model: TrainableModel) -> None:
    assert [finding.code for finding in check_rules(subject(model, is_in_image=True))] == []
    assert [finding.code for finding in check_rules(subject(model, is_in_image=False))] == [DOWNLOADED]


@pytest.mark.parametrize("model", MODELS.values(), ids=name_of)
def test_the_template_trains_its_model(model: TrainableModel) -> None:
    process = first_process(downloading_document(model))
    assert choose_model(process["model"]).model is model


@pytest.mark.parametrize("model", MODELS.values(), ids=name_of)
def test_estimates_use_the_values_of_the_template(model: TrainableModel) -> None:
    written = first_process(downloading_document(model))
    used = first_process(recommended_document(model, 2000))
    for section in ("network", "model", "datasets", "save"):
        # The default model's template says is_flux instead of arch.
        if (section, model.name) != ("model", DEFAULT_MODEL):
            assert used[section] == written[section]
    assert {**used["train"], "steps": 0} == {**written["train"], "steps": 0}


def test_every_own_value_belongs_to_a_model() -> None:
    assert set(OWN_VALUES) <= set(MODELS)


@pytest.mark.parametrize("model", EDITING, ids=name_of)
def test_samples_of_edit_models_name_their_control_images(model: TrainableModel) -> None:
    most = model.datasets.control_images[1]
    process = first_process(
        parse_train_yml(new_train_yml("cat", "ohwx", model=model, controls=most).encode())
    )
    folders = ["control", "control_2", "control_3"][:most]
    assert process["datasets"][0]["control_path"] == folders
    keys = ["ctrl_img", "ctrl_img_2", "ctrl_img_3"][:most]
    expected = {key: f"{folder}/00001.jpg" for key, folder in zip(keys, folders, strict=True)}
    for sample in process["sample"]["samples"]:
        assert {key: value for key, value in sample.items() if key != "prompt"} == expected


def test_samples_of_image_to_video_models_name_a_first_frame() -> None:
    process = first_process(parse_train_yml(new_train_yml("cat", "ohwx", model=MODELS["wan22-i2v"]).encode()))
    assert {sample["ctrl_img"] for sample in process["sample"]["samples"]} == {"dataset/00001.jpg"}


def test_prompts_are_quoted_in_samples_too() -> None:
    prompts = ('say "hi": #1', "{a}, [b]")
    text = new_train_yml("cat", "ohwx", prompts, model=MODELS["flux1-kontext"], controls=1)
    samples = first_process(parse_train_yml(text.encode()))["sample"]["samples"]
    assert [sample["prompt"] for sample in samples] == list(prompts)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("qwen-image", "qwen-image"),
        ("Qwen/Qwen-Image-2512", "qwen-image"),
        ("ZImage", "z-image-turbo"),
        ("tongyi-mai/z-image", "z-image"),
        ("flux3", None),
    ],
)
def test_a_model_has_several_names(given: str, name: str | None) -> None:
    found = find_model(given)
    assert (found.name if found else None) == name


def test_own_values_are_those_of_one_line_each() -> None:
    """So that a change of one model is a change of one line."""
    path = Path("flux_training/training/train_yml/model_templates.json")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(json.loads("\n".join(lines))) + 2
