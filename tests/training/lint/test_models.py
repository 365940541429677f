"""Lint of train.yml for every model of the table: a suitable one has no errors, and each mistake is found."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.models.choice import ModelPolicy, models_of_architecture
from flux_training.training.models.table import MODELS, TrainableModel
from flux_training.training.train_yml.trainer_config import TrainerFile, parse_train_yml
from flux_training.training.train_yml.trainer_keys import TRAINER_KEYS
from flux_training.training.train_yml.trainer_version import PINNED
from tests.training.lint.trainer_cases import base_document, changed

EXAMPLES = Path(os.environ.get("FLUX_TEST_AI_TOOLKIT", "")) / "config/examples"
LOGIN = frozenset({"HF_TOKEN"})
TRAINABLE = list(MODELS.values())
# Their LoRA consists of a file for each noise stage.
TWO_STAGES = ("wan22-14b", "wan22-i2v")
EDITING = [model for model in TRAINABLE if model.datasets.control_images[0]]
FLOWING = [model for model in TRAINABLE if model.sampling.noise == "flowmatch"]
OTHERS = [model for model in TRAINABLE if "flux" not in model.archs]


SAMPLES = [{"prompt": "[trigger]", "ctrl_img": "control/1.png"}]


def suitable(model: TrainableModel) -> dict[str, Any]:
    """The recipe's train.yml, changed for a model as docs/models.md says."""
    sampling, is_edit = model.sampling, model.datasets.control_images[0] > 0
    return changed(
        base_document(),
        {
            "model.is_flux": "<absent>",
            "model.arch": model.arch,
            "model.name_or_path": model.weights,
            "model.quantize": True,
            "train.noise_scheduler": sampling.noise,
            "sample.sampler": sampling.noise,
            "sample.guidance_scale": sampling.guidance,
            "sample.sample_steps": sampling.steps,
        }
        | ({"model.assistant_lora_path": model.training_adapter} if model.training_adapter else {})
        | ({"datasets[0].control_path": "control"} if is_edit else {})
        | ({"sample.samples": SAMPLES} if is_edit or model.datasets.first_frame else {}),
    )


def subject(document: Mapping[str, Any], gpu: str) -> Subject:
    config = TrainerFile(Path("train.yml"), json.dumps(document).encode(), dict(document))
    name = str(document["config"]["name"])
    return Subject(name, Path("jobs") / name, config, None, gpu, LOGIN)


def for_model(model: TrainableModel, change: Mapping[str, Any] | None = None) -> Subject:
    """A suitable job on a GPU that just fits, with a change."""
    return subject(changed(suitable(model), change or {}), f"X ({model.memory.quantized} GB)")


def codes(job: Subject, severity: str = "error") -> set[str]:
    return {finding.code for finding in check_rules(job) if finding.severity == severity}


def name_of(model: TrainableModel) -> str:
    return model.name


@pytest.mark.parametrize("model", TRAINABLE, ids=name_of)
def test_a_suitable_job_has_no_errors(model: TrainableModel) -> None:
    assert codes(for_model(model)) == set()


@pytest.mark.parametrize("name", TWO_STAGES)
@pytest.mark.parametrize("key", ["train_high_noise", "train_low_noise"])
def test_both_noise_stages_have_to_be_trained(name: str, key: str) -> None:
    job = for_model(MODELS[name], {"model.model_kwargs": {key: False}})
    assert codes(job) == {"result-not-lora"}


