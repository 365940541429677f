"""Rules about how a LoRA is trained: rates, sizes, samples, and whether it fits the GPU."""

import math
from collections.abc import Iterator
from typing import TypeGuard

from flux_training.training.finding import Problem
from flux_training.training.gpu import GB_EACH_MORE_MEGAPIXEL, GB_QUANTIZED, GB_UNQUANTIZED
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.captions import has_placeholder
from flux_training.training.train_yml.document import resolutions_of
from flux_training.training.train_yml.trainer_config import positive_int

AREA = Area("training")
GPU_AREA = Area("GPU")
# Half and twice the range that ai-toolkit's example for FLUX recommends (500 to 4000 steps).
MIN_STEPS, MAX_STEPS = 250, 8000
MIN_RATE, MAX_RATE = 1e-5, 1e-3
MIN_RANK, MAX_RANK = 2, 128
MAX_SAVE_EVERY = 1000
MAX_SAMPLES = 200
MIN_RESOLUTION, MAX_RESOLUTION = 256, 1536
# These optimizers find the rate themselves, as a factor of lr.
ADAPTIVE_OPTIMIZERS = ("prodigy", "dadapt")
FLOWMATCH = "flowmatch"
FLUX_ARCHS = ("flux", "flex1", "flux_kontext")
# ai-toolkit looks at these before it looks at is_flux.
OTHER_MODELS = (
    "is_v2",
    "is_v3",
    "is_xl",
    "is_pixart",
    "is_pixart_sigma",
    "is_auraflow",
    "is_lumina2",
    "is_ssd",
    "is_vega",
)
# What loads the LoRA types that ai-toolkit can train, besides ai-toolkit itself.
PROGRAMS = {
    "lora": "every program that knows FLUX",
    "dora": "ComfyUI; diffusers and most web services refuse it",
    "lokr": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "locon": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "lycoris": "ComfyUI and programs with LyCORIS; diffusers and most web services refuse it",
    "fullrank": "ai-toolkit only",
}


@AREA.error(
    "model-not-flux",
    "only FLUX.1 can be trained here; ai-toolkit takes a model without arch and is_flux for Stable Diffusion 1, and arch counts more than is_flux",
    f"set model.is_flux: true without arch, or arch: {FLUX_ARCHS[0]}",
)
def models_other_than_flux(job: Subject) -> Iterator[Problem]:
    if not job.trains:
        return
    model = job.section("model")
    for key in OTHER_MODELS:
        if model.get(key):
            yield job.in_config(f"model.{key} is {model[key]!r}", "model", key)
    if (arch := model.get("arch")) is not None:
        if str(arch).split(":")[0] not in FLUX_ARCHS:
            yield job.in_config(f"model.arch is {arch!r}", "model", "arch")
    elif not model.get("is_flux"):
        yield job.in_config("neither model.is_flux nor model.arch says FLUX", "model")


@AREA.error(
    "network-missing",
    "without it ai-toolkit trains all 12 billion parameters, which do not fit on consumer GPUs",
    "add network: {type: lora, linear: 16, linear_alpha: 16}",
)
def missing_network(job: Subject) -> Iterator[Problem]:
    if job.trains and not job.section("network"):
        yield job.in_config("there is no network", "network")


@AREA.warning("network-type", "not every program can load other kinds of LoRA", "set network.type: lora")
def uncommon_network_types(job: Subject) -> Iterator[Problem]:
    kind = str(job.section("network").get("type", "lora")).lower()
    if kind != "lora" and kind in PROGRAMS:
        yield job.in_config(f"network.type is {kind}, which is loaded by {PROGRAMS[kind]}", "network", "type")


@AREA.error("rank-invalid", "the rank is a whole number", "use 4 to 64, such as 16")
def invalid_ranks(job: Subject) -> Iterator[Problem]:
    network = job.section("network")
    if str(network.get("type")).lower() == "lokr" and network.get("lokr_full_rank", True):
        return  # ai-toolkit replaces the rank
    for key in ("linear", "rank"):
        value = network.get(key)
        if value is not None and positive_int(value) is None:
            yield job.in_config(f"network.{key} is {value!r}", "network", key)


