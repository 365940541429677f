"""Rules about keys of train.yml that are fine alone but fail together, and about trainings that leave no LoRA."""

import re
from collections.abc import Callable, Iterator, Mapping
from posixpath import normpath
from typing import Any

from flux_training.training.finding import Problem
from flux_training.training.lint.registry import Area, Subject
from flux_training.training.lint.rules.options import (
    ENCODES_CONTROLS,
    MAX_SEED,
    caches_text_embeddings,
    is_number,
    sample_prompts,
)
from flux_training.training.models.layers import MAX_LAYER_PARAMETERS, chosen_layers
from flux_training.training.models.table import FLOWMATCH
from flux_training.training.names import folder_of
from flux_training.training.runs.run import NOISE_STAGES
from flux_training.training.train_yml.augmentations import augmentation_faults
from flux_training.training.train_yml.dataset_folders import (
    PAIRED_KEYS,
    FolderKind,
    paired_paths,
    trained_folder,
)
from flux_training.training.train_yml.optimizer_parameters import parameter_faults
from flux_training.training.train_yml.trainer_config import OUTPUT_FOLDER, uses_variable
from flux_training.training.values import mapping

AREA = Area("combinations")
# A conflict's message, and the key of train.yml that it is reported for.
Conflict = tuple[str, tuple[str, ...]]
Conflicts = Callable[[Subject], Iterator[Conflict]]
SWAPPING_OPTIMIZERS = ("adafactor", "automagic")
MISSING_PACKAGES = {"lion": "lion-pytorch", "dadaptation.*": "dadaptation"}
# The largest timestep that ai-toolkit's BaseSDTrainProcess uses for each `timestep_type`.
LAST_TIMESTEPS = {"two_step": 499, "four_step": 750, "eight_step": 875}
# Architectures whose models set `use_raw_control_images` in ai-toolkit.
RAW_CONTROL_ARCHS = (
    "flux2",
    "flux2_klein_4b",
    "flux2_klein_9b",
    "qwen_image_edit_plus",
    "krea2",
    "boogu_image_edit",
    "mageflow_edit",
    "minimax_h3_ref2va",
)
# The dates on which ai-toolkit began to allow these combinations (commits
# 3d472de2, 8c1a4082, 257da9b5, b96476a8).
NO_WORKERS_SINCE = "2026-07-29"
CACHED_PRESERVATION_SINCE = "2026-08-09"
IMAGES_WITH_FRAMES_SINCE = "2026-08-08"
BATCHED_FRAME_COUNT_SINCE = "2026-08-21"
MIN_SNR_GAMMA = 1e-6  # ai-toolkit ignores a value below this


def _datasets(job: Subject) -> list[Mapping[str, Any]]:
    return list(job.config.datasets) if job.config else []


def _number(value: object, default: float) -> float:
    return value if isinstance(value, int | float) else default


def _flags_that_need_is_flux(job: Subject) -> Iterator[Conflict]:
    """Both are checked before `arch` is looked at."""
    model = job.section("model")
    for key in ("attn_masking", "split_model_over_gpus"):
        if model.get(key) and not model.get("is_flux"):
            yield f"model.{key} needs model.is_flux: true, even if arch is flux", ("model", key)


def _not_for_flow_matching(job: Subject) -> Iterator[Conflict]:
    if job.model and job.model.sampling.noise != FLOWMATCH:
        return
    train = job.section("train")
    gammas = [key for key in ("min_snr_gamma", "snr_gamma") if _number(train.get(key), 0) > MIN_SNR_GAMMA]
    flags = ("learnable_snr_gos", "standardize_latents", "free_u", "train_turbo")
    for key in (*gammas, *(key for key in flags if train.get(key))):
        message = f"train.{key} works only for models like Stable Diffusion, not for those that match flows"
        yield message, ("train", key)
    if mapping(job.section("network").get("network_kwargs")).get("full_train_in_out"):
        place = ("network", "network_kwargs", "full_train_in_out")
        yield "network_kwargs.full_train_in_out works only for models like Stable Diffusion", place
    if job.section("model").get("is_v_pred"):
        yield "model.is_v_pred works only for models like Stable Diffusion", ("model", "is_v_pred")
    kind = str(job.section("network").get("type", "lora")).lower()
    if kind in ("locon", "lycoris"):
        yield f"ai-toolkit finds no layer of the model for a {kind} network, and stops", ("network", "type")
    if kind == "lorm":
        yield "network.type lorm replaces layers of the model and leaves no LoRA", ("network", "type")