@pytest.mark.parametrize("model", TRAINABLE, ids=name_of)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"train.noise_scheduler": "<wrong>"}, "scheduler"),
        ({"sample.sampler": "<wrong>"}, "sampler"),
        ({"model.arch": "zimgae"}, "model-unknown"),
        ({"model.name_or_path": "/weights"}, "model-path"),
        ({"datasets[0].folder_path": "images"}, "folder-path"),
        ({"model.quantize": False, "model.low_vram": True}, "quantize-needed"),
        ({"datasets[0].resolution": [500]}, "resolution-unusual"),
        ({"sample.width": 1001}, "sample-size"),
        ({"sample.guidance_scale": "<wrong>"}, "sample-guidance"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_train_yml_is_found(model: TrainableModel, change: Mapping[str, Any], code: str) -> None:
    sampling = model.sampling
    wrong = {
        "sample.guidance_scale": 7 if sampling.is_distilled else 1,
        "train.noise_scheduler": "ddpm" if sampling.noise == "flowmatch" else "flowmatch",
        "sample.sampler": "ddpm" if sampling.noise == "flowmatch" else "flowmatch",
    }
    job = for_model(
        model, {place: wrong[place] if value == "<wrong>" else value for place, value in change.items()}
    )
    if code == "quantize-needed":
        job = replace(job, gpu=f"X ({model.memory.unquantized - 1} GB)")
        code = "gpu-small" if model.memory.fixed else code
    assert code in codes(job) | codes(job, "warning")


@pytest.mark.parametrize("model", OTHERS, ids=name_of)
def test_weights_that_the_image_lacks_are_found(model: TrainableModel) -> None:
    assert "model-mismatch" in codes(for_model(model, {"model.name_or_path": "/model"}))


@pytest.mark.parametrize("model", OTHERS, ids=name_of)
def test_weights_in_the_image_are_accepted(model: TrainableModel) -> None:
    job = for_model(model, {"model.name_or_path": "/model"})
    job = replace(job, policy=ModelPolicy(weights_in_image=model.weights), variables=frozenset())
    assert codes(job) == set()
    assert "weights-downloaded" not in codes(job, "warning")


@pytest.mark.parametrize("model", OTHERS, ids=name_of)
def test_the_wrong_flag_is_a_mismatch(model: TrainableModel) -> None:
    """It would train something else, such as Kontext without its control images."""
    assert "model-mismatch" in codes(for_model(model, {"model.arch": "<absent>", "model.is_flux": True}))


@pytest.mark.parametrize("model", TRAINABLE, ids=name_of)
def test_too_little_memory_is_found(model: TrainableModel) -> None:
    job = replace(for_model(model), gpu=f"X ({model.memory.quantized - 1} GB)")
    assert "gpu-small" in codes(job, "warning")
    assert codes(job) == (set() if model.memory.fixed else {"low-vram-needed"})


@pytest.mark.parametrize(
    ("name", "gb", "is_refused"),
    [("sdxl", 6, True), ("sdxl", 8, False), ("sd15", 1, True), ("sd15", 4, False)],
)
def test_only_weights_that_do_not_fit_are_refused(name: str, gb: int, is_refused: bool) -> None:
    """What training needs beside them is a rule of thumb for these models."""
    job = replace(for_model(MODELS[name]), gpu=f"X ({gb} GB)")
    assert codes(job) == ({"memory-short"} if is_refused else set())


@pytest.mark.parametrize(
    ("weights", "is_needless"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", True),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", False),
        ("me/a-tune", False),
    ],
)
def test_unlisted_weights_may_be_those_of_the_largest_model(weights: str, is_needless: bool) -> None:
    change = {"model.name_or_path": weights, "model.low_vram": True}
    job = replace(for_model(MODELS["wan21-1b"], change), gpu="X (32 GB)")
    needless = {"quantize-needless", "low-vram-needless"}
    assert codes(job, "warning") & needless == (needless if is_needless else set())


@pytest.mark.parametrize("model", TRAINABLE, ids=name_of)
def test_only_gated_weights_need_a_login(model: TrainableModel) -> None:
    job = replace(for_model(model), variables=frozenset())
    assert codes(job) == ({"model-path"} if model.gated else set())


@pytest.mark.parametrize("model", TRAINABLE, ids=name_of)
def test_only_some_licences_allow_commercial_use(model: TrainableModel) -> None:
    job = replace(for_model(model), policy=ModelPolicy(commercial=True))
    assert codes(job) == (set() if model.commercial else {"licence-commercial"})


