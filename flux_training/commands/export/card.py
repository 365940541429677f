"""The model card of an exported LoRA: README.md as the Hugging Face Hub reads it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flux_training.training.models.choice import ModelChoice, choose_model, model_with_weights
from flux_training.training.models.table import DatasetKinds, TrainableModel
from flux_training.training.train_yml.document import first_process
from flux_training.training.values import mapping
from flux_training.training.words import one_line

# Maps the licences of the models to the licence names of the Hugging Face Hub:
# https://huggingface.co/docs/hub/repositories-licenses.
HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "OpenRAIL++-M": "openrail++",
    "CreativeML OpenRAIL-M": "creativeml-openrail-m",
}
# The licence name on the model cards of FLUX.1-dev and Kontext. Other models get the name of their licence.
LICENCE_NAMES = dict.fromkeys(("flux1-dev", "flux1-kontext"), "flux-1-dev-non-commercial-license")
TEXT_TO_IMAGE = "text-to-image"
SETTINGS = {
    "Steps": ("train", "steps"),
    "Learning rate": ("train", "lr"),
    "Optimizer": ("train", "optimizer"),
    "Batch size": ("train", "batch_size"),
    "Network": ("network", "type"),
    "Rank": ("network", "linear"),
    "Alpha": ("network", "linear_alpha"),
}


@dataclass(frozen=True)
class CardImage:
    """A sample: its path in the exported folder, and its prompt with the trigger word filled in."""

    path: str
    prompt: str


@dataclass(frozen=True)
class Card:
    """What the card says. `config` is the run's train.yml; `weights`: the files' SHA-256 in 64 hex digits by name.

    `weights_in_image`: the id of what the image's `/model` held; empty if unknown. `is_stand_in`: trained by the local cloud's stand-in.
    """

    job: str
    run_id: str
    step: int
    weights: Mapping[str, str]
    trigger: str
    config: Mapping[str, Any]
    images: int
    samples: Sequence[CardImage]
    weights_in_image: str = ""
    is_stand_in: bool = False


def base_model(card: Card) -> str:
    """The Hub's id of the model that was trained; empty if it is not known, such as that of a folder."""
    name = _choice(card).weights
    return name if name.count("/") == 1 and not name.startswith(("/", ".")) else ""


def licence_fields(model: TrainableModel) -> dict[str, str]:
    """The fields of a model card for the base model's licence."""
    if known := HUB_LICENCES.get(model.licence):
        return {"license": known}
    # Only Black Forest Labs' repositories are known to have a licence file with this path. For other models, link the model's
    # page, which links the licence.
    path = "/blob/main/LICENSE.md" if model.weights.startswith("black-forest-labs/") else ""
    return {
        "license": "other",
        "license_name": LICENCE_NAMES.get(model.name) or "-".join(model.licence.lower().split()),
        "license_link": f"https://huggingface.co/{model.weights}{path}",
    }


def _choice(card: Card) -> ModelChoice:
    return choose_model(mapping(first_process(card.config).get("model")), card.weights_in_image)


def _task(card: Card) -> str:
    """The Hub's name of what the model does."""
    kinds = (model.datasets if (model := _choice(card).model) else None) or DatasetKinds()
    if kinds.videos:
        return "image-to-video" if kinds.first_frame else "text-to-video"
    return "image-to-image" if kinds.control_images[0] else TEXT_TO_IMAGE


def card_text(card: Card) -> str:
    """The card as Markdown below its YAML metadata."""
    metadata = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{metadata}---\n" + "\n".join(_body(card))


def _metadata(card: Card) -> dict[str, Any]:
    model = base_model(card)
    task, owner = _task(card), model_with_weights(model)
    found: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": task}
    if model:
        licence = licence_fields(owner) if owner else {}
        found |= {"base_model": model, "base_model_relation": "adapter", **licence}
    found["tags"] = ["lora", "diffusers", task, "template:diffusion-lora", "ai-toolkit"]
    if card.trigger:
        found["instance_prompt"] = card.trigger
    if card.samples:
        found["widget"] = [
            {"text": sample.prompt or " ", "output": {"url": sample.path}} for sample in card.samples
        ]
    return found


def _body(card: Card) -> list[str]:
    model = base_model(card)
    lines = [f"# {card.job}", "", f"A LoRA for {model or 'the model named in train.yml'}.", ""]
    if card.is_stand_in:
        stand_in = "The stand-in trainer of a local cloud made these weights and samples: no image model can use them."
        lines += [f"**{stand_in}**", ""]
    if card.trigger:
        lines += [f"Trigger word: {_code(card.trigger)}", ""]
    lines += [
        "<Gallery />",
        "",
        "## Use",
        "",
        *_use(card, model),
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
    ]
    process = first_process(card.config)
    settings = [(name, mapping(process.get(part)).get(key)) for name, (part, key) in SETTINGS.items()]
    rows = [(name, one_line(str(value), 60)) for name, value in settings if value is not None]
    rows += [
        ("Exported step", str(card.step)),
        ("Images", str(card.images)),
        ("Run", card.run_id),
        *(
            (heading, text)
            for file in card.weights.items()
            for heading, text in zip(("File", "SHA-256"), file, strict=True)
        ),
    ]
    lines += [f"| {name} | {_code(value)} |" for name, value in rows]
    if card.samples:
        lines += ["", "## Samples", ""]
        lines += [
            f"![{index}]({sample.path})\n\n{_code(sample.prompt)}\n"
            for index, sample in _numbered_samples(card)
        ]
    return [*lines, ""]


def _numbered_samples(card: Card) -> list[tuple[int, CardImage]]:
    return list(enumerate(card.samples, start=1))


def _use(card: Card, model: str) -> list[str]:
    prompt = card.samples[0].prompt if card.samples else card.trigger
    files = " and ".join(f"`{name}`" for name in card.weights)
    lines = [f"ComfyUI: put {files} into `models/loras/`."]
    if not model or _task(card) != TEXT_TO_IMAGE:
        return lines
    return [
        *lines,
        "",
        "diffusers:",
        "",
        "```python",
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        f'pipeline = DiffusionPipeline.from_pretrained("{model}", torch_dtype=torch.bfloat16).to("cuda")',
        f'pipeline.load_lora_weights(".", weight_name="{next(iter(card.weights))}")',
        f"image = pipeline({one_line(prompt)!r}).images[0]",
        "```",
    ]


def _code(text: str) -> str:
    """As Markdown code that fits into a table: text from a run must not become markup."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`"
