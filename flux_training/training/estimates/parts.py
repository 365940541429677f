"""The parts of a job's time on its node, before any finished run corrects them.

The rate of a GPU is its peak in TFLOPS (flux_training/training/gpu.py). A step takes longer than that by STEP_FACTOR, which is the
spread of public figures (docs/costs.md); all other constants here are assumptions and have wide ranges.
Small steps are limited by the CPU, which starts the GPU's work.
"""

from dataclasses import dataclass
from enum import StrEnum

from flux_training.training.estimates.model_work import image_work, launches, model_work, step_work
from flux_training.training.estimates.ranges import Range
from flux_training.training.estimates.workload import Workload

# Between the median of all public figures (0.52) and that of ai-toolkit's four (0.67, of an A40 and an A100), because SaladCloud's recipe
# trains on an RTX 5090 in an hour. A factor of 1.4 in both directions covers most figures of each trainer (docs/costs.md).
STEP_FACTOR = Range(0.424, 0.6, 0.848)
# A sampler step has no backward pass, no optimizer and no checkpointing. Assumption.
SAMPLE_FACTOR = Range(0.31, 0.45, 0.63)
# Seconds in which the CPU starts a block: the spread of the public figures of small steps, which are of three models.
BLOCK_SECONDS = Range(0.0025, 0.0035, 0.005)
# With layer_offloading, weights travel over the bus in each step. One public figure: 4 times (ai-toolkit issue 148).
OFFLOADING_FACTOR = Range(1.2, 2.5, 5.0)
# For models without a row in MODELS.
UNKNOWN_MODEL_FACTOR = Range(0.3, 1.0, 3.0)
LOAD_SECONDS = Range(60.0, 120.0, 240.0)
# With low_vram, the CPU quantizes.
LOW_VRAM_LOAD_SECONDS = Range(120.0, 300.0, 600.0)
# Weights that the image does not hold: 40 Mbit/s, an assumption about home connections.
SECONDS_PER_GB = Range(80.0, 200.0, 500.0)
# The VAE and the text encoders, for each image and resolution, on an RTX 5090.
ENCODE_SECONDS = Range(0.15, 0.3, 0.6)
SAVE_SECONDS = Range(1.0, 4.0, 10.0)
# The stand-in trainer of the local cloud: measured with 300 and 2,000 steps on two cores, alone and on a busy machine.
STAND_IN_START_SECONDS = Range(1.0, 4.0, 15.0)
STAND_IN_STEP_SECONDS = Range(0.1, 0.15, 0.45)


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
    one = step_work(workload) / tflops
    drawing = SAMPLE_FACTOR.times(image_work(workload) / tflops)
    first = workload.sampling.images if workload.sampling.before_training else 0
    encoded = images * len(workload.resolutions) * workload.frames if workload.encoded_first else 0
    return TrainerTimes(
        _loading(workload),
        ENCODE_SECONDS.times(encoded),
        drawing.times(first),
        _step_time(workload, one).times(max(0, steps - begun)),
        drawing.times(workload.sampling.count_after(begun, steps)),
        SAVE_SECONDS.times(saves_between(workload, begun, steps)),
    )


def _loading(workload: Workload) -> Range:
    weights = LOW_VRAM_LOAD_SECONDS if workload.low_vram else LOAD_SECONDS
    return weights + SECONDS_PER_GB.times(workload.downloaded_gb)


def _step_time(workload: Workload, peak_seconds: float) -> Range:
    """Seconds of a step that takes `peak_seconds` at the GPU's rate."""
    return _step_factor(workload).times(peak_seconds).at_least(BLOCK_SECONDS.times(launches(workload)))


def _step_factor(workload: Workload) -> Range:
    factor = STEP_FACTOR
    if workload.mode.offloaded:
        factor = factor * OFFLOADING_FACTOR
    return factor if model_work(workload.mode.model).known else factor * UNKNOWN_MODEL_FACTOR


def saves_between(workload: Workload, begun: int, steps: int) -> int:
    """How many checkpoints are written after step `begun`, with the final weights."""
    return max(0, steps - 1) // workload.save_every - begun // workload.save_every + 1 if steps > begun else 0