@pytest.mark.parametrize("model", FLOWING, ids=name_of)
def test_an_older_trainer_lacks_the_architecture(model: TrainableModel) -> None:
    assert "model-newer" in codes(replace(for_model(model), trainer_date="2024-01-01"))


@pytest.mark.parametrize("model", EDITING, ids=name_of)
def test_forgotten_control_images_are_found(model: TrainableModel) -> None:
    assert codes(for_model(model, {"datasets[0].control_path": "<absent>"})) == {"control-count"}


@pytest.mark.parametrize("name", ["flux1-dev", "z-image", "sdxl"])
def test_an_image_that_the_model_ignores_is_a_warning(name: str) -> None:
    job = for_model(
        MODELS[name], {"sample.samples": [{"prompt": "[trigger]", "neg": "", "ctrl_img": "x.jpg"}]}
    )
    assert codes(job) == set()
    assert "control-unused" in codes(job, "warning")


@pytest.mark.parametrize("name", ["flux1-dev", "sdxl"])
def test_without_a_sampler_the_trainer_keeps_its_scheduler(name: str) -> None:
    job = for_model(MODELS[name], {"sample.sampler": None})
    assert codes(job) == set()


def test_an_older_trainer_needs_a_sampler() -> None:
    job = for_model(MODELS["flux1-dev"], {"sample.sampler": None})
    assert codes(replace(job, trainer_date=PINNED.date)) == {"sampler"}


def test_qwen_image_stops_at_a_control_image() -> None:
    image = {"prompt": "[trigger]", "neg": "", "ctrl_img": "dataset/00001.jpg"}
    assert codes(for_model(MODELS["qwen-image"], {"sample.samples": [image]})) == {"control-image"}


@pytest.mark.parametrize("model", [*EDITING, MODELS["wan21-i2v"]], ids=name_of)
def test_samples_without_their_image_are_found(model: TrainableModel) -> None:
    change = {"sample.samples": [{"prompt": "[trigger]"}]}
    assert codes(for_model(model, change)) == {"control-image"}
    assert codes(for_model(model, {**change, "train.disable_sampling": True})) == set()


@pytest.mark.parametrize(
    ("name", "sampler", "said"),
    [
        ("sdxl", "k_dpmsolver++", ""),
        ("sd15", "euler_a", ""),
        ("sdxl", "dpm++", "sample.sampler is 'dpm++' (did you mean `"),
        ("sd15", "Euler", "sample.sampler is 'Euler' (did you mean `euler`?)"),
        ("sdxl", "flowmatch", "sample.sampler is 'flowmatch'"),
        ("qwen-image", "euler", "sample.sampler is 'euler'"),
    ],
)
def test_samplers_are_those_that_the_trainer_knows(name: str, sampler: str, said: str) -> None:
    found = check_rules(for_model(MODELS[name], {"sample.sampler": sampler}))
    messages = [one.message for one in found if one.code == "sampler"]
    assert len(messages) == bool(said)
    assert said in "".join(messages)


@pytest.mark.parametrize(
    ("name", "weights", "gigabytes"),
    [
        ("sdxl", "", 14),
        ("wan21-14b", "wan-ai/wan2.1-t2v-14b-diffusers", 69),
        ("wan22-14b", "", 69),
        ("wan22-14b", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 126),
        ("flux1-dev", "me/my-own-tune", 34),
        ("sdxl", "me/my-own-tune", 7),
        ("wan21-14b", "me/my-own-tune", 40),
    ],
)
def test_weights_in_fp32_are_downloaded_in_full(name: str, weights: str, gigabytes: int) -> None:
    assert round(MODELS[name].download_gb(weights)) == gigabytes


