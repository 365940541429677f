"""The parts of a job's time on its node, before any finished run corrects them.

The rate of a GPU is its peak in TFLOPS (flux_training/training/gpu.py). How much longer than that a step takes is fitted to public
figures (speed.py); the constants here are assumptions with wide ranges, unless a source is named.
"""

from dataclasses import dataclass
from enum import StrEnum

from flux_training.training.estimates.model_work import (
    ModelWork,
    block_starts_per_step,
    image_work,
    model_work,
    step_work,
)
from flux_training.training.estimates.ranges import Range
from flux_training.training.estimates.speed import SPEED, SpeedFit
from flux_training.training.estimates.workload import Mode, Workload

# Like SpeedFit.step, but for drawing a sample image and decoding it. The timestamps in the sample file
# names of https://github.com/ladukaraniket/596-final-project show 8.9 s per image on an A40 and 4.5 s and
# 5.2 s on an A100, which gives factors of 0.34 to 0.42. No figures are known for a GeForce GPU, so the low
# end is an assumption.
SAMPLE_FACTOR = Range(0.2, 0.35, 0.53)
# The extra uncertainty of the estimate for a model that the table of models does not have.
UNKNOWN_MODEL_FACTOR = Range(0.3, 1.0, 3.0)
LOAD_SECONDS = Range(60.0, 120.0, 240.0)
# Loading takes longer with `low_vram` because the weights are quantized on the CPU.
LOW_VRAM_LOAD_SECONDS = Range(120.0, 300.0, 600.0)
# The time to download weights that the image does not contain, assuming a home connection of 40 Mbit/s.
SECONDS_PER_GB = Range(80.0, 200.0, 500.0)
# The time to encode one image at one resolution with the VAE and the text encoders on an RTX 5090.
ENCODE_SECONDS = Range(0.15, 0.3, 0.6)
SAVE_SECONDS = Range(1.0, 4.0, 10.0)
# How long the local cloud's stand-in trainer takes to start. Measured on two cores, idle and busy, with
# 300 and 2,000 steps.
STAND_IN_START_SECONDS = Range(1.0, 4.0, 15.0)
STAND_IN_STEP_SECONDS = Range(0.04, 0.12, 0.45)


class PartName(StrEnum):
    """In the order in which they happen."""

    DOWNLOAD = "download"
    LOADING = "loading"
    CACHING = "caching"
    STEPS = "steps"
    SAMPLES = "samples"
    SAVES = "saves"
    UPLOAD = "upload"
    INTERRUPTIONS = "interruptions"


@dataclass(frozen=True)
class Part:
    """`what` says what takes the time: `1,900 steps`."""

    name: PartName
    what: str
    seconds: Range


@dataclass(frozen=True)
class TrainerTimes:
    """Seconds of the trainer itself. The first four are before the first step and are reported by the node as one time."""

    loading: Range
    caching: Range
    first_samples: Range
    steps: Range
    samples: Range
    saves: Range

    @property
    def start(self) -> Range:
        return self.loading + self.caching + self.first_samples

    @property
    def training(self) -> Range:
        return self.steps + self.samples + self.saves


def stand_in_times(steps: int) -> TrainerTimes:
    """The times of the stand-in trainer, which draws samples and saves in no time."""
    none = Range.exactly(0.0)
    return TrainerTimes(
        STAND_IN_START_SECONDS, none, none, STAND_IN_STEP_SECONDS.times(max(0, steps)), none, none
    )


def trainer_times(workload: Workload, begun: int, steps: int, images: int, tflops: float) -> TrainerTimes:
    """The times from step `begun` to the end of `steps`, with `images` in the dataset, on a GPU with this peak in TFLOPS."""
    model = model_work(workload.mode.model)
    drawing = SAMPLE_FACTOR.times(_quantized_factor(workload.mode) * image_work(workload) / tflops)
    first = workload.sampling.images if workload.sampling.before_training else 0
    encoded = images * len(workload.resolutions) * workload.frames if workload.encoded_first else 0
    return TrainerTimes(
        _loading(workload),
        ENCODE_SECONDS.times(encoded),
        drawing.times(first),
        step_time(workload, model, tflops).times(max(0, steps - begun)),
        drawing.times(workload.sampling.count_samples_after(begun, steps)),
        SAVE_SECONDS.times(count_checkpoints(workload, begun, steps)),
    )


def _loading(workload: Workload) -> Range:
    weights = LOW_VRAM_LOAD_SECONDS if workload.low_vram else LOAD_SECONDS
    return weights + SECONDS_PER_GB.times(workload.downloaded_gb)


def step_time(workload: Workload, model: ModelWork, tflops: float, speed: SpeedFit = SPEED) -> Range:
    """Seconds of a step on a GPU with this peak in TFLOPS."""
    peak_seconds = step_work(workload, model, speed) / tflops
    factor = speed.step.times(_quantized_factor(workload.mode, speed))
    if workload.mode.offloaded:
        factor = factor * speed.offloaded
    if not model.known:
        factor = factor * UNKNOWN_MODEL_FACTOR
    return factor.times(peak_seconds).at_least(
        speed.block_seconds.times(block_starts_per_step(workload, model))
    )


def _quantized_factor(mode: Mode, speed: SpeedFit = SPEED) -> float:
    """Weights are dequantized in each pass: ai-toolkit quantizes weights, not activations."""
    return speed.quantized if mode.quantized else 1.0


def count_checkpoints(workload: Workload, begun: int, steps: int) -> int:
    """How many checkpoints are written after step `begun`, with the final weights."""
    return max(0, steps - 1) // workload.save_every - begun // workload.save_every + 1 if steps > begun else 0
