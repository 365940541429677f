"""The template of a new train.yml for each model: the common one (train_template.yml) with what ai-toolkit recommends.

model_templates.json has the values in which a model's example in ai-toolkit's `config/examples` differs from FLUX.1's, or, for models
without an example, those of its web page (`ui/src/app/jobs/new/options.tsx`). The keys are below `config.process[0]`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_training.training.models.choice import MODEL_FOLDER
from flux_training.training.models.table import DEFAULT_MODEL, TrainableModel
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.train_yml.yaml_text import add_entry, flow_yaml, node_at, set_value

COMMON = Path(__file__).with_name("train_template.yml")
OWN_VALUES: Mapping[str, Mapping[str, Any]] = json.loads(
    Path(__file__).with_name("model_templates.json").read_text(encoding="utf-8")
)
PROCESS = ("config", "process", 0)
PROMPTS = (
    "[trigger]",
    "a photo of [trigger] outdoors in the morning sun",
    "[trigger] in the style of an oil painting",
    "[trigger] on a plain white background, studio light",
)
EDIT_PROMPTS = (
    "[trigger]",
    "change the image to [trigger]",
    "apply [trigger], keep everything else as it is",
)
VIDEO_PROMPTS = (
    "[trigger]",
    "[trigger] walks through a park in the morning sun, the camera follows",
    "[trigger] turns towards the camera, slow zoom, studio light",
)
CONTROL_FOLDER = "control"
HEAD_END = "job: extension"
MODEL_START, SAMPLE_START = "      model:\n", "      sample:\n"


def template_for(model: TrainableModel, controls: int = 0, is_in_image: bool = True) -> str:
    """The template for a model, with `controls` folders of control images.

    `is_in_image`: whether the nodes' image holds the weights; otherwise each node downloads them.
    """
    text = COMMON.read_text(encoding="utf-8")
    if model.name != DEFAULT_MODEL or not is_in_image:
        text = _with_head_comment(text, model)
        text = _with_model_section(text, model, is_in_image)
    for key, value in _template_values(model, controls).items():
        text = _with_value(text, key, value)
    return text


def recommended_document(model: TrainableModel, steps: int, is_in_image: bool = False) -> dict[str, Any]:
    """The content of the model's template, for estimates: with so many steps, and without images of its own."""
    document = parse_train_yml(COMMON.read_bytes())
    process = document["config"]["process"][0]
    process["model"] = _model_values(model, is_in_image)
    for key, value in {**_template_values(model, 0), "train.steps": steps}.items():
        *parents, last = key.split(".")
        section = process
        for parent in parents:
            section = section[int(parent) if parent.isdecimal() else parent]
        section[last] = value
    process["sample"]["prompts"] = list(prompts_for(model))
    return document


def _template_values(model: TrainableModel, controls: int) -> dict[str, Any]:
    """The values of the template outside its section `model`."""
    own = OWN_VALUES.get(model.name, {})
    found = {
        "train.noise_scheduler": model.sampling.noise,
        "sample.sampler": model.sampling.noise,
        "sample.guidance_scale": model.sampling.guidance,
        "sample.sample_steps": model.sampling.steps,
        **{key: value for key, value in own.items() if not key.startswith("model.")},
    }
    return {**found, "datasets.0.control_path": control_folders(controls)} if controls else found


def _model_values(model: TrainableModel, is_in_image: bool) -> dict[str, Any]:
    """The section `model` of the template."""
    own = OWN_VALUES.get(model.name, {})
    return {
        "name_or_path": MODEL_FOLDER if is_in_image else model.weights,
        "arch": model.arch,
        "quantize": True,
        **({"assistant_lora_path": model.training_adapter} if model.training_adapter else {}),
        **{key.removeprefix("model."): value for key, value in own.items() if key.startswith("model.")},
    }


def control_folders(count: int) -> list[str]:
    """`control`, `control_2`, …: the names of a job's folders of control images."""
    return [CONTROL_FOLDER, *(f"{CONTROL_FOLDER}_{number}" for number in range(2, count + 1))][:count]


def prompts_for(model: TrainableModel, controls: int = 0) -> tuple[str, ...]:
    """Prompts for samples that suit what the model makes."""
    if controls:
        return EDIT_PROMPTS
    return VIDEO_PROMPTS if model.datasets.videos else PROMPTS


def sample_images(model: TrainableModel, controls: int, image: str) -> dict[str, str]:
    """The keys of a sample that name its control images, which are called `image`, or its first frame; empty if it has neither."""
    if model.datasets.first_frame:
        return {"ctrl_img": f"dataset/{image}"}
    keys = ("ctrl_img", "ctrl_img_2", "ctrl_img_3")
    folders = control_folders(controls)
    return {key: f"{folder}/{image}" for key, folder in zip(keys, folders, strict=False)}


def with_samples(text: str, prompts: Sequence[str], images: Mapping[str, str]) -> str:
    """Replaces the template's one prompt by these, one per line, each with these control images."""
    path = (*PROCESS, "sample", "prompts")
    node = node_at(text, (*path, 0))
    assert node is not None  # noqa: S101 - the template has one prompt
    item = f"\n{' ' * (node.start_mark.column - 2)}- "
    entries = [_sample(prompt, images) for prompt in prompts]
    text = text[: node.start_mark.index] + item.join(entries) + text[node.end_mark.index :]
    # Control images are only possible in `samples`, whose entries are mappings, and not in `prompts`.
    return text.replace("\n        prompts:\n", "\n        samples:\n") if images else text


def in_double_quotes(text: str) -> str:
    """The text in double quotes, for YAML."""
    return json.dumps(text, ensure_ascii=False)


def _sample(prompt: str, images: Mapping[str, str]) -> str:
    if not images:
        return in_double_quotes(prompt)
    parts = {"prompt": prompt, **images}
    return "{" + ", ".join(f"{key}: {in_double_quotes(value)}" for key, value in parts.items()) + "}"


def _with_head_comment(text: str, model: TrainableModel) -> str:
    schema, _, _ = text.partition("\n")
    _, end, rest = text.partition(HEAD_END)
    head = f"""{schema}
# A LoRA for {model.weights} ({model.licence}), in ai-toolkit's own format: its recommended values
# with the changes that training on SaladCloud needs (marked !). It is sent as it stands.
"""
    return head + end + rest


def _with_model_section(text: str, model: TrainableModel, is_in_image: bool) -> str:
    before, _, rest = text.partition(MODEL_START)
    _, sample, after = rest.partition(SAMPLE_START)
    return before + MODEL_START + _model_section(model, is_in_image) + sample + after


def _model_section(model: TrainableModel, is_in_image: bool) -> str:
    where = (
        "The weights inside the container image."
        if is_in_image
        else f'Each node downloads these weights. With an image that holds them (image.model): "{MODEL_FOLDER}".'
    )
    values = _model_values(model, is_in_image)
    lines = [
        f"{key}: {in_double_quotes(value) if isinstance(value, str) else _yaml(value)}"
        for key, value in values.items()
    ]
    return "".join(f"        {line}\n" for line in (f"# ! {where}", *lines))


def _with_value(text: str, key: str, value: object) -> str:
    *parents, last = (int(part) if part.isdecimal() else part for part in key.split("."))
    path = (*PROCESS, *parents)
    node = node_at(text, (*path, last))
    if node is None:
        return add_entry(text, path, str(last), value)
    # If the value is unchanged, keep the template's spelling, such as its quotes.
    return text if node.value == _yaml(value) else set_value(text, (*path, last), _yaml(value))


def _yaml(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else flow_yaml(value)