@AREA.warning(
    "rank-unusual",
    f"below {MIN_RANK} a LoRA hardly learns, above {MAX_RANK} it only becomes slower and larger",
    "16 is common",
)
def unusual_rank(job: Subject) -> Iterator[Problem]:
    rank = _rank(job)
    if rank is not None and not MIN_RANK <= rank <= MAX_RANK:
        yield job.in_config(f"the rank is {rank}", "network", "linear")


@AREA.warning(
    "rank-alpha",
    "alpha / rank scales the LoRA: far from 1 it learns many times slower or faster than the learning rate suggests",
    "set network.linear_alpha to the rank",
)
def alpha_far_from_the_rank(job: Subject) -> Iterator[Problem]:
    network = job.section("network")
    rank, alpha = _rank(job), network.get("linear_alpha", network.get("alpha", 1))
    if not rank or network.get("type", "lora") != "lora" or not _is_number(alpha):
        return
    if not 0.25 <= alpha / rank <= 4:
        yield job.in_config(f"rank {rank} with alpha {alpha}", "network", "linear_alpha")


AREA.setting(
    "error",
    "learning-rate-invalid",
    "train.lr",
    lambda value: not (_is_number(value) and value > 0),
    "the learning rate is a number above 0",
    "set it, for example to 1e-4",
)


@AREA.warning(
    "learning-rate",
    f"FLUX learns nothing below {MIN_RATE:g} and diverges above {MAX_RATE:g}",
    "1e-4 is common, 4e-4 for few steps",
)
def unusual_learning_rate(job: Subject) -> Iterator[Problem]:
    rate = job.section("train").get("lr")
    optimizer = str(job.section("train").get("optimizer", "")).lower()
    if not _is_number(rate) or rate <= 0 or optimizer.startswith(ADAPTIVE_OPTIMIZERS):
        return
    if not MIN_RATE <= rate <= MAX_RATE:
        yield job.in_config(f"train.lr is {rate:g}", "train", "lr")


