"""Rules about how a LoRA is trained: rates, sizes, samples, and whether it fits the GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeGuard

from flux_training.training.finding import Problem
from flux_training.training.gpu import GB_EACH_MORE_MEGAPIXEL, GB_QUANTIZED, GB_UNQUANTIZED
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.captions import has_placeholder
from flux_training.training.lint.rules.images import resolutions
from flux_training.training.train_yml.trainer_config import positive_int

AREA = Area("training")
GPU_AREA = Area("GPU")
# ai-toolkit's example for FLUX: "500 - 4000 is a good range". Half of the one, twice the other.
FEW_STEPS, MANY_STEPS = 250, 8000
LOW_RATE, HIGH_RATE = 1e-5, 1e-3
SMALL_RANK, LARGE_RANK = 2, 128
RARE_SAVES = 1000
MOST_SAMPLES = 200
SMALL_RESOLUTION, LARGE_RESOLUTION = 256, 1536
# These find their rate themselves: 1 is their unit.
SELF_TUNING = ("prodigy", "dadapt")
MATCH_SCHEDULER = "flowmatch"


@AREA.error(
    "model-not-flux",
    "ai-toolkit takes a model that is not said to be FLUX for Stable Diffusion 1, and cannot load it",
    "set model.is_flux: true (or arch: flux)",
)
def model_not_flux(job: Subject) -> Iterator[Problem]:
    model = job.section("model")
    if (
        job.trains
        and not model.get("is_flux")
        and str(model.get("arch")).split(":")[0] not in ("flux", "flex1")
    ):
        yield job.in_config("neither model.is_flux nor model.arch says FLUX", "model")


@AREA.error(
    "network-missing",
    "without it ai-toolkit trains all 12 billion parameters, which fit no consumer GPU",
    "add network: {type: lora, linear: 16, linear_alpha: 16}",
)
def network_missing(job: Subject) -> Iterator[Problem]:
    if job.trains and not job.section("network"):
        yield job.in_config("there is no network", "network")


@AREA.warning("network-type", "a LoRA of another kind is not read by every program", "set network.type: lora")
def network_type(job: Subject) -> Iterator[Problem]:
    said = job.section("network").get("type", "lora")
    if said != "lora":
        yield job.in_config(f"network.type is {said!r}", "network", "type")


@AREA.error("rank-invalid", "the rank is a whole number", "write one from 4 to 64, such as 16")
def rank_invalid(job: Subject) -> Iterator[Problem]:
    for key in ("linear", "rank"):
        said = job.section("network").get(key)
        if said is not None and positive_int(said) is None:
            yield job.in_config(f"network.{key} is {said!r}", "network", key)


@AREA.warning(
    "rank-unusual",
    f"below {SMALL_RANK} a LoRA of FLUX hardly learns, above {LARGE_RANK} it only gets slower and larger",
    "16 is common",
)
def rank_unusual(job: Subject) -> Iterator[Problem]:
    rank = _rank(job)
    if rank is not None and not SMALL_RANK <= rank <= LARGE_RANK:
        yield job.in_config(f"the rank is {rank}", "network", "linear")


@AREA.warning(
    "rank-alpha",
    "alpha divided by rank scales the LoRA: far from 1 it learns many times slower or faster than the learning rate says",
    "set network.linear_alpha to the rank",
)
def rank_alpha(job: Subject) -> Iterator[Problem]:
    network = job.section("network")
    rank, alpha = _rank(job), network.get("linear_alpha", network.get("alpha", 1))
    if not rank or network.get("type", "lora") != "lora" or not _is_number(alpha):
        return
    if not 0.25 <= alpha / rank <= 4:
        yield job.in_config(f"rank {rank} with alpha {alpha}", "network", "linear_alpha")


@AREA.error("learning-rate-invalid", "the learning rate is a number above 0", "write one, such as 1e-4")
def learning_rate_invalid(job: Subject) -> Iterator[Problem]:
    said = job.section("train").get("lr")
    if job.trains and not (_is_number(said) and said > 0):
        yield job.in_config(f"train.lr is {said!r}", "train", "lr")


@AREA.warning(
    "learning-rate",
    f"FLUX learns nothing below {LOW_RATE:g} and falls apart above {HIGH_RATE:g}",
    "1e-4 is common, 4e-4 for few steps",
)
def learning_rate(job: Subject) -> Iterator[Problem]:
    rate = job.section("train").get("lr")
    optimizer = str(job.section("train").get("optimizer", "")).lower()
    if not _is_number(rate) or rate <= 0 or optimizer.startswith(SELF_TUNING):
        return
    if not LOW_RATE <= rate <= HIGH_RATE:
        yield job.in_config(f"train.lr is {rate:g}", "train", "lr")


@AREA.warning(
    "steps-unusual",
    f"ai-toolkit calls 500 to 4000 a good range for FLUX; fewer than {FEW_STEPS} teach little, more than {MANY_STEPS} are paid for in vain",
    "2000 is common",
)
def steps_unusual(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    if steps is not None and not FEW_STEPS <= steps <= MANY_STEPS:
        yield job.in_config(f"train.steps is {steps}", "train", "steps")


@AREA.warning(
    "save-every-misfit",
    "the steps after the last save are lost in an interruption, and samples and checkpoints do not line up",
    "choose save.save_every so that train.steps is a multiple of it",
)
def save_every_misfit(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    steps, every = job.config.steps, job.config.save_every
    if every > steps:
        yield job.in_config(
            f"save_every {every} is above steps {steps}: nothing is saved on the way", "save", "save_every"
        )
    elif steps % every:
        yield job.in_config(f"save_every {every} does not divide steps {steps}", "save", "save_every")


@AREA.warning(
    "saves-rare",
    "a node of SaladCloud can go at any time, and what was trained since the last save is trained and paid for again",
    "save every 250 steps or so",
)
def saves_rare(job: Subject) -> Iterator[Problem]:
    every = job.config.save_every if job.config else None
    if every and every > RARE_SAVES:
        yield job.in_config(f"saves every {every} steps only", "save", "save_every")


@AREA.error(
    "scheduler",
    "FLUX is a flow-matching model: any other noise ruins it",
    "set train.noise_scheduler: flowmatch",
)
def scheduler(job: Subject) -> Iterator[Problem]:
    said = job.section("train").get("noise_scheduler")
    if job.trains and said != MATCH_SCHEDULER:
        yield job.in_config(f"train.noise_scheduler is {said!r}", "train", "noise_scheduler")


@AREA.warning(
    "sampler", "samples are noise unless the sampler matches the scheduler", "set sample.sampler: flowmatch"
)
def sampler(job: Subject) -> Iterator[Problem]:
    said = job.section("sample").get("sampler")
    if prompts(job) and said != MATCH_SCHEDULER:
        yield job.in_config(f"sample.sampler is {said!r}", "sample", "sampler")


@AREA.warning(
    "dtype", "FLUX trains in bf16: fp16 overflows, fp32 takes twice the memory", "set train.dtype: bf16"
)
def dtype(job: Subject) -> Iterator[Problem]:
    said = job.section("train").get("dtype", "fp32")
    if job.trains and said not in ("bf16", "bfloat16"):
        yield job.in_config(f"train.dtype is {said!r}", "train", "dtype")


@AREA.warning(
    "text-encoder",
    'ai-toolkit: training the text encoder "probably won\'t work with flux"',
    "set train.train_text_encoder: false",
)
def text_encoder(job: Subject) -> Iterator[Problem]:
    if job.section("train").get("train_text_encoder") is True:
        yield job.in_config("train.train_text_encoder is set", "train", "train_text_encoder")


@AREA.error(
    "train-unet", "then nothing is trained that a LoRA of FLUX could hold", "set train.train_unet: true"
)
def train_unet(job: Subject) -> Iterator[Problem]:
    if job.section("train").get("train_unet", True) is False:
        yield job.in_config("train.train_unet is false", "train", "train_unet")


@AREA.warning("caption-dropout", "an image whose caption is dropped teaches no words", "0.05 is common")
def caption_dropout(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        rate = entry.get("caption_dropout_rate", 0)
        if _is_number(rate) and rate > 0.5:
            yield job.in_config(
                f"caption_dropout_rate is {rate}", "datasets", str(number), "caption_dropout_rate"
            )


@AREA.warning(
    "resolution-unusual",
    f"FLUX trains on {SMALL_RESOLUTION} to {LARGE_RESOLUTION} pixels, in steps of 16",
    "[512, 768, 1024] is common",
)
def resolution_unusual(job: Subject) -> Iterator[Problem]:
    for side in dict.fromkeys(resolutions(job)):
        if not SMALL_RESOLUTION <= side <= LARGE_RESOLUTION or side % 16:
            yield job.in_config(f"resolution {side}", "datasets", "0", "resolution")


@AREA.warning(
    "prompts-missing",
    "without samples nobody sees what the LoRA learns until it is paid for",
    "write two or three under sample.prompts",
)
def prompts_missing(job: Subject) -> Iterator[Problem]:
    if job.trains and not prompts(job) and not job.section("train").get("disable_sampling"):
        yield job.in_config("there are no sample prompts", "sample", "prompts")


@AREA.warning(
    "prompt-trigger",
    "a sample without the trigger word shows FLUX and not the LoRA",
    "write [trigger] where the subject stands",
)
def prompt_trigger(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    for place, prompt in prompts(job) if trigger else ():
        if trigger not in prompt and not has_placeholder(prompt):
            yield job.in_config(f"`{_short(prompt)}` lacks the trigger word `{trigger}`", *place)


@AREA.warning(
    "prompt-placeholder",
    "without a trigger_word FLUX is asked for the placeholder itself",
    "set trigger_word, or write the word itself",
)
def prompt_placeholder(job: Subject) -> Iterator[Problem]:
    for place, prompt in prompts(job) if job.config and not job.config.trigger else ():
        if has_placeholder(prompt):
            yield job.in_config(f"[trigger] in `{_short(prompt)}` stands for nothing", *place)


@AREA.warning(
    "samples-many",
    "each sample takes the GPU some 20 seconds, which are paid for",
    "raise sample.sample_every or take fewer prompts",
)
def samples_many(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    every = positive_int(job.section("sample").get("sample_every", 100))
    if steps and every and not job.section("train").get("disable_sampling"):
        count = (steps // every + 1) * len(prompts(job))
        if count > MOST_SAMPLES:
            yield job.in_config(f"{count} samples in one run", "sample", "sample_every")


@GPU_AREA.error(
    "quantize-needed",
    f"FLUX.1-dev without quantization needs {GB_UNQUANTIZED} GB: the run would end out of memory",
    "set model.quantize: true",
)
def quantize_needed(job: Subject) -> Iterator[Problem]:
    model = job.section("model")
    if _gpu_below(job, GB_UNQUANTIZED) and not model.get("quantize") and not model.get("layer_offloading"):
        yield job.in_config(
            f"model.quantize is not set, and {job.gpu} has {job.gpu_gb} GB", "model", "quantize"
        )


@GPU_AREA.warning(
    "quantize-needless",
    f"quantization costs quality, and from {GB_UNQUANTIZED} GB on FLUX.1-dev fits without",
    "set model.quantize: false",
)
def quantize_needless(job: Subject) -> Iterator[Problem]:
    if job.trains and (job.gpu_gb or 0) >= GB_UNQUANTIZED and job.section("model").get("quantize"):
        yield job.in_config(f"model.quantize is set, and {job.gpu} has {job.gpu_gb} GB", "model", "quantize")


@GPU_AREA.warning(
    "gpu-small",
    f"ai-toolkit wants {GB_QUANTIZED} GB for FLUX.1-dev; below that it needs low_vram and may end out of memory all the same",
    f"choose a GPU with {GB_QUANTIZED} GB in the stack's configuration",
)
def gpu_small(job: Subject) -> Iterator[Problem]:
    if _gpu_below(job, GB_QUANTIZED):
        yield job.in_config(f"{job.gpu} has {job.gpu_gb} GB", "model")


@GPU_AREA.error(
    "low-vram-needed",
    f"below {GB_QUANTIZED} GB even loading FLUX.1-dev fails without it",
    "set model.low_vram: true, or choose a larger GPU",
)
def low_vram_needed(job: Subject) -> Iterator[Problem]:
    model = job.section("model")
    if _gpu_below(job, GB_QUANTIZED) and not model.get("low_vram") and not model.get("layer_offloading"):
        yield job.in_config(
            f"model.low_vram is not set, and {job.gpu} has {job.gpu_gb} GB", "model", "low_vram"
        )


@GPU_AREA.warning(
    "low-vram-needless",
    f"it moves the weights to and fro, which takes paid time; from {GB_QUANTIZED} GB on they fit",
    "set model.low_vram: false",
)
def low_vram_needless(job: Subject) -> Iterator[Problem]:
    if job.trains and (job.gpu_gb or 0) >= GB_QUANTIZED and job.section("model").get("low_vram") is True:
        yield job.in_config(f"model.low_vram is set, and {job.gpu} has {job.gpu_gb} GB", "model", "low_vram")


@GPU_AREA.warning(
    "checkpointing",
    f"without gradient checkpointing FLUX.1-dev needs more than {GB_UNQUANTIZED} GB",
    "set train.gradient_checkpointing: true",
)
def checkpointing(job: Subject) -> Iterator[Problem]:
    off = job.section("train").get("gradient_checkpointing", True) is False
    if off and _gpu_below(job, GB_UNQUANTIZED):
        message = f"train.gradient_checkpointing is false, and {job.gpu} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "gradient_checkpointing")


@GPU_AREA.warning(
    "batch-memory",
    f"with {GB_QUANTIZED} GB one image of a megapixel fits beside FLUX.1-dev, and one more for each {GB_EACH_MORE_MEGAPIXEL} GB above",
    "lower train.batch_size, or raise gradient_accumulation_steps instead",
)
def batch_memory(job: Subject) -> Iterator[Problem]:
    batch = positive_int(job.section("train").get("batch_size", 1))
    if not job.trains or not batch or job.gpu_gb is None:
        return
    megapixels = batch * (max(resolutions(job), default=512) / 1024) ** 2
    fits = max(1, 1 + (job.gpu_gb - GB_QUANTIZED) // GB_EACH_MORE_MEGAPIXEL)
    if batch > 1 and megapixels > fits:
        message = f"batches of {batch} images, {job.gpu} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "batch_size")


def prompts(job: Subject) -> list[tuple[tuple[str, ...], str]]:
    """The sample prompts with their places, from `prompts` or from `samples`."""
    sample = job.section("sample")
    found: list[tuple[tuple[str, ...], str]] = []
    for key in ("prompts", "samples"):
        entries = sample.get(key)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            text = entry.get("prompt") if isinstance(entry, dict) else entry
            if isinstance(text, str):
                found.append((("sample", key, str(number)), text))
    return found


def _rank(job: Subject) -> int | None:
    network = job.section("network")
    return positive_int(network.get("rank", network.get("linear")))


def _gpu_below(job: Subject, size: int) -> bool:
    return job.trains and job.gpu_gb is not None and job.gpu_gb < size


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