@pytest.mark.parametrize(
    ("frames", "gb", "is_found"), [(1, 24, False), (5, 24, False), (41, 24, True), (41, 64, False)]
)
def test_long_videos_need_more_memory(frames: int, gb: int, is_found: bool) -> None:
    """41 frames of 632 pixels are 11 steps of time, which count as 4 images of a megapixel."""
    change = {"datasets[0].num_frames": frames, "datasets[0].resolution": [632]}
    job = replace(for_model(MODELS["wan21-14b"], change), gpu=f"X ({gb} GB)")
    assert ("batch-memory" in codes(job, "warning")) == is_found


UNDESCRIBED = [arch for arch in TRAINER_KEYS["model"]["arch"].choices if not models_of_architecture(arch)]


@pytest.mark.parametrize("arch", UNDESCRIBED)
def test_an_architecture_without_a_row_is_refused_or_left_unchecked(arch: str) -> None:
    """Nothing about another model is checked in its place."""
    job = for_model(MODELS["z-image"], {"model.arch": arch, "model.name_or_path": "me/weights"})
    trains_audio = arch.startswith("ace_step")
    said = (
        "which trains on audio" if trains_audio else f"selects {arch}, which docs/models.md does not describe"
    )
    (message,) = [one.message for one in check_rules(job) if one.severity == "error"]
    assert said in message
    unchecked = replace(job, policy=ModelPolicy(unchecked=True))
    assert codes(unchecked) == ({"model-unknown"} if trains_audio else set())
    assert codes(unchecked, "warning") == {"model-unchecked", "weights-downloaded"}


@pytest.mark.parametrize(("storage", "is_enough"), [(50, False), (67, False), (68, True), (None, True)])
def test_the_disk_has_to_hold_downloaded_weights(storage: int | None, is_enough: bool) -> None:
    """Qwen-Image has 57 GB."""
    job = replace(for_model(MODELS["qwen-image"]), policy=ModelPolicy(storage=storage))
    assert codes(job) == (set() if is_enough else {"storage-small"})
    held = {"model.name_or_path": "/model"}
    in_image = ModelPolicy(weights_in_image="Qwen/Qwen-Image", storage=storage)
    assert codes(replace(for_model(MODELS["qwen-image"], held), policy=in_image)) == set()


KNOWN_PATHS = [
    ("z-image", "Tongyi-MAI/ZImage", "model-path", "but the id is Tongyi-MAI/Z-Image"),
    ("flux1-dev", "black-forest-labs/FLUX1-dev", "model-path", "but the id is black-forest-labs/FLUX.1-dev"),
    (
        "qwen-image",
        "Qwen/Qwen-Image-2601",
        "weights-unknown",
        "; the most similar id there is Qwen/Qwen-Image-2512",
    ),
    ("qwen-image", "me/my-own-tune", "weights-unknown", "does not list me/my-own-tune"),
    (
        "flux1-dev",
        "me/FLUX.1-dev-fp8",
        "weights-unknown",
        "; the most similar id there is black-forest-labs/FLUX.1-dev",
    ),
]


@pytest.mark.parametrize(("name", "path", "rule", "said"), KNOWN_PATHS)
def test_ids_that_are_not_in_the_table_are_named(name: str, path: str, rule: str, said: str) -> None:
    found = check_rules(for_model(MODELS[name], {"model.name_or_path": path}))
    (message,) = [one.message for one in found if one.code in ("model-path", "weights-unknown")]
    assert said in message
    assert rule in {one.code for one in found}


SCHNELL_ADAPTER = "ostris/FLUX.1-schnell-training-adapter"
TURBO_ADAPTER = "ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v1.safetensors"


