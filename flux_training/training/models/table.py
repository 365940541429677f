"""The table of models (models.json): what each needs, may be used for and leaves behind. docs/models.md names the sources.

A model is a set of weights. Several models can share an architecture, which is what ai-toolkit calls `arch`: FLUX.1-dev and
FLUX.1-schnell, for example. Architectures that ai-toolkit trains and that have no row here are known by name only
(train_yml/trainer_keys.json).
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

BF16_BYTES, FP32_BYTES = 2, 4  # of a parameter
DEFAULT_MODEL = "flux1-dev"
FLOWMATCH = "flowmatch"  # the sampler and noise scheduler of all transformer models


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MemoryBasis(StrEnum):
    """Where the figures for GPU memory come from."""

    # From the file name of ai-toolkit's example, which contains the GB for quantized training.
    EXAMPLE = "example"
    # A rule of thumb based on the number of parameters (docs/models.md).
    RULE = "rule"


class MemoryNeed(_Row):
    """GB of GPU memory for batches of one image, with the settings of ai-toolkit's example. `low_vram`: one of these settings.

    `fixed`: ai-toolkit loads the model without regard to `quantize` and `low_vram`, so both figures are the same.
    """

    quantized: int
    unquantized: int
    basis: MemoryBasis
    low_vram: bool = False
    fixed: bool = False


class TokenShape(_Row):
    """What one token of the transformer stands for.

    `side`: pixels on each side of its square. `frames`: frames of a video. `text`: tokens of each caption. `width`: numbers in a token,
    which is the width that a LoRA's matrices have on one side. `blocks`: transformer blocks that a token passes, where estimates know them;
    double blocks count as one, because a token passes only the matrices of its own stream.
    """

    side: int
    text: int
    width: int
    frames: int = 1
    blocks: int | None = None


class DatasetKinds(_Row):
    """`control_images`: the fewest and most that belong to one image. `videos`: whether it trains on videos as well as images.

    `first_frame`: it continues an image, which each sample has to name.
    """

    control_images: tuple[int, int] = (0, 0)
    videos: bool = False
    first_frame: bool = False


class SampleSettings(_Row):
    """Settings that suit the model's samples. `noise`: the sampler, which is the noise scheduler of training as well.

    `multiple`: images are cut to sides that this number divides, in pixels. `passes`: forward passes in each sampler step, 2 with
    classifier-free guidance.
    """

    noise: str
    guidance: float
    steps: int
    multiple: int
    passes: int = 1

    @property
    def is_distilled(self) -> bool:
        """Whether the model was made to sample without guidance."""
        return self.guidance == 1


class TrainableModel(_Row):
    """One row. Parameters are in billions.

    `also_arch`: another name under which ai-toolkit loads the same architecture. `flag`: the older key that selects it, such as
    `is_flux`. `weights`, `other_weights`: ids on Hugging Face. `gated`: the download needs a login that accepted the licence.
    `float32`: the ids whose transformer is stored in FP32, `float32_encoders`: the text encoders are as well; others are in BF16.
    `billion_active`: those that take part in one step, if fewer. `training_adapter`: a distilled model needs it in training.
    `tensor_prefix`: how the names of a LoRA's tensors begin. `result_endings`: a LoRA consists of the files `<name><ending>.safetensors`.
    `commit` added the architecture to ai-toolkit on the day `since`.
    """

    name: str
    arch: str
    also_arch: str = ""
    flag: str = ""
    weights: str
    other_weights: tuple[str, ...] = ()
    licence: str
    commercial: bool = True
    gated: bool = False
    billion_parameters: float
    billion_active: float | None = None
    billion_encoder_parameters: float
    float32: tuple[str, ...] = ()
    float32_encoders: bool = False
    memory: MemoryNeed
    tokens: TokenShape
    datasets: DatasetKinds = DatasetKinds()
    sampling: SampleSettings
    training_adapter: str = ""
    tensor_prefix: str
    result_endings: tuple[str, ...] = ("",)
    since: str = Field(pattern=r"^20\d\d-[01]\d-[0-3]\d$")
    commit: str = Field(pattern=r"^[0-9a-f]{8}$")

    @property
    def weights_gb(self) -> float:
        """The size of the weights with their text encoders in BF16."""
        return BF16_BYTES * (self.billion_parameters + self.billion_encoder_parameters)

    def download_gb(self, weights: str = "") -> float:
        """The size of these weights with their text encoders, as they are stored; of the first ones if `weights` is empty.

        Fine-tunes, which the row does not list, are commonly stored in BF16 or FP16.
        """
        name = weights or self.weights
        is_float32 = name.lower() in (known.lower() for known in self.float32)
        transformer = (FP32_BYTES if is_float32 else BF16_BYTES) * self.billion_parameters
        encoders = FP32_BYTES if self.float32_encoders and self.has_weights(name) else BF16_BYTES
        return transformer + encoders * self.billion_encoder_parameters

    @property
    def archs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.arch, self.also_arch)))

    def has_weights(self, name: str) -> bool:
        """Whether `name` is one of its ids on Hugging Face, in any case."""
        return name.lower() in (known.lower() for known in (self.weights, *self.other_weights))


def _read() -> Mapping[str, TrainableModel]:
    document = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    rows = [TrainableModel.model_validate(row) for row in document["models"]]
    return {row.name: row for row in rows}


MODELS = _read()
