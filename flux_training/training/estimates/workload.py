"""What a train.yml asks of a GPU, read with ai-toolkit's defaults for missing or invalid values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flux_training.training.models.choice import (
    choose_model,
    downloaded_gb,
    largest_model_of_architecture,
    models_of_architecture,
)
from flux_training.training.models.table import DEFAULT_MODEL
from flux_training.training.train_yml.dataset_folders import NUMBERED_CONTROLS
from flux_training.training.train_yml.document import first_process, rank_of, resolutions_of
from flux_training.training.values import mapping, whole_number

# ai-toolkit's defaults: SampleConfig, SaveConfig and TrainConfig in toolkit/config_modules.py.
DEFAULT_SAMPLE_SIDE = 512
DEFAULT_SAMPLER_STEPS = 20
DEFAULT_SAMPLE_EVERY = 100
DEFAULT_SAVE_EVERY = 1000


@dataclass(frozen=True)
class Mode:
    """Runs of another mode say nothing about this one: another model, or another way to fit it into memory.

    `model`: its name in the table of models, otherwise its architecture and weights.
    """

    model: str = DEFAULT_MODEL
    network: str = "lora"
    quantized: bool = True
    offloaded: bool = False
    checkpointing: bool = True


@dataclass(frozen=True)
class Sampling:
    """`images` at each of the steps 0, `every`, 2 `every`, … and after the last one. `width` and `height` in pixels."""

    images: int = 0
    every: int = DEFAULT_SAMPLE_EVERY
    steps: int = DEFAULT_SAMPLER_STEPS
    width: int = 1024
    height: int = 1024
    frames: int = 1
    before_training: bool = True

    def count_samples_after(self, begun: int, steps: int) -> int:
        """The images that are drawn after step `begun` and up to the end of `steps`."""
        rounds = max(0, steps - 1) // self.every - begun // self.every + 1
        return self.images * max(0, rounds)


@dataclass(frozen=True)
class Workload:
    """`resolutions`: sides in pixels, each trained equally often. `low_vram`: the weights are loaded and quantized by the CPU.

    `controls`: control images of each image, whose tokens the model sees as well. `encoded_first`: the images are encoded before the first step, rather than in each step.
    `downloaded_gb`: the weights that each new node downloads from Hugging Face.
    """

    mode: Mode = field(default_factory=Mode)
    rank: int = 16
    batch: int = 1
    accumulation: int = 1
    resolutions: tuple[int, ...] = (512, 768, 1024)
    frames: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    save_every: int = 250
    low_vram: bool = False
    encoded_first: bool = True
    controls: int = 0
    downloaded_gb: float = 0.0


def workload_of(document: Mapping[str, Any]) -> Workload:
    process = first_process(document)
    train, network, model = (mapping(process.get(key)) for key in ("train", "network", "model"))
    datasets = process.get("datasets")
    entries = [mapping(entry) for entry in datasets] if isinstance(datasets, list) else []
    mode = Mode(
        model_name(model),
        str(network.get("type", "lora")).lower(),
        model.get("quantize") is True,
        model.get("layer_offloading") is True,
        train.get("gradient_checkpointing", True) is not False,
    )
    return Workload(
        mode,
        rank_of(process),
        whole_number(train.get("batch_size"), 1),
        whole_number(train.get("gradient_accumulation"), 1),
        tuple(sorted(resolutions_of(process))),
        max((whole_number(entry.get("num_frames"), 1) for entry in entries), default=1),
        _sampling_of(mapping(process.get("sample")), train),
        save_every_of(process),
        model.get("low_vram") is True,
        any(entry.get("cache_latents") or entry.get("cache_latents_to_disk") for entry in entries),
        max((_controls_of(entry) for entry in entries), default=0),
        downloaded_gb(model),
    )


def save_every_of(process: Mapping[str, Any]) -> int:
    """The steps between two checkpoints."""
    return whole_number(mapping(process.get("save")).get("save_every"), DEFAULT_SAVE_EVERY)


def _controls_of(entry: Mapping[str, Any]) -> int:
    """How many control images an image of this dataset has. ai-toolkit ignores `control_path` beside the numbered keys."""
    numbered = sum(isinstance(entry.get(key), str) for key in NUMBERED_CONTROLS)
    paths = entry.get("control_path")
    return numbered or (len(paths) if isinstance(paths, list) else int(isinstance(paths, str)))


def model_name(model: Mapping[str, Any]) -> str:
    """The model's name in the table, or else `<architecture> <weights>`; empty if train.yml names neither.

    Without weights, or with those of the image, it is the largest model of the architecture. Weights that the table does not know have
    a name of their own, because other weights say nothing about their speed.
    """
    choice = choose_model(model)
    if not choice.key:
        return choice.weights
    rows = models_of_architecture(choice.arch)
    row = next((row for row in rows if row.has_weights(choice.weights)), None)
    if not choice.weights:
        row = largest_model_of_architecture(rows)
    return row.name if row else f"{choice.arch} {choice.weights}".strip()


def _sampling_of(sample: Mapping[str, Any], train: Mapping[str, Any]) -> Sampling:
    """Where `samples` and `prompts` both stand, `samples` wins; a text instead of a list is drawn character by character."""
    prompts = sample.get("samples") or sample.get("prompts")
    drawn = len(prompts) if isinstance(prompts, list | str) else 0
    return Sampling(
        0 if train.get("disable_sampling") is True else drawn,
        whole_number(sample.get("sample_every"), DEFAULT_SAMPLE_EVERY),
        whole_number(sample.get("sample_steps"), DEFAULT_SAMPLER_STEPS),
        whole_number(sample.get("width"), DEFAULT_SAMPLE_SIDE),
        whole_number(sample.get("height"), DEFAULT_SAMPLE_SIDE),
        whole_number(sample.get("num_frames"), 1),
        train.get("skip_first_sample") is not True,
    )