@AREA.warning(
    "steps-unusual",
    f"ai-toolkit calls 500 to 4000 a good range for FLUX; fewer than {MIN_STEPS} teach little, more than {MAX_STEPS} cost money without effect",
    "2000 is common",
)
def unusual_number_of_steps(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    if steps is not None and not MIN_STEPS <= steps <= MAX_STEPS:
        yield job.in_config(f"train.steps is {steps}", "train", "steps")


@AREA.warning(
    "save-every-misfit",
    "steps after the last save are lost in an interruption, and samples do not match checkpoints",
    "choose save.save_every so that train.steps is a multiple of it",
)
def saves_that_do_not_match_the_steps(job: Subject) -> Iterator[Problem]:
    if not job.config or not job.config.steps or not job.config.save_every:
        return
    steps, every = job.config.steps, job.config.save_every
    if every > steps:
        yield job.in_config(
            f"save_every {every} is above steps {steps}: no checkpoint is saved", "save", "save_every"
        )
    elif steps % every:
        yield job.in_config(f"save_every {every} does not divide steps {steps}", "save", "save_every")


@AREA.warning(
    "saves-rare",
    "a SaladCloud node can disappear at any time, and the steps since the last save are trained and billed again",
    "save about every 250 steps",
)
def rare_saves(job: Subject) -> Iterator[Problem]:
    every = job.config.save_every if job.config else None
    if every and every > MAX_SAVE_EVERY:
        yield job.in_config(f"saves only every {every} steps", "save", "save_every")


AREA.setting(
    "error",
    "scheduler",
    "train.noise_scheduler",
    lambda value: value != FLOWMATCH,
    "FLUX is a flow-matching model and cannot be trained with any other noise",
    "set train.noise_scheduler: flowmatch",
)


@AREA.error(
    "sampler",
    "FLUX is sampled by flow matching, and ai-toolkit stops at the first sample with any other sampler; its default is ddpm",
    "set sample.sampler: flowmatch",
)
def sampler_other_than_flowmatch(job: Subject) -> Iterator[Problem]:
    value = job.section("sample").get("sampler")
    if sample_prompts(job) and value != FLOWMATCH and not job.section("train").get("disable_sampling"):
        yield job.in_config(f"sample.sampler is {value!r}", "sample", "sampler")


AREA.setting(
    "warning",
    "dtype",
    "train.dtype",
    lambda value: value not in ("bf16", "bfloat16"),
    "FLUX trains in bf16: fp16 overflows, fp32 takes twice the memory",
    "set train.dtype: bf16",
    default="fp32",
)
AREA.setting(
    "warning",
    "text-encoder",
    "train.train_text_encoder",
    lambda value: value is True,
    'ai-toolkit: training the text encoder "probably won\'t work with flux"',
    "set train.train_text_encoder: false",
)
AREA.setting(
    "error",
    "train-unet",
    "train.train_unet",
    lambda value: value is False,
    "nothing would be trained that a LoRA of FLUX can contain",
    "set train.train_unet: true",
)


@AREA.warning("caption-dropout", "an image without its caption teaches no words", "0.05 is common")
def high_caption_dropout(job: Subject) -> Iterator[Problem]:
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        rate = entry.get("caption_dropout_rate", 0)
        if _is_number(rate) and rate > 0.5:
            yield job.in_config(
                f"caption_dropout_rate is {rate}", "datasets", str(number), "caption_dropout_rate"
            )


@AREA.warning(
    "resolution-unusual",
    f"FLUX trains on {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels, in steps of 16",
    "[512, 768, 1024] is common",
)
def unusual_resolutions(job: Subject) -> Iterator[Problem]:
    for side in dict.fromkeys(resolutions_of(job.process)):
        if not MIN_RESOLUTION <= side <= MAX_RESOLUTION or side % 16:
            yield job.in_config(f"resolution {side}", "datasets", "0", "resolution")


@AREA.warning(
    "prompts-missing",
    "without samples you cannot see what the LoRA learns until training has ended",
    "add two or three under sample.prompts",
)
def missing_sample_prompts(job: Subject) -> Iterator[Problem]:
    if job.trains and not sample_prompts(job) and not job.section("train").get("disable_sampling"):
        yield job.in_config("there are no sample prompts", "sample", "prompts")


@AREA.warning(
    "prompt-trigger",
    "a sample without the trigger word shows FLUX instead of the LoRA",
    "write [trigger] in place of the subject",
)
def prompts_without_the_trigger_word(job: Subject) -> Iterator[Problem]:
    trigger = job.config.trigger if job.config else ""
    for place, prompt in sample_prompts(job) if trigger else ():
        if trigger not in prompt and not has_placeholder(prompt):
            yield job.in_config(f"`{_short(prompt)}` does not contain the trigger word `{trigger}`", *place)


@AREA.warning(
    "prompt-placeholder",
    "without a trigger_word FLUX sees the placeholder itself",
    "set trigger_word, or write the word itself",
)
def prompts_with_a_placeholder_but_no_trigger_word(job: Subject) -> Iterator[Problem]:
    for place, prompt in sample_prompts(job) if job.config and not job.config.trigger else ():
        if has_placeholder(prompt):
            yield job.in_config(f"[trigger] in `{_short(prompt)}` has no meaning", *place)


@AREA.warning(
    "samples-many",
    "each sample takes about 20 seconds of GPU time",
    "raise sample.sample_every, or use fewer prompts",
)
def too_many_samples(job: Subject) -> Iterator[Problem]:
    steps = job.config.steps if job.config else None
    every = positive_int(job.section("sample").get("sample_every", 100))
    if steps and every and not job.section("train").get("disable_sampling"):
        count = (steps // every + 1) * len(sample_prompts(job))
        if count > MAX_SAMPLES:
            yield job.in_config(f"{count} samples in one run", "sample", "sample_every")


@GPU_AREA.error(
    "quantize-needed",
    f"FLUX.1-dev without quantization needs {GB_UNQUANTIZED} GB: the run would run out of memory",
    "set model.quantize: true",
)
def missing_quantization(job: Subject) -> Iterator[Problem]:
    return _lacks_memory(job, "quantize", GB_UNQUANTIZED)


@GPU_AREA.warning(
    "quantize-needless",
    f"quantization costs quality, and FLUX.1-dev fits into {GB_UNQUANTIZED} GB without it",
    "set model.quantize: false",
)
def needless_quantization(job: Subject) -> Iterator[Problem]:
    return _has_memory(job, "quantize", GB_UNQUANTIZED)


@GPU_AREA.warning(
    "gpu-small",
    f"ai-toolkit needs {GB_QUANTIZED} GB for FLUX.1-dev; with less it needs low_vram and may still run out of memory",
    f"choose a GPU with {GB_QUANTIZED} GB in the stack's configuration",
)
def gpu_with_too_little_memory(job: Subject) -> Iterator[Problem]:
    if _gpu_below(job, GB_QUANTIZED):
        yield job.in_config(f"{job.gpu} has {job.gpu_gb} GB", "model")


@GPU_AREA.error(
    "low-vram-needed",
    f"below {GB_QUANTIZED} GB even loading FLUX.1-dev fails without it",
    "set model.low_vram: true, or choose a larger GPU",
)
def missing_low_vram(job: Subject) -> Iterator[Problem]:
    return _lacks_memory(job, "low_vram", GB_QUANTIZED)


@GPU_AREA.warning(
    "low-vram-needless",
    f"it moves the weights between CPU and GPU, which takes time; they fit into {GB_QUANTIZED} GB",
    "set model.low_vram: false",
)
def needless_low_vram(job: Subject) -> Iterator[Problem]:
    return _has_memory(job, "low_vram", GB_QUANTIZED)


@GPU_AREA.warning(
    "checkpointing",
    f"without gradient checkpointing FLUX.1-dev needs more than {GB_UNQUANTIZED} GB",
    "set train.gradient_checkpointing: true",
)
def missing_gradient_checkpointing(job: Subject) -> Iterator[Problem]:
    off = job.section("train").get("gradient_checkpointing", True) is False
    if off and _gpu_below(job, GB_UNQUANTIZED):
        message = f"train.gradient_checkpointing is false, and {job.gpu} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "gradient_checkpointing")


@GPU_AREA.warning(
    "batch-memory",
    f"one image of a megapixel fits into {GB_QUANTIZED} GB with FLUX.1-dev, and one more for each additional {GB_EACH_MORE_MEGAPIXEL} GB",
    "lower train.batch_size, or raise gradient_accumulation_steps instead",
)
def batches_too_large_for_the_gpu(job: Subject) -> Iterator[Problem]:
    batch = positive_int(job.section("train").get("batch_size", 1))
    if not job.trains or not batch or job.gpu_gb is None:
        return
    megapixels = batch * (max(resolutions_of(job.process)) / 1024) ** 2
    fits = max(1, 1 + (job.gpu_gb - GB_QUANTIZED) // GB_EACH_MORE_MEGAPIXEL)
    if batch > 1 and megapixels > fits:
        message = f"batches of {batch} images, {job.gpu} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "batch_size")


def sample_prompts(job: Subject) -> list[tuple[tuple[str, ...], str]]:
    """(place, prompt) of each sample prompt. ai-toolkit ignores `prompts` beside `samples`."""
    sample = job.section("sample")
    key = "samples" if "samples" in sample else "prompts"
    entries = sample.get(key)
    found: list[tuple[tuple[str, ...], str]] = []
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


def _lacks_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    model = job.section("model")
    if _gpu_below(job, size) and not model.get(key) and not model.get("layer_offloading"):
        yield job.in_config(f"model.{key} is not set, and {job.gpu} has {job.gpu_gb} GB", "model", key)


def _has_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    if job.trains and (job.gpu_gb or 0) >= size and job.section("model").get(key):
        yield job.in_config(f"model.{key} is set, and {job.gpu} has {job.gpu_gb} GB", "model", key)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