def _layer_filters(job: Subject) -> Iterator[Conflict]:
    """ai-toolkit looks for each entry in the names of the layers, and takes each character of a text for an entry."""
    chosen = mapping(job.section("network").get("network_kwargs"))
    place = ("network", "network_kwargs")
    wrong = [
        key
        for key in ("only_if_contains", "ignore_if_contains")
        if not _is_list_of_texts(key, chosen.get(key))
    ]
    for key in wrong:
        yield (
            f"network_kwargs.{key} is {chosen[key]!r}: must be a list of parts of layers' names",
            (*place, key),
        )
    only, ignored = chosen.get("only_if_contains"), chosen.get("ignore_if_contains") or []
    is_known = not wrong and not uses_variable(only) and not uses_variable(ignored)
    if is_known and _trains_flux_blocks(job) and not chosen_layers(only, ignored):
        yield "only_if_contains and ignore_if_contains leave no layer of FLUX.1 to train", place
    least = chosen.get("parameter_threshold")
    if is_number(least) and _trains_flux_blocks(job) and least > MAX_LAYER_PARAMETERS:
        yield (
            f"parameter_threshold {least} leaves no layer of FLUX.1 to train: the largest has {MAX_LAYER_PARAMETERS} parameters",
            (*place, "parameter_threshold"),
        )


def _is_list_of_texts(key: str, value: object) -> bool:
    if value is None or (key == "ignore_if_contains" and value == []):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _trains_flux_blocks(job: Subject) -> bool:
    is_flux = job.model is not None and job.choice.arch == "flux"
    return is_flux and bool(job.section("network").get("transformer_only", True))


