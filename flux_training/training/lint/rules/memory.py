"""Rules about whether the training fits the GPU's memory. The figures are those of the table of models."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.gpu import GB_EACH_MORE_MEGAPIXEL, smallest_class
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.train_yml.document import resolutions_of
from flux_training.training.train_yml.trainer_config import positive_int

AREA = Area("GPU")


@AREA.error(
    "quantize-needed",
    "without quantization the model needs more memory than the GPU has: the run would run out of it",
    "set model.quantize: true",
)
def missing_quantization(job: Subject) -> Iterator[Problem]:
    if job.model and not job.section("model").get("quantize"):
        yield from _lacks_memory(job, "quantize", job.model.memory.unquantized)


@AREA.warning(
    "quantize-needless",
    "quantization costs quality, and the model fits without it",
    "set model.quantize: false",
)
def needless_quantization(job: Subject) -> Iterator[Problem]:
    return _has_memory(job, "quantize", job.model.memory.unquantized if job.model else 0)


@AREA.warning(
    "gpu-small",
    "with less memory than ai-toolkit needs for the model, it needs low_vram and may still run out of memory",
    "choose a GPU with that much memory in the stack's configuration",
)
def gpu_with_too_little_memory(job: Subject) -> Iterator[Problem]:
    if job.model and _gpu_below(job, need := job.model.memory.quantized):
        message = f"{job.model.name} needs {need} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.in_config(message, "model")


@AREA.error(
    "low-vram-needed",
    "with so little memory even loading the model fails without it",
    "set model.low_vram: true, or choose a larger GPU",
)
def missing_low_vram(job: Subject) -> Iterator[Problem]:
    if job.model and not job.section("model").get("low_vram"):
        yield from _lacks_memory(job, "low_vram", job.model.memory.quantized)


@AREA.warning(
    "low-vram-needless",
    "it moves the weights between CPU and GPU, which takes time, and they fit without it",
    "set model.low_vram: false",
)
def needless_low_vram(job: Subject) -> Iterator[Problem]:
    if job.model:
        memory = job.model.memory
        yield from _has_memory(job, "low_vram", memory.unquantized if memory.low_vram else memory.quantized)


@AREA.warning(
    "checkpointing",
    "without gradient checkpointing training needs more memory than loading the model without quantization",
    "set train.gradient_checkpointing: true",
)
def missing_gradient_checkpointing(job: Subject) -> Iterator[Problem]:
    off = job.section("train").get("gradient_checkpointing", True) is False
    if off and job.model and _gpu_below(job, job.model.memory.unquantized):
        message = f"train.gradient_checkpointing is false, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "gradient_checkpointing")


@AREA.warning(
    "batch-memory",
    f"one image of a megapixel fits into the memory that the model needs, and one more for each additional {GB_EACH_MORE_MEGAPIXEL} GB",
    "lower train.batch_size, or raise gradient_accumulation_steps instead",
)
def batches_too_large_for_the_gpu(job: Subject) -> Iterator[Problem]:
    batch = positive_int(job.section("train").get("batch_size", 1))
    if job.model is None or not batch or job.gpu_gb is None:
        return
    megapixels = batch * (max(resolutions_of(job.process)) / 1024) ** 2
    fits = max(1, 1 + (job.gpu_gb - job.model.memory.quantized) // GB_EACH_MORE_MEGAPIXEL)
    if batch > 1 and megapixels > fits:
        message = f"batches of {batch} images, {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.in_config(message, "train", "batch_size")


def _gpu_below(job: Subject, size: int) -> bool:
    return job.gpu_gb is not None and job.gpu_gb < size


def _lacks_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    if _gpu_below(job, size) and not job.section("model").get("layer_offloading"):
        message = f"model.{key} is not set, the model needs {size} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.in_config(message, "model", key)


def _has_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    if job.model and (job.gpu_gb or 0) >= size and job.section("model").get(key):
        message = f"model.{key} is set, the model fits into {size} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.in_config(message, "model", key)
