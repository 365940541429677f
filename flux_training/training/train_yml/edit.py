"""Writes a new train.yml from a model's template."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TrainableModel
from flux_training.training.train_yml.templates import (
    PROCESS,
    in_double_quotes,
    prompts_for,
    sample_images,
    template_for,
    with_samples,
)
from flux_training.training.train_yml.yaml_text import set_value

NO_VALUES: Mapping[str, str] = MappingProxyType({})
# The file name of a new job's first image.
FIRST_IMAGE = "00001.jpg"
# The number of steps between two checkpoints, and between two sets of samples, in a new train.yml.
TEMPLATE_DISTANCE = 250


def new_train_yml(
    name: str,
    trigger: str,
    prompts: Sequence[str] = (),
    values: Mapping[str, str] = NO_VALUES,
    model: TrainableModel = MODELS[DEFAULT_MODEL],
    *,
    controls: int = 0,
    is_in_image: bool = True,
) -> str:
    """A train.yml for a new job, with the values that ai-toolkit recommends for the model and the recipe's changes.

    Without `prompts`, the samples get those that suit the model. `values` maps keys below config.process[0], such as `train.lr`, to YAML
    that replaces the template's value. `controls`: the number of folders of control images.
    """
    text = template_for(model, controls, is_in_image)
    text = set_value(text, ("config", "name"), in_double_quotes(name))
    text = set_value(text, (*PROCESS, "trigger_word"), in_double_quotes(trigger))
    for key, value in values.items():
        path = (int(part) if part.isdecimal() else part for part in key.split("."))
        text = set_value(text, (*PROCESS, *path), value)
    images = sample_images(model, controls, FIRST_IMAGE)
    return with_samples(text, prompts or prompts_for(model, controls), images)


def training_values(
    steps: int | None, rank: int | None, lr: float | None, resolutions: Sequence[int]
) -> dict[str, str]:
    """The `values` for new_train_yml; what is None or empty keeps the template's value.

    Checkpoints and samples are spread evenly over the steps, so that the last ones are those of the result.
    """
    every = steps and checkpoint_distance(steps)
    given: dict[str, object] = {
        "train.steps": steps,
        "save.save_every": every,
        "sample.sample_every": every,
        "network.linear": rank,
        "network.linear_alpha": rank,
        "train.lr": lr,
        "datasets.0.resolution": list(resolutions) or None,
    }
    return {key: str(value) for key, value in given.items() if value is not None}


def checkpoint_distance(steps: int) -> int | None:
    """The largest divisor of `steps` that is at most the template's distance; None if all are too small to be useful."""
    divisors = range(min(steps, TEMPLATE_DISTANCE), TEMPLATE_DISTANCE // 5, -1)
    return next((distance for distance in divisors if steps % distance == 0), None)
