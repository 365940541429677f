"""Rules about whether the training fits the GPU's memory. The figures are those of the table of models."""

from collections.abc import Iterator

from flux_training.training.finding import Problem
from flux_training.training.gpu import GB_EACH_MORE_MEGAPIXEL, smallest_class
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.train_yml.document import resolutions_of
from flux_training.training.train_yml.trainer_config import positive_int
from flux_training.training.values import whole_number

AREA = Area("GPU")


@AREA.error(
    "quantize-needed",
    "without quantization, the model needs more memory than the GPU has, and the run fails",
    "set model.quantize: true",
)
def missing_quantization(job: Subject) -> Iterator[Problem]:
    if job.model and not job.model.memory.fixed and not job.section("model").get("quantize"):
        yield from _lacks_memory(job, "quantize", job.model.memory.unquantized)


@AREA.warning(
    "quantize-needless",
    "quantization reduces quality, and this model fits into the GPU's memory without it",
    "set model.quantize: false",
)
def needless_quantization(job: Subject) -> Iterator[Problem]:
    if job.model and not job.model.memory.fixed:
        need = max(model.memory.unquantized for model in job.choice.possible_models)
        yield from _has_memory(job, "quantize", need)


@AREA.warning(
    "quantize-ignored",
    "ai-toolkit never quantizes Stable Diffusion 1.5 and XL",
    "delete the key for quantization",
)
def ignored_quantization(job: Subject) -> Iterator[Problem]:
    for key in ("quantize", "low_vram"):
        if job.model and job.model.memory.fixed and job.section("model").get(key):
            yield job.process_problem(f"model.{key} is set for {job.model.name}", "model", key)


@AREA.error(
    "memory-short",
    "ai-toolkit does not quantize this model, and its weights alone do not fit into the GPU's memory",
    "choose a larger GPU in the stack's configuration",
)
def weights_larger_than_the_memory(job: Subject) -> Iterator[Problem]:
    if job.model and job.model.memory.fixed and _gpu_has_less_memory(job, job.model.weights_gb):
        message = f"the weights of {job.model.name} take {job.model.weights_gb:.0f} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.process_problem(message, "model")


@AREA.warning(
    "gpu-small",
    "a GPU with less memory than this model needs may run out of memory, even with low_vram",
    "choose a GPU with enough memory in the stack's configuration",
)
def gpu_with_too_little_memory(job: Subject) -> Iterator[Problem]:
    if job.model and _gpu_has_less_memory(job, need := job.model.memory.quantized):
        message = f"{job.model.name} needs {need} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.process_problem(message, "model")


@AREA.error(
    "low-vram-needed",
    "without model.low_vram, a GPU with this little memory cannot even load the model",
    "set model.low_vram: true, or choose a larger GPU",
)
def missing_low_vram(job: Subject) -> Iterator[Problem]:
    if job.model and not job.model.memory.fixed and not job.section("model").get("low_vram"):
        yield from _lacks_memory(job, "low_vram", job.model.memory.quantized)


@AREA.warning(
    "low-vram-needless",
    "low_vram moves the weights between CPU and GPU, which takes time, and this model fits without it",
    "set model.low_vram: false",
)
def needless_low_vram(job: Subject) -> Iterator[Problem]:
    if job.model and not job.model.memory.fixed:
        needs = [model.memory for model in job.choice.possible_models]
        need = max(memory.unquantized if memory.low_vram else memory.quantized for memory in needs)
        yield from _has_memory(job, "low_vram", need)


@AREA.warning(
    "checkpointing",
    "without gradient checkpointing, training needs more memory than loading the model without quantization",
    "set train.gradient_checkpointing: true",
)
def missing_gradient_checkpointing(job: Subject) -> Iterator[Problem]:
    off = job.section("train").get("gradient_checkpointing", True) is False
    if off and job.model and _gpu_has_less_memory(job, job.model.memory.unquantized):
        message = f"train.gradient_checkpointing is false, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.process_problem(message, "train", "gradient_checkpointing")


@AREA.warning(
    "batch-memory",
    f"the memory that the model needs includes one image of a megapixel; each additional {GB_EACH_MORE_MEGAPIXEL} GB is enough for one more (in a video, each time step counts as an image)",
    "lower train.batch_size (and raise gradient_accumulation_steps instead), or lower num_frames and resolution of videos",
)
def batches_too_large_for_the_gpu(job: Subject) -> Iterator[Problem]:
    batch = positive_int(job.section("train").get("batch_size", 1))
    if job.model is None or not batch or job.gpu_gb is None:
        return
    fits = max(1, 1 + (job.gpu_gb - job.model.memory.quantized) // GB_EACH_MORE_MEGAPIXEL)
    gpu = f"{smallest_class(job.gpu)} has {job.gpu_gb} GB"
    megapixels = batch * (max(resolutions_of(job.process)) / 1024) ** 2
    if batch > 1 and megapixels > fits:
        yield job.process_problem(f"batches of {batch} images, {gpu}", "train", "batch_size")
    for number, entry in enumerate(job.config.datasets if job.config else ()):
        frames = whole_number(entry.get("num_frames"), 1)
        steps = 1 + (frames - 1) // job.model.tokens.frames
        if job.model.datasets.videos and frames > 1 and (size := megapixels * steps) > fits:
            message = f"videos of {frames} frames count as {size:.0f} images of a megapixel, {gpu}"
            yield job.process_problem(message, "datasets", str(number), "num_frames")


def _gpu_has_less_memory(job: Subject, size: float) -> bool:
    return job.gpu_gb is not None and job.gpu_gb < size


def _lacks_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    if _gpu_has_less_memory(job, size) and not job.section("model").get("layer_offloading"):
        message = f"model.{key} is not set, the model needs {size} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.process_problem(message, "model", key)


def _has_memory(job: Subject, key: str, size: int) -> Iterator[Problem]:
    if job.model and (job.gpu_gb or 0) >= size and job.section("model").get(key):
        message = f"model.{key} is set, the model fits into {size} GB, and {smallest_class(job.gpu)} has {job.gpu_gb} GB"
        yield job.process_problem(message, "model", key)