@pytest.mark.parametrize(
    ("name", "adapter", "weights", "rules"),
    [
        ("flux1-schnell", SCHNELL_ADAPTER, None, set()),
        ("flux1-dev", SCHNELL_ADAPTER, None, {"adapter-unsuited"}),
        ("flex1", SCHNELL_ADAPTER, None, {"adapter-unsuited"}),
        ("flux1-kontext", SCHNELL_ADAPTER, None, {"adapter-other"}),
        ("flux1-schnell", SCHNELL_ADAPTER, "me/schnell-tune", set()),
        ("z-image-turbo", TURBO_ADAPTER, None, set()),
        ("z-image-turbo", SCHNELL_ADAPTER, None, {"adapter-other"}),
        ("z-image", TURBO_ADAPTER, None, {"adapter-unsuited"}),
        ("z-image-turbo", "me/my-own-adapter", None, set()),
    ],
)
def test_an_adapter_of_another_model_is_found(
    name: str, adapter: str, weights: str | None, rules: set[str]
) -> None:
    change = {"model.assistant_lora_path": adapter, **({"model.name_or_path": weights} if weights else {})}
    job = for_model(MODELS[name], change)
    assert codes(job) == rules & {"adapter-other"}
    assert codes(job, "warning") & {"adapter-unsuited"} == rules & {"adapter-unsuited"}


TURBO_REPOSITORY = "ostris/zimage_turbo_training_adapter"


@pytest.mark.parametrize(
    ("name", "adapter", "rule", "said"),
    [
        ("flux1-schnell", "ostris/FLUX-1-schnell-training-adapter", "adapter-path", SCHNELL_ADAPTER),
        ("flux1-schnell", f"{SCHNELL_ADAPTER}/adapter.safetensors", "adapter-path", SCHNELL_ADAPTER),
        ("z-image-turbo", TURBO_REPOSITORY, "adapter-path", f"the adapter is {TURBO_REPOSITORY}/"),
        ("flux1-schnell", "ostris/FLUX.1-schnel-training-adapter", "adapter-unknown", SCHNELL_ADAPTER),
        ("flux1-schnell", "me/own", "adapter-unknown", "does not list me/own"),
        ("flux1-schnell", SCHNELL_ADAPTER.lower(), "", ""),
        ("z-image-turbo", TURBO_ADAPTER, "", ""),
        ("flux1-schnell", "/root/adapters/mine", "", ""),
    ],
)
@pytest.mark.parametrize("key", ["assistant_lora_path", "inference_lora_path"])
def test_adapters_that_are_not_in_the_table_are_named(
    name: str, adapter: str, rule: str, said: str, key: str
) -> None:
    job = for_model(MODELS[name], {"model.assistant_lora_path": "<absent>", f"model.{key}": adapter})
    found = [one for one in check_rules(job) if one.code in ("adapter-path", "adapter-unknown")]
    assert [one.code for one in found] == ([rule] if rule else [])
    assert all(said in one.message for one in found)


@pytest.mark.parametrize(
    ("change", "is_found"),
    [
        ({"train.unload_text_encoder": True}, True),
        ({"train.unload_text_encoder": True, "train.cache_text_embeddings": True}, False),
        ({"train.unload_text_encoder": True, "datasets[0].cache_text_embeddings": True}, False),
    ],
)
def test_captions_that_are_not_read_are_a_warning(change: Mapping[str, Any], is_found: bool) -> None:
    job = for_model(MODELS["wan21-14b"], change)
    assert ("captions-unread" in codes(job, "warning")) == is_found


def test_the_message_names_the_architecture_of_the_weights() -> None:
    kontext = MODELS["flux1-kontext"]
    job = for_model(kontext, {"model.arch": "<absent>", "model.is_flux": True})
    (found,) = [finding for finding in check_rules(job) if finding.code == "model-mismatch"]
    assert found.message == (
        "name_or_path is black-forest-labs/FLUX.1-Kontext-dev, whose arch is flux_kontext, but model.is_flux selects flux"
    )
    job = for_model(kontext, {"model.arch": "<absent>"})
    (found,) = [finding for finding in check_rules(job) if finding.code == "model-unknown"]
    assert found.message.endswith("would load Stable Diffusion 1.5; set arch: flux_kontext")


