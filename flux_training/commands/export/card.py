"""The model card of an exported LoRA: README.md as the Hugging Face Hub reads it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flux_training.training.train_yml.document import first_process
from flux_training.training.values import mapping
from flux_training.training.words import one_line

# Where the recipe's image holds FLUX.1-dev (docs/trainer.md).
MODEL_FOLDER = "/model"
FLUX_DEV = "black-forest-labs/FLUX.1-dev"
# The fields of a model card for a base model's licence: https://huggingface.co/docs/hub/repositories-licenses.
LICENCES: dict[str, dict[str, str]] = {
    FLUX_DEV: {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": f"https://huggingface.co/{FLUX_DEV}/blob/main/LICENSE.md",
    },
    "black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"},
}
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
    """What the card says. `config` is the run's train.yml; `sha256` is that of the weights in 64 hex digits."""

    job: str
    run_id: str
    step: int
    weights: str
    sha256: str
    trigger: str
    config: Mapping[str, Any]
    images: int
    samples: Sequence[CardImage]


def base_model(config: Mapping[str, Any]) -> str:
    """The Hub's id of the model that was trained, or nothing if train.yml names a folder that is not known."""
    name = str(mapping(first_process(config).get("model")).get("name_or_path") or "")
    if name.rstrip("/") == MODEL_FOLDER:
        return FLUX_DEV
    return name if name.count("/") == 1 and not name.startswith(("/", ".")) else ""


def card_text(card: Card) -> str:
    """The card as Markdown below its YAML metadata."""
    metadata = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{metadata}---\n" + "\n".join(_body(card))


def _metadata(card: Card) -> dict[str, Any]:
    model = base_model(card.config)
    found: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if model:
        found |= {"base_model": model, "base_model_relation": "adapter", **LICENCES.get(model, {})}
    found["tags"] = ["lora", "diffusers", "text-to-image", "template:diffusion-lora", "ai-toolkit"]
    if card.trigger:
        found["instance_prompt"] = card.trigger
    if card.samples:
        found["widget"] = [
            {"text": sample.prompt or " ", "output": {"url": sample.path}} for sample in card.samples
        ]
    return found


def _body(card: Card) -> list[str]:
    model = base_model(card.config)
    lines = [f"# {card.job}", "", f"A LoRA for {model or 'the model named in train.yml'}.", ""]
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
        ("File", card.weights),
        ("SHA-256", card.sha256),
    ]
    lines += [f"| {name} | {_code(value)} |" for name, value in rows]
    if card.samples:
        lines += ["", "## Samples", ""]
        lines += [
            f"![{index}]({sample.path})\n\n{_code(sample.prompt)}\n" for index, sample in _numbered(card)
        ]
    return [*lines, ""]


def _numbered(card: Card) -> list[tuple[int, CardImage]]:
    return list(enumerate(card.samples, start=1))


def _use(card: Card, model: str) -> list[str]:
    prompt = card.samples[0].prompt if card.samples else card.trigger
    lines = [f"ComfyUI: put `{card.weights}` into `models/loras/`."]
    if not model:
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
        f'pipeline.load_lora_weights(".", weight_name="{card.weights}")',
        f"image = pipeline({one_line(prompt)!r}).images[0]",
        "```",
    ]


def _code(text: str) -> str:
    """As Markdown code that fits into a table: text from a run must not become markup."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`"