def _repeated_accumulation_keys(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    if (
        _number(train.get("gradient_accumulation"), 1) > 1
        and train.get("gradient_accumulation_steps", 1) != 1
    ):
        message = "gradient_accumulation and gradient_accumulation_steps are both set; keep one"
        yield message, ("train", "gradient_accumulation")


def _missing_packages_and_captions(job: Subject) -> Iterator[Conflict]:
    """Packages, captions and adapters that a job here cannot have."""
    if job.section("train").get("short_and_long_captions"):
        message = "short_and_long_captions needs two captions for each image, but a job has one text file"
        yield message, ("train", "short_and_long_captions")
    if job.section("train").get("xformers"):
        message = "train.xformers needs the package xformers, which ai-toolkit does not install; delete it"
        yield message, ("train", "xformers")
    for number, entry in enumerate(_datasets(job)):
        if entry.get("cache_clip_vision_to_disk"):
            place = ("datasets", str(number), "cache_clip_vision_to_disk")
            yield "cache_clip_vision_to_disk needs an adapter, which is not supported here", place


def _guidance_conflicts(job: Subject) -> Iterator[Conflict]:
    train, model = job.section("train"), job.section("model")
    bypasses = train.get("bypass_guidance_embedding") or model.get("use_flux_cfg")
    if bypasses and train.get("do_guidance_loss"):
        message = "do_guidance_loss cannot be used with bypass_guidance_embedding or model.use_flux_cfg"
        yield message, ("train", "do_guidance_loss")
    target = train.get("guidance_loss_target")
    is_range = isinstance(target, list) and len(target) > 1 and all(map(is_number, target[:2]))
    if train.get("do_guidance_loss") and isinstance(target, list) and not is_range:
        message = f"guidance_loss_target {target!r} must be a number or a range such as [2, 4]"
        yield message, ("train", "guidance_loss_target")


def _adapter_conflicts(job: Subject) -> Iterator[Conflict]:
    model = job.section("model")
    recovers = model.get("accuracy_recovery_adapter") or "|" in str(model.get("qtype"))
    assistant, inference = model.get("assistant_lora_path"), model.get("inference_lora_path")
    if assistant and recovers:
        yield (
            "assistant_lora_path and an accuracy recovery adapter exclude each other",
            (
                "model",
                "assistant_lora_path",
            ),
        )
    if assistant and inference:
        yield (
            "assistant_lora_path and inference_lora_path exclude each other",
            (
                "model",
                "inference_lora_path",
            ),
        )
    if str(model.get("qtype")).count("|") > 1:
        yield (
            f"model.qtype {model['qtype']} names more than one accuracy recovery adapter",
            ("model", "qtype"),
        )
    if (assistant or inference) and model.get("lora_path"):
        yield "lora_path excludes assistant_lora_path and inference_lora_path", ("model", "lora_path")


def _preservation_conflicts(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    if not train.get("diff_output_preservation"):
        return
    place = ("train", "diff_output_preservation")
    if train.get("blank_prompt_preservation"):
        yield "diff_output_preservation and blank_prompt_preservation exclude each other", place
    if train.get("train_text_encoder"):
        yield "diff_output_preservation cannot be used with train_text_encoder", place
    if job.config and job.process.get("trigger_word") is None and not job.config.trigger:
        yield "diff_output_preservation needs a trigger_word", place
    if job.trainer_date < CACHED_PRESERVATION_SINCE:
        yield from _preservation_before_caching(job)


def _preservation_before_caching(job: Subject) -> Iterator[Conflict]:
    place = ("train", "diff_output_preservation")
    since = f"needs ai-toolkit of {CACHED_PRESERVATION_SINCE}; the image has that of {job.trainer_date}"
    if job.config and job.config.trigger and job.process.get("trigger_word") is None:
        yield f"diff_output_preservation with the trigger_word of a dataset {since}", place
    if any(caches_text_embeddings(job)):
        yield f"diff_output_preservation with cache_text_embeddings {since}", place


def _text_embedding_conflicts(job: Subject) -> Iterator[Conflict]:
    train, caching = job.section("train"), caches_text_embeddings(job)
    if any(caching) and not all(caching):
        yield "cache_text_embeddings must be set for all datasets or for none", ("datasets",)
    if train.get("train_text_encoder") and (any(caching) or train.get("unload_text_encoder")):
        message = "a text encoder that is unloaded or cached cannot be trained"
        yield message, ("train", "train_text_encoder")
    if train.get("unload_text_encoder") and job.choice.arch in ENCODES_CONTROLS:
        message = f"{job.choice.arch} encodes each control image with its caption, so unload_text_encoder cannot be used; cache_text_embeddings can"
        yield message, ("train", "unload_text_encoder")


def _automatic_frame_count_conflicts(job: Subject) -> Iterator[Conflict]:
    is_batched = _number(job.section("train").get("batch_size"), 1) > 1
    if not is_batched or job.trainer_date >= BATCHED_FRAME_COUNT_SINCE:
        return
    for number, entry in enumerate(_datasets(job)):
        if entry.get("auto_frame_count"):
            message = f"auto_frame_count with a batch_size above 1 needs ai-toolkit of {BATCHED_FRAME_COUNT_SINCE}; the image has that of {job.trainer_date}"
            yield message, ("datasets", str(number), "auto_frame_count")


def _images_with_frames(job: Subject) -> Iterator[Conflict]:
    """An older ai-toolkit looks only for videos then."""
    if job.trainer_date >= IMAGES_WITH_FRAMES_SINCE:
        return
    folders = {folder_of(name) for name, image in job.images.items() if not image.is_video}
    for number, entry in enumerate(_datasets(job)):
        key = "auto_frame_count" if entry.get("auto_frame_count") else "num_frames"
        has_frames = key == "auto_frame_count" or _number(entry.get(key), 1) > 1
        if has_frames and trained_folder(entry) in folders:
            message = f"{key} with images needs ai-toolkit of {IMAGES_WITH_FRAMES_SINCE}; the image has that of {job.trainer_date}, which reads only videos"
            yield message, ("datasets", str(number), key)


def _prefetching_without_workers(job: Subject) -> Iterator[Conflict]:
    """ai-toolkit's loader of all datasets has the options of the first."""
    first = next(iter(_datasets(job)), {})
    if first.get("num_workers", 1) != 0 or first.get("prefetch_factor", 1) is None:
        return
    if job.trainer_date < NO_WORKERS_SINCE:
        message = f"num_workers 0 needs prefetch_factor: null with ai-toolkit before {NO_WORKERS_SINCE}; the image has that of {job.trainer_date}"
        yield message, ("datasets", "0", "num_workers")


def _datasets_without_buckets(job: Subject) -> Iterator[Conflict]:
    datasets = _datasets(job)
    having = [bool(entry.get("buckets", True)) for entry in datasets]
    if any(having) and not all(having):
        yield "buckets must be on for all datasets or for none", ("datasets",)
    for number, entry in enumerate(datasets):
        if not any(having) and entry.get("batch_size") is not None:
            message = f"datasets[{number}].batch_size needs buckets"
            yield message, ("datasets", str(number), "batch_size")


def _controls_need_buckets(job: Subject) -> Iterator[Conflict]:
    for number, entry in enumerate(_datasets(job) if job.choice.arch not in RAW_CONTROL_ARCHS else ()):
        has_controls = any(PAIRED_KEYS[key] is FolderKind.CONTROL for key, _ in paired_paths(entry))
        if has_controls and not entry.get("buckets", True):
            yield "control images need buckets", ("datasets", str(number), "buckets")


def _only_regularization(job: Subject) -> Iterator[Conflict]:
    datasets = _datasets(job)
    if datasets and all(entry.get("is_reg") for entry in datasets):
        yield "all datasets are regularization images (is_reg), so there is nothing to learn", ("datasets",)


def _too_few_random_triggers(job: Subject) -> Iterator[Conflict]:
    for number, entry in enumerate(_datasets(job)):
        triggers, most = entry.get("random_triggers"), entry.get("random_triggers_max", 1)
        if isinstance(triggers, list) and triggers and _number(most, 0) > len(triggers):
            message = f"random_triggers_max is {most}, but there are {len(triggers)} random_triggers"
            yield message, ("datasets", str(number), "random_triggers_max")


def _removed_options(job: Subject) -> Iterator[Conflict]:
    for number, entry in enumerate(_datasets(job)):
        if entry.get("poi") is not None:
            yield "ai-toolkit no longer supports poi and stops", ("datasets", str(number), "poi")


def _optimizer_conflicts(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    name, place = str(train.get("optimizer", "adamw")).lower(), ("train", "optimizer")
    package = next((package for start, package in MISSING_PACKAGES.items() if re.fullmatch(start, name)), "")
    if package:
        yield f"optimizer {name} needs the package {package}, which ai-toolkit does not install", place
    if train.get("do_paramiter_swapping") and name not in SWAPPING_OPTIMIZERS:
        yield f"optimizer {name} cannot swap parameters", ("train", "do_paramiter_swapping")


def _optimizer_parameter_faults(job: Subject) -> Iterator[Conflict]:
    for message, place in parameter_faults(job.section("train")):
        yield message, ("train", *place)


def _augmentation_conflicts(job: Subject) -> Iterator[Conflict]:
    augmented = any(entry.get("augmentations") for entry in _datasets(job))
    for number, entry in enumerate(_datasets(job)):
        given = entry.get("augmentations")
        for augmentation in given if isinstance(given, list) else []:
            for message in augmentation_faults(mapping(augmentation)):
                yield message, ("datasets", str(number), "augmentations")
    target = job.section("train").get("loss_target")
    if target in ("differential_noise", "unaugmented") and not augmented:
        yield f"loss_target {target} needs augmentations in a dataset", ("train", "loss_target")


def _denoising_step_conflicts(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    low, high = _number(train.get("min_denoising_steps"), 0), _number(train.get("max_denoising_steps"), 999)
    if low > min(high, _number(train.get("num_train_timesteps"), 1000) - 1):
        yield (
            f"min_denoising_steps {low} is above max_denoising_steps {high}",
            ("train", "min_denoising_steps"),
        )


def _timestep_types_with_too_few_steps(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    kind, steps = train.get("timestep_type"), _number(train.get("num_train_timesteps"), 1000)
    last = LAST_TIMESTEPS.get(kind, 0) if isinstance(kind, str) else 0
    if steps <= last:
        message = (
            f"timestep_type {kind} uses the timestep {last}, but num_train_timesteps is {steps:g}; delete it"
        )
        yield message, ("train", "num_train_timesteps")


def _single_item_batching_conflicts(job: Subject) -> Iterator[Conflict]:
    train = job.section("train")
    if train.get("single_item_batching") and _number(train.get("batch_size"), 1) > 1:
        yield "single_item_batching fails with a batch_size above 1", ("train", "single_item_batching")


def _unsupported_doubled_batches(job: Subject) -> Iterator[Conflict]:
    """Where ai-toolkit doubles the batch, or its timesteps, but not all that FLUX.1 gets with them."""
    train, model = job.section("train"), job.section("model")
    if _number(train.get("batch_size"), 1) <= 1:
        return
    bypasses = train.get("bypass_guidance_embedding") or model.get("use_flux_cfg")
    is_guided = job.model is not None and job.model.name == "flux1-dev" and not bypasses
    if is_guided and train.get("do_cfg"):
        yield "do_cfg fails with a batch_size above 1", ("train", "do_cfg")
    if job.choice.arch == "flux" and train.get("loss_type") == "mean_flow":
        yield "loss_type mean_flow fails with a batch_size above 1", ("train", "loss_type")


def _start_step_beyond_the_end(job: Subject) -> Iterator[Conflict]:
    start, steps = job.section("train").get("start_step"), job.config.steps if job.config else None
    if steps and _number(start, 0) >= steps:
        yield f"start_step {start} leaves none of the {steps} steps to train", ("train", "start_step")


def _seeds_above_the_maximum(job: Subject) -> Iterator[Conflict]:
    """Each prompt has the seed after that of the one before."""
    sample, count = job.section("sample"), len(sample_prompts(job))
    seed = sample.get("seed", 0)
    if not sample.get("walk_seed") or not isinstance(seed, int) or seed > MAX_SEED or not count:
        return
    if seed + count - 1 > MAX_SEED:
        message = f"sample.seed {seed} with walk_seed and {count} prompts goes beyond {MAX_SEED}"
        yield message, ("sample", "seed")


def _log_folder_among_checkpoints(job: Subject) -> Iterator[Conflict]:
    """ai-toolkit takes everything in the output folder that begins with the job's name for a checkpoint, folders too."""
    folder = job.process.get("log_dir")
    if isinstance(folder, str) and normpath(folder) == f"{OUTPUT_FOLDER}/{job.name}":
        yield (
            f"log_dir {folder} is the folder of the checkpoints, and its logs would be loaded as one",
            ("log_dir",),
        )


def _wandb_without_key(job: Subject) -> Iterator[Conflict]:
    if job.section("logging").get("use_wandb") and "WANDB_API_KEY" not in job.variables:
        message = "use_wandb needs WANDB_API_KEY under cluster.environment in the stack's configuration"
        yield message, ("logging", "use_wandb")


CONFLICTS: tuple[Conflicts, ...] = (
    _flags_that_need_is_flux,
    _not_for_flow_matching,
    _layer_filters,
    _missing_packages_and_captions,
    _repeated_accumulation_keys,
    _guidance_conflicts,
    _adapter_conflicts,
    _preservation_conflicts,
    _text_embedding_conflicts,
    _automatic_frame_count_conflicts,
    _images_with_frames,
    _prefetching_without_workers,
    _datasets_without_buckets,
    _controls_need_buckets,
    _only_regularization,
    _too_few_random_triggers,
    _removed_options,
    _optimizer_conflicts,
    _optimizer_parameter_faults,
    _augmentation_conflicts,
    _denoising_step_conflicts,
    _timestep_types_with_too_few_steps,
    _single_item_batching_conflicts,
    _unsupported_doubled_batches,
    _start_step_beyond_the_end,
    _seeds_above_the_maximum,
    _log_folder_among_checkpoints,
    _wandb_without_key,
)


@AREA.error(
    "config-conflict",
    "ai-toolkit stops when it reads this combination of keys, or in the middle of the run",
    "change or delete one of these keys",
)
def conflicting_keys(job: Subject) -> Iterator[Problem]:
    for conflicts in CONFLICTS if job.trains else ():
        for message, place in conflicts(job):
            yield job.process_problem(message, *place)


@AREA.error(
    "result-not-lora",
    "the launcher accepts only a LoRA, with both noise stages if the model has two; other results would be lost after the run was paid for",
    "delete the key, or choose another model",
)
def results_that_are_no_lora(job: Subject) -> Iterator[Problem]:
    if job.model and len(job.model.result_endings) > 1:
        yield from _untrained_stages(job)
        yield from _stage_never_reached(job)
    for key in ("embedding", "adapter", "decorator"):
        if job.process.get(key) is not None:
            yield job.process_problem(f"{key} trains something else beside or instead of the LoRA", key)
    if job.section("train").get("merge_network_on_save"):
        message = "train.merge_network_on_save saves the whole model instead of the LoRA"
        yield job.process_problem(message, "train", "merge_network_on_save")


def _untrained_stages(job: Subject) -> Iterator[Problem]:
    options = mapping(job.section("model").get("model_kwargs"))
    for stage in NOISE_STAGES:
        key = f"train_{stage}"
        if not options.get(key, True):
            message = f"{key}: false leaves the file of this noise stage out"
            yield job.process_problem(message, "model", "model_kwargs", key)


def _stage_never_reached(job: Subject) -> Iterator[Problem]:
    """ai-toolkit counts each batch of gradient_accumulation for a step of the stage."""
    train, steps = job.section("train"), job.config.steps if job.config else None
    every = _number(train.get("switch_boundary_every"), 1)
    if steps and every >= steps * _number(train.get("gradient_accumulation"), 1):
        message = f"switch_boundary_every {every:g} is not below the {steps} steps, so the second noise stage is never trained"
        yield job.process_problem(message, "train", "switch_boundary_every")
