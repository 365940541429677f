"""Mistakes in whole job folders, for each architecture: each is found before anything is created. One row per mistake."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.finding import LintReport
from flux_training.training.gpu import memory_needed
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.models.table import FLOWMATCH, MODELS, TrainableModel
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings
from flux_training.training.train_yml.edit import new_train_yml
from flux_training.training.train_yml.trainer_config import parse_train_yml
from tests.training.lint.trainer_cases import changed
from tests.training.lint_folders import CLIP, picture

# The first model of each architecture.
FAMILIES = {model.arch: model for model in reversed(MODELS.values())}
IN_SHORT_RUN = ("flux", "qwen_image_edit", "wan22_14b", "sdxl")
MIN_MISTAKES = 10
IMAGES = 8
SECOND_DATASET = {"folder_path": "dataset-two", "caption_ext": "txt", "resolution": [512]}


@dataclass(frozen=True)
class FamilyMistake:
    """`rule` finds it. `change`: of train.yml. `spoil`: of the folder. `gb`, `storage`: of the cluster's GPU and disk."""

    rule: str
    change: Mapping[str, Any] | None = None
    spoil: Callable[[Path], object] = lambda _folder: None
    gb: int | None = None
    storage: int = 150
    token: str = "hf_test"


def sound_document(model: TrainableModel) -> dict[str, Any]:
    controls = model.datasets.control_images[1]
    document = parse_train_yml(
        new_train_yml("cat", "tr1gger", model=model, controls=controls, is_in_image=False).encode()
    )
    return changed(document, {"datasets[0].num_frames": 17} if model.datasets.videos else {})


def make_folder(folder: Path, model: TrainableModel) -> None:
    names = ["dataset", *control_names(model)]
    for shade, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(1, IMAGES + 1):
            picture(100 * shade + number, 64).save(folder / name / f"{number:05}.jpg")
    for number in range(1, IMAGES + 1):
        (folder / f"dataset/{number:05}.txt").write_text(f"tr1gger, picture {number}", encoding="utf-8")
    if model.datasets.videos:
        shutil.copy(CLIP, folder / "dataset/turn.mp4")
        (folder / "dataset/turn.txt").write_text("tr1gger turns", encoding="utf-8")


def control_names(model: TrainableModel) -> list[str]:
    return ["control", "control_2", "control_3"][: model.datasets.control_images[1]]


def add_clip(folder: Path) -> None:
    shutil.copy(CLIP, folder / "dataset/more.mp4")
    (folder / "dataset/more.txt").write_text("tr1gger turns", encoding="utf-8")


def add_controls(folder: Path) -> None:
    shutil.copytree(folder / "dataset", folder / "control")
    for caption in (folder / "control").glob("*.txt"):
        caption.unlink()


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def replace_image(name: str, size: tuple[int, int]) -> Callable[[Path], object]:
    return lambda folder: Image.new("RGB", size, "red").save(folder / name)


