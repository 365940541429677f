"""The arithmetic work of a training step and of a sample image, in TFLOP (1e12 floating-point operations).

A token meets each block's matrices once: 12 width² parameters, two operations each. Attention adds 4 tokens² width per block.
A backward pass through frozen weights costs as much as a forward pass, and gradient checkpointing repeats the forward pass.
"""

from dataclasses import dataclass
from functools import cache
from math import pow as power

from flux_training.training.estimates.speed import SPEED, SpeedFit
from flux_training.training.estimates.workload import Mode, Workload
from flux_training.training.models.choice import largest_model_of_architecture, models_of_architecture
from flux_training.training.models.table import DEFAULT_MODEL, MODELS, TokenShape, TrainableModel

MATRICES_PER_BLOCK = 12
# LoKr builds full-size matrices in each step, which takes extra time. No public figure is known, so this
# factor is an assumption.
LOKR_WORK = 1.1


@dataclass(frozen=True)
class ModelWork:
    """What a model computes. `known` is False where the table of models does not have its blocks: FLUX.1's sizes are assumed."""

    tokens: TokenShape
    passes: int
    known: bool = True

    def forward(
        self, width: float, height: float, frames: int = 1, controls: int = 0, speed: SpeedFit = SPEED
    ) -> float:
        """TFLOP of a forward pass for one image or video, with everything that takes as long as that.

        `width` and `height` in pixels. `controls`: control images of the same size, whose tokens are added to the image's.
        """
        shape = self.tokens
        layers = 1 + (frames - 1) / shape.frames + controls
        count = width * height / shape.side**2 * layers + shape.text
        matrices = 2 * MATRICES_PER_BLOCK * shape.width**2 * count
        attention = 4 * count**2 * shape.width
        narrow = 1 + speed.equal_width / shape.width
        return (shape.blocks or 0) * (matrices + attention) * narrow / 1e12


@cache
def model_work(name: str) -> ModelWork:
    """The work of a model, by `Mode.model`."""
    row = _row_of(name)
    found = row or MODELS[DEFAULT_MODEL]
    return ModelWork(found.tokens, found.sampling.passes, known=row is not None)


def _row_of(name: str) -> TrainableModel | None:
    """The model's own row, or that of the largest model of the same architecture; None if there is none whose blocks are known."""
    own = MODELS.get(name)
    row = own or largest_model_of_architecture(
        [row for row in models_of_architecture(name.partition(" ")[0]) if row.tokens.blocks]
    )
    return row if row and row.tokens.blocks else None


def forward_passes_per_step(mode: Mode) -> int:
    """How many forward passes a step costs: forward, backward, and with gradient checkpointing forward again."""
    return 3 if mode.checkpointing else 2


def block_starts_per_step(workload: Workload, model: ModelWork) -> int:
    """How often a step starts a block of the model."""
    return (model.tokens.blocks or 0) * forward_passes_per_step(workload.mode) * workload.accumulation


def step_work(workload: Workload, model: ModelWork, speed: SpeedFit = SPEED) -> float:
    """TFLOP of a step: each resolution is trained equally often."""
    mode, sides = workload.mode, workload.resolutions
    forward = sum(
        model.forward(side, side, workload.frames, workload.controls, speed) for side in sides
    ) / len(sides)
    passes = forward_passes_per_step(mode)
    # For each weight matrix of the model, a LoRA adds two thin matrices with `rank` rows or columns.
    adapter = LOKR_WORK if mode.network == "lokr" else 1 + 2 * workload.rank / model.tokens.width
    images = power(workload.batch, speed.batch_exponent) * workload.accumulation
    return forward * passes * adapter * images


def image_work(workload: Workload) -> float:
    """TFLOP of one sample image."""
    model, sampling = model_work(workload.mode.model), workload.sampling
    forward = model.forward(sampling.width, sampling.height, sampling.frames)
    return forward * sampling.steps * model.passes