OTHER_FLAGS = (
    *("is_v2", "is_v3", "is_xl", "is_ssd", "is_vega"),
    *("is_pixart", "is_pixart_sigma", "is_auraflow", "is_lumina2"),
)


@pytest.mark.parametrize("chosen", ["is_flux", "arch"])
@pytest.mark.parametrize("flag", OTHER_FLAGS)
def test_the_flag_of_another_architecture_is_found(chosen: str, flag: str) -> None:
    change = {"model.is_flux": True, "model.arch": "<absent>"} if chosen == "is_flux" else {}
    assert codes(for_model(MODELS["flux1-dev"], change)) == set()
    for value, expected in ((True, {"model-mismatch"}), (False, set())):
        found = codes(for_model(MODELS["flux1-dev"], {**change, f"model.{flag}": value}))
        assert found & {"model-mismatch"} == expected


def test_the_flag_of_flux_beside_another_architecture_is_found() -> None:
    said = "model.is_flux is for flux, but model.arch selects sdxl; delete one of them"
    assert said in [
        finding.message for finding in check_rules(for_model(MODELS["sdxl"], {"model.is_flux": True}))
    ]


def test_any_flag_beside_stable_diffusion_1_is_found() -> None:
    job = for_model(MODELS["sdxl"], {"model.arch": "sd1", "model.is_v2": True})
    said = "model.is_v2 is for sd2, but model.arch selects sd1; delete one of them"
    assert said in [finding.message for finding in check_rules(job)]


@pytest.mark.parametrize(
    ("name", "flag"),
    [("flux1-dev", "is_flux"), ("sdxl", "is_xl"), ("sdxl", "is_vega"), ("qwen-image", "is_xl")],
)
def test_flags_that_change_nothing_are_accepted(name: str, flag: str) -> None:
    """Newer architectures have classes of their own, which ignore the flags."""
    assert codes(for_model(MODELS[name], {f"model.{flag}": True})) == set()


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("zimgae", "model.arch selects 'zimgae', which ai-toolkit does not know (did you mean `zimage`?)"),
        ("krea2", "model.arch selects krea2, which docs/models.md does not describe"),
    ],
)
def test_unknown_architectures_are_told_apart(arch: str, said: str) -> None:
    job = for_model(MODELS["z-image"], {"model.arch": arch})
    assert said in [finding.message for finding in check_rules(job)]


def test_an_unchecked_architecture_is_only_a_warning() -> None:
    job = for_model(MODELS["z-image"], {"model.arch": "krea2", "model.name_or_path": "krea/Krea-2-Raw"})
    job = replace(job, policy=ModelPolicy(unchecked=True))
    assert codes(job) == set()
    assert "model-unchecked" in codes(job, "warning")


def example(path: Path) -> dict[str, Any]:
    """An example of ai-toolkit with the changes that every job needs here."""
    raw = path.read_bytes().replace(b'"OmniGen2/OmniGen2\n', b'"OmniGen2/OmniGen2"\n')
    text = re.sub("/path/to/(control/)?(folder/)?", "control/", json.dumps(parse_train_yml(raw)))
    document: dict[str, Any] = json.loads(text)
    document["config"]["name"] = "cat"
    for entry in document["config"]["process"][0]["datasets"]:
        entry["folder_path"] = "dataset"
        if paths := entry.get("control_path"):
            several = [f"control_{number}" for number, _ in enumerate(paths)]
            entry["control_path"] = several if isinstance(paths, list) else "control"
    return document


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="FLUX_TEST_AI_TOOLKIT is not set")
def test_the_trainers_examples_have_no_errors() -> None:
    found = {
        path.stem: codes(subject(example(path), "A6000 (48 GB)" if "_48" in path.stem else "RTX 5090"))
        for path in EXAMPLES.glob("train_lora_*.yaml")
    }
    assert len(found) > 10
    assert {name: errors for name, errors in found.items() if errors} == {}
