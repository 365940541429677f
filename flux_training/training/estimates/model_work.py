"""The arithmetic work of a training step and of a sample image, in TFLOP (1e12 floating-point operations).

A token meets each block's matrices once: 12 width² parameters, two operations each. Attention adds 4 tokens² width per block.
A backward pass through frozen weights costs as much as a forward pass, and gradient checkpointing repeats the forward pass.
"""

from dataclasses import dataclass
from math import pow as power

from flux_training.training.estimates.workload import Workload

MATRICES_PER_BLOCK = 12
# A second image in the same step costs less than the first: batches of 4 take 3.4 times as long as single images (ai-toolkit issue
# 145, A40), and of 8 six times (SimpleTuner's page on Krea 2). 4 ** 0.9 is 3.5, and 8 ** 0.9 is 6.5.
BATCH_EXPONENT = 0.9
# LoKr builds whole matrices in each step. No public figure is known: this is an assumption.
LOKR_WORK = 1.1


@dataclass(frozen=True)
class ModelWork:
    """The sizes of a diffusion transformer. `passes`: forward passes per sampler step, 2 with classifier-free guidance.

    `known` is False for models without a row, for which FLUX.1's sizes are assumed.
    """

    blocks: int
    width: int
    text_tokens: int
    pixels_per_token: int = 16
    frames_per_token: int = 1
    passes: int = 1
    known: bool = True

    def forward(self, width: float, height: float, frames: int = 1) -> float:
        """TFLOP of a forward pass for one image or video; `width` and `height` in pixels."""
        layers = 1 + (frames - 1) / self.frames_per_token
        tokens = width * height / self.pixels_per_token**2 * layers + self.text_tokens
        matrices = 2 * MATRICES_PER_BLOCK * self.width**2 * tokens
        attention = 4 * tokens**2 * self.width
        return self.blocks * (matrices + attention) / 1e12


# From the models' published configurations (transformer/config.json): double blocks count as one, because a token meets the matrices
# of its own stream only.
FLUX = ModelWork(blocks=57, width=3072, text_tokens=512)
QWEN_IMAGE = ModelWork(blocks=60, width=3072, text_tokens=256, passes=2)
WAN_14B = ModelWork(blocks=40, width=5120, text_tokens=512, frames_per_token=4, passes=2)
WAN_5B = ModelWork(blocks=30, width=3072, text_tokens=512, pixels_per_token=32, frames_per_token=4, passes=2)
MODELS = {
    "flux": FLUX,
    "flux_kontext": FLUX,
    "qwen_image": QWEN_IMAGE,
    "wan21": WAN_14B,
    "wan22_14b": WAN_14B,
    "wan22_5b": WAN_5B,
}
UNKNOWN = ModelWork(FLUX.blocks, FLUX.width, FLUX.text_tokens, known=False)


def model_work(name: str) -> ModelWork:
    return MODELS.get(name, UNKNOWN)


def step_work(workload: Workload) -> float:
    """TFLOP of a step: each resolution is trained equally often."""
    model, mode = model_work(workload.mode.model), workload.mode
    sides = workload.resolutions
    forward = sum(model.forward(side, side, workload.frames) for side in sides) / len(sides)
    passes = 3 if mode.checkpointing else 2
    # Two thin matrices of the rank beside each matrix of the model's width.
    adapter = LOKR_WORK if mode.network == "lokr" else 1 + 2 * workload.rank / model.width
    images = power(workload.batch, BATCH_EXPONENT) * workload.accumulation
    return forward * passes * adapter * images


def image_work(workload: Workload) -> float:
    """TFLOP of one sample image."""
    model, sampling = model_work(workload.mode.model), workload.sampling
    forward = model.forward(sampling.width, sampling.height, sampling.frames)
    return forward * sampling.steps * model.passes