def mistakes_for(model: TrainableModel) -> list[FamilyMistake]:
    kinds, sampling = model.datasets, model.sampling
    other_noise = "ddpm" if sampling.noise == FLOWMATCH else FLOWMATCH
    entries = sound_document(model)["config"]["process"][0]["datasets"]
    found = [
        FamilyMistake("folder-path", {"datasets[0].folder_path": "images"}),
        FamilyMistake("dataset-missing", {"datasets": [*entries, SECOND_DATASET]}),
        FamilyMistake("caption-missing", spoil=remove("dataset/00002.txt")),
        FamilyMistake(
            "image-unreadable", spoil=lambda folder: (folder / "dataset/00002.jpg").write_bytes(b"x")
        ),
        FamilyMistake("scheduler", {"train.noise_scheduler": other_noise}),
        FamilyMistake("sampler", {"sample.sampler": other_noise}),
        FamilyMistake("model-unknown", {"model.arch": "zimgae"}),
        FamilyMistake("model-path", {"model.name_or_path": "/weights"}),
        FamilyMistake(
            "memory-short" if model.memory.fixed else "low-vram-needed",
            {"model.quantize": True, "model.low_vram": False},
            gb=int(model.weights_gb) if model.memory.fixed else model.memory.quantized - 1,
        ),
        FamilyMistake("storage-small", storage=int(model.download_gb())),
    ]
    if "flux" not in model.archs:
        found.append(FamilyMistake("model-mismatch", {"model.name_or_path": "/model"}))
    if model.gated:
        found.append(FamilyMistake("model-path", token=""))
    if model.training_adapter:
        found.append(FamilyMistake("training-adapter", {"model.assistant_lora_path": "<absent>"}))
    if len(model.result_endings) > 1:
        found.append(FamilyMistake("result-not-lora", {"model.model_kwargs": {"train_low_noise": False}}))
        never = {"train.switch_boundary_every": 5000, "train.steps": 5000}
        found.append(FamilyMistake("result-not-lora", never))
    if kinds.first_frame:
        found.append(FamilyMistake("control-image", {"sample.samples": [{"prompt": "tr1gger"}]}))
    first = {"prompt": "tr1gger", "ctrl_img_1": "dataset/00001.jpg"}
    absent = {"prompt": "tr1gger", "ctrl_img": "dataset/00099.jpg"}
    if kinds.first_frame or kinds.control_images == (1, 1):
        found.append(FamilyMistake("control-image", {"sample.samples": [first]}))
    elif kinds.control_images[1] or model.arch in ("wan22_5b", "ltx2", "flex2", "qwen_image"):
        found.append(FamilyMistake("control-image", {"sample.samples": [absent]}))
    if kinds.videos:
        found.append(FamilyMistake("video-ignored", {"datasets[0].num_frames": 1}))
        found.append(FamilyMistake("video-options", {"datasets[0].buckets": False}))
        found.append(
            FamilyMistake("dataset-video", spoil=lambda folder: (folder / "dataset/a.webm").write_bytes(b"x"))
        )
    else:
        found.append(FamilyMistake("video-ignored", spoil=add_clip))
    if kinds.control_images[1]:
        found.append(FamilyMistake("pair-missing", spoil=remove("control/00003.jpg")))
        found.append(
            FamilyMistake(
                "control-image", {"sample.samples": [{"prompt": "tr1gger", "ctrl_img": "control/x.jpg"}]}
            )
        )
        found.append(FamilyMistake("pair-orphan", spoil=replace_image("control/00099.jpg", (64, 64))))
        forgotten = {
            "datasets[0].control_path": "<absent>",
            "datasets[0].control_path_1": "<absent>",
            "sample.samples": [{"prompt": "tr1gger", "ctrl_img": "control/00001.jpg"}],
        }
        found.append(FamilyMistake("folder-unused", forgotten))
        if model.arch in ("flux_kontext", "qwen_image_edit", "hidream_e1", "omnigen2"):
            found.append(FamilyMistake("config-conflict", {"datasets[0].buckets": False}))
    elif not kinds.first_frame:
        found.append(
            FamilyMistake("control-count", {"datasets[0].control_path": "control"}, spoil=add_controls)
        )
    if kinds.control_images[0]:
        found.append(FamilyMistake("control-count", {"datasets[0].control_path": "<absent>"}))
    if model.arch == "qwen_image_edit":
        found.append(FamilyMistake("config-conflict", {"train.unload_text_encoder": True}))
    return found


def lint(root: Path, document: Mapping[str, Any], mistake: FamilyMistake) -> LintReport:
    (root / "jobs/cat/train.yml").write_text(json.dumps(document), encoding="utf-8")
    gb = mistake.gb or memory_needed(document, "")
    cluster = ClusterSettings(
        gpu=f"X ({gb} GB)",
        storage=mistake.storage,
        environment={"HF_TOKEN": mistake.token} if mistake.token else {},
    )
    jobs = {"cat": JobSettings()}
    storage = StorageSettings(bucket="bucket")
    return lint_jobs(StackSettings(cloud="local", storage=storage, jobs=jobs, cluster=cluster), root)


def errors(report: LintReport) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity == "error"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, id=arch, marks=() if arch in IN_SHORT_RUN else pytest.mark.long)
        for arch, model in FAMILIES.items()
    ],
)
def test_mistakes_of_each_family_are_found(model: TrainableModel, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    make_folder(sound / "jobs/cat", model)
    document = sound_document(model)
    report = lint(sound, document, FamilyMistake(""))
    assert (errors(report), report.silenced) == (set(), [])
    mistakes = mistakes_for(model)
    assert len(mistakes) >= MIN_MISTAKES
    missed = []
    for number, mistake in enumerate(mistakes):
        root = tmp_path / str(number)
        shutil.copytree(sound, root)
        mistake.spoil(root / "jobs/cat")
        found = errors(lint(root, changed(document, mistake.change or {}), mistake))
        if mistake.rule not in found:
            missed.append((mistake.rule, mistake.change, found))
    assert missed == []
