"""The table of models, and which model a train.yml names."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.models.choice import choose_model
from flux_training.training.models.table import DEFAULT_MODEL, MODELS
from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS

CHECKOUT = Path(os.environ.get("FLUX_TEST_AI_TOOLKIT", ""))
FLUX, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
CLASS_ARCH = re.compile(r"""^    arch = ["']([^"']+)""", re.MULTILINE)
# ai-toolkit's older class loads these, so no class of its registry names them.
OLDER_CLASS = {"flux", "flex1", "lumina2", "sd1", "sd3", "sdxl"}


def test_the_default_model_comes_first() -> None:
    assert next(iter(MODELS)) == DEFAULT_MODEL


def test_every_architecture_is_one_of_the_trainers() -> None:
    known = TRAINER_KEYS["model"]["arch"].choices
    assert {arch for model in MODELS.values() for arch in model.archs} <= set(known)


def test_no_two_models_have_the_same_weights() -> None:
    ids = [name.lower() for model in MODELS.values() for name in (model.weights, *model.other_weights)]
    assert len(ids) == len(set(ids))


def test_only_distilled_models_have_a_training_adapter() -> None:
    assert [model.name for model in MODELS.values() if model.sampling.is_distilled] == [
        model.name for model in MODELS.values() if model.training_adapter
    ]


@pytest.mark.parametrize(
    ("section", "arch", "key", "model"),
    [
        ({"is_flux": True, "name_or_path": FLUX}, "flux", "is_flux", "flux1-dev"),
        ({"is_flux": True, "name_or_path": SCHNELL.lower()}, "flux", "is_flux", "flux1-schnell"),
        ({"is_flux": True, "name_or_path": "me/finetune"}, "flux", "is_flux", "flux1-dev"),
        # ai-toolkit looks at is_xl first.
        ({"is_flux": True, "is_xl": True, "name_or_path": FLUX}, "sdxl", "is_xl", "sdxl"),
        ({"is_flux": True, "arch": "zimage"}, "zimage", "arch", "z-image-turbo"),
        (
            {"arch": "wan21:14b", "name_or_path": "Wan-AI/Wan2.1-T2V-14B-Diffusers"},
            "wan21",
            "arch",
            "wan21-14b",
        ),
        ({"arch": "flux", "name_or_path": "ostris/Flex.1-alpha"}, "flux", "arch", "flex1"),
        ({"name_or_path": FLUX}, "sd1", "", "sd15"),
        ({"arch": "krea2"}, "krea2", "arch", None),
        ({"arch": ["flux"], "name_or_path": 7}, "['flux']", "arch", None),
    ],
)
def test_a_model_is_chosen_as_the_trainer_chooses(
    section: dict[str, Any], arch: str, key: str, model: str | None
) -> None:
    chosen = choose_model(section)
    assert (chosen.arch, chosen.key) == (arch, key)
    assert (chosen.model.name if chosen.model else None) == model


def test_the_folder_of_the_image_stands_for_its_weights() -> None:
    chosen = choose_model({"is_flux": True, "name_or_path": "/model/"}, SCHNELL)
    assert chosen.weights == SCHNELL
    assert chosen.model is MODELS["flux1-schnell"]


def test_weights_are_known_whatever_the_architecture_says() -> None:
    chosen = choose_model({"is_flux": True, "name_or_path": MODELS["flux1-kontext"].weights})
    assert chosen.owner is MODELS["flux1-kontext"]
    assert chosen.model is MODELS["flux1-dev"]


@pytest.mark.skipif(not os.environ.get("FLUX_TEST_AI_TOOLKIT"), reason="FLUX_TEST_AI_TOOLKIT is not set")
def test_the_trainers_registry_has_every_architecture() -> None:
    """Every class with an `arch` in the checkout is known by name, and every architecture of the table has a class."""
    registry = {
        name
        for folder in ("extensions_built_in", "toolkit/models")
        for path in (CHECKOUT / folder).rglob("*.py")
        for name in CLASS_ARCH.findall(path.read_text(encoding="utf-8"))
    }
    known = set(TRAINER_KEYS["model"]["arch"].choices)
    assert registry - known == {"example"}
    assert {arch for model in MODELS.values() for arch in model.archs} - registry == OLDER_CLASS
