"""Job folders for the tests of lint: valid ones, and one mistake per rule."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings

SIDE = 256
TRAIN_YML = """\
job: extension
config:
  name: "{name}"
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: "tr1gger"
      network:
        type: lora
        linear: 16
        linear_alpha: 16
      save:
        dtype: float16
        save_every: 250
        max_step_saves_to_keep: 20
        push_to_hub: false
      datasets:
        - folder_path: dataset
          caption_ext: txt
          caption_dropout_rate: 0.05
          resolution: [256]
      train:
        batch_size: 1
        steps: 2000
        lr: 1e-4
        optimizer: adamw8bit
        noise_scheduler: flowmatch
        gradient_checkpointing: true
        train_unet: true
        train_text_encoder: false
        dtype: bf16
      model:
        name_or_path: /model
        is_flux: true
        quantize: true
        low_vram: false
      sample:
        sampler: flowmatch
        sample_every: 250
        neg: ""
        prompts:
          - "a photo of [trigger]"
          - "tr1gger in the rain"
meta:
  name: "[name]"
"""


CLIP = Path(__file__).resolve().parents[1] / "support/clip.mp4"


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """A blurred colour image, different for each seed."""
    small = Image.frombytes("RGB", (12, 12), random.Random(seed).randbytes(12 * 12 * 3))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def make_clean_job(jobs: Path, name: str, images: int = 8, seed: int = 0) -> Path:
    """A job folder without findings."""
    folder = jobs / name
    (folder / "dataset").mkdir(parents=True)
    for number in range(1, images + 1):
        picture(seed * 1000 + number).save(folder / f"dataset/{number:05}.jpg")
        text = f"a photo of tr1gger, view {number} of it\n"
        (folder / f"dataset/{number:05}.txt").write_text(text, encoding="utf-8")
    (folder / "train.yml").write_text(TRAIN_YML.format(name=name), encoding="utf-8")
    return folder


def stack(gpu: str = "RTX 5090", **jobs: dict[str, Any]) -> StackSettings:
    """A stack that declares these jobs."""
    return StackSettings(
        cloud="local",
        storage=StorageSettings(bucket="bucket"),
        jobs={name: JobSettings.model_validate(entry) for name, entry in jobs.items()},
        cluster=ClusterSettings(gpu=gpu),
    )


def add_controls(folder: Path, control: str = "control", images: int = 8) -> None:
    """A control image for each image, named in train.yml."""
    (folder / control).mkdir()
    for number in range(1, images + 1):
        picture(5000 + number).save(folder / f"{control}/{number:05}.png")
    edit("caption_ext: txt", f"caption_ext: txt\n          control_path: {control}")(folder)


# Changes the clean folder `cat`. Returns the stack to lint; None stands for a stack that declares only `cat`.
Spoil = Callable[[Path], StackSettings | None]


def edit(old: str, new: str, gpu: str = "RTX 5090") -> Spoil:
    """One change in train.yml."""

    def spoil(folder: Path) -> StackSettings:
        path = folder / "train.yml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), encoding="utf-8")
        return stack(gpu, cat={})

    return spoil


def with_controls(spoil: Callable[[Path], object]) -> Spoil:
    """A mistake in a job that has control images."""

    def spoil_them(folder: Path) -> None:
        add_controls(folder)
        spoil(folder)

    return spoil_them


def _empty_controls(folder: Path) -> None:
    shutil.rmtree(folder / "control")
    (folder / "control").mkdir()


def caption(text: str | bytes, number: int = 1) -> Spoil:
    def spoil(folder: Path) -> None:
        raw = text.encode() if isinstance(text, str) else text
        (folder / f"dataset/{number:05}.txt").write_bytes(raw)

    return spoil


def all_captions(text: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for path in (folder / "dataset").glob("*.txt"):
            path.write_text(text, encoding="utf-8")

    return spoil


def _linked(folder: Path) -> None:
    (folder / "dataset/00001.txt").unlink()
    (folder / "dataset/00001.txt").symlink_to("/proc/self/environ")


def image(change: Callable[[Image.Image], Image.Image], name: str = "00001.png", **options: Any) -> Spoil:
    """Replaces the first image."""

    def spoil(folder: Path) -> None:
        changed = change(picture(99))
        (folder / "dataset/00001.jpg").unlink()
        changed.save(folder / "dataset" / name, **options)

    return spoil


def renamed(stem: str) -> Spoil:
    """Renames the first image and its caption."""

    def spoil(folder: Path) -> None:
        for suffix in (".jpg", ".txt"):
            (folder / f"dataset/00001{suffix}").rename(folder / f"dataset/{stem}{suffix}")

    return spoil


def do(change: Callable[[Path], object], gpu: str = "RTX 5090", **jobs: dict[str, Any]) -> Spoil:
    def spoil(folder: Path) -> StackSettings:
        change(folder)
        return stack(gpu, **(jobs or {"cat": {}}))

    return spoil


def another_job(name: str) -> Spoil:
    """Renames the job folder to an invalid name."""

    def spoil(folder: Path) -> StackSettings:
        folder.rename(folder.parent / name)
        return stack(**{name: {}})

    return spoil


def _write(name: str, raw: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(raw)


def _changed_line_endings(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw.replace(b"\n", b"\r\n"))

    return change


def _video(folder: Path) -> None:
    """A video of 21 frames, with a caption."""
    shutil.copyfile(CLIP, folder / "dataset/clip.mp4")
    (folder / "dataset/clip.txt").write_text("a tr1gger that turns", encoding="utf-8")


def video(option: str) -> Spoil:
    """A job with a video and an option of its dataset, for a model that learns from videos."""
    frames = "" if option.startswith("num_frames") else "\n          num_frames: 21"
    return do(
        lambda folder: (
            _video(folder),
            edit("is_flux: true", "arch: wan21")(folder),
            edit("caption_ext: txt", f"caption_ext: txt\n          {option}{frames}")(folder),
        )
    )


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, 1500)


def _nothing(_folder: Path) -> None:
    """The mistake is in the stack."""


def _no_images(folder: Path) -> None:
    for path in (folder / "dataset").iterdir():
        path.unlink()


def _huge_captions(folder: Path) -> None:
    """Three captions of nearly 1 MB; each character takes six bytes in JSON."""
    for number in range(1, 4):
        (folder / f"dataset/{number:05}.txt").write_text("\x01" * 990_000, encoding="utf-8")


def _one_more(name: str, source: str = "00002") -> Callable[[Path], object]:
    """Adds a copy of an image, with another caption."""

    def add(folder: Path) -> None:
        shutil.copy(folder / f"dataset/{source}.jpg", folder / f"dataset/{name}.jpg")
        (folder / f"dataset/{name}.txt").write_text("tr1gger once more", encoding="utf-8")

    return add


def _names_alike(folder: Path) -> None:
    for number, name in enumerate(("a", "A")):
        picture(90 + number).save(folder / f"dataset/{name}.jpg")
        (folder / f"dataset/{name}.txt").write_text(f"tr1gger {name}", encoding="utf-8")


def _smaller_copy(folder: Path) -> None:
    _one_more("00009")(folder)
    with Image.open(folder / "dataset/00002.jpg") as found:
        found.resize((240, 240)).save(folder / "dataset/00009.jpg", quality=70)


def _upright(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(99).save(folder / "dataset/00001.jpg", exif=exif)


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1843200\n"
)


def _on_an_older_trainer(change: Spoil) -> Spoil:
    def spoil(folder: Path) -> StackSettings:
        change(folder)
        found = stack(cat={})
        return found.model_copy(update={"cluster": ClusterSettings(trainerDate="2025-10-01")})

    return spoil


def _with_two_clusters(_folder: Path) -> StackSettings:
    clusters = {"flux": ClusterSettings(), "video": ClusterSettings()}
    return stack(cat={}).model_copy(update={"clusters": clusters})


def do_commercial(_folder: Path) -> StackSettings:
    return stack(cat={}).model_copy(update={"commercial": True})


TOKEN = "hf_" + "abcDEF" * 6
SDXL = edit("is_flux: true", "arch: sdxl")
MISTAKES: dict[str, Spoil] = {
    "job-unknown": do(_nothing, cat={}, dog={}),
    "glob-empty": do(_nothing, cat={}, **{"dog-*": {}}),
    "dataset-unknown": do(_nothing, cat={"dataset": "dog"}),
    "cluster-unknown": do(_nothing, cat={"cluster": "video"}),
    "cluster-missing": _with_two_clusters,
    "job-case": do(lambda folder: make_clean_job(folder.parent, "Cat", seed=5), cat={}, Cat={}),
    "silence-unused": do(_nothing, cat={"lint": {"silence": {"image-few": "a test"}}}),
    "job-name": another_job("my cat"),
    "job-name-taken": another_job("sam"),
    "name-unsafe": do(renamed(os.fsdecode(b"caf\xe9"))),
    "name-awkward": renamed("a#b"),
    "name-unicode": renamed("cafe\u0301"),
    "name-reserved": renamed("con"),
    "name-case": do(_names_alike),
    "git-conflict": caption("<<<<<<< HEAD\na cat\n=======\na tr1gger\n>>>>>>> main\n"),
    "git-lfs": do(_write("dataset/00001.jpg", LFS_POINTER)),
    "git-binary": do(_changed_line_endings("dataset/00001.jpg")),
    "link-outside": do(_linked),
    "file-special": do(lambda folder: os.mkfifo(folder / "dataset/zz")),
    "dataset-missing": do(lambda folder: shutil.rmtree(folder / "dataset")),
    "dataset-empty": do(_no_images),
    "dataset-stranger": do(_write("dataset/notes.doc", b"x")),
    "dataset-video": do(_write("dataset/00001.WEBM", b"x")),
    "video-ignored": do(_video),
    "video-options": video("buckets: false"),
    "video-short": video("num_frames: 25"),
    "video-frames": video("num_frames: 20"),
    "dataset-large": do(_huge_captions),
    "image-unreadable": do(_write("dataset/00001.jpg", b"hello")),
    "image-truncated": do(_cut("dataset/00001.jpg")),
    "image-animated": image(lambda first: first, "00001.webp", save_all=True, append_images=[picture(98)]),
    "image-cmyk": image(lambda found: found.convert("CMYK"), "00001.jpg"),
    "image-rotated": do(_upright),
    "image-transparent": image(lambda found: (found.putalpha(Image.linear_gradient("L")), found)[1]),
    "image-deep": image(lambda found: found.convert("L").convert("I;16")),
    "image-blank": image(lambda found: Image.new("RGB", found.size, "white")),
    "image-small": image(lambda found: found.resize((200, 200))),
    "image-large": image(lambda found: found.resize((8000, 6300), Image.Resampling.NEAREST), "00001.jpg"),
    "image-aspect": image(lambda found: found.resize((1024, 256))),
    "image-suffix": image(lambda found: found, "00001.jpg", format="PNG"),
    "image-duplicate": do(_one_more("00009")),
    "image-near-duplicate": do(_smaller_copy),
    "image-few": do(
        lambda folder: [(folder / f"dataset/00001{suffix}").unlink() for suffix in (".jpg", ".txt")]
    ),
    "caption-missing": do(lambda folder: (folder / "dataset/00001.txt").unlink()),
    "caption-empty": caption("  \n"),
    "caption-encoding": caption(b"caf\xe9 tr1gger"),
    "caption-unreadable": caption(b"tr1gger " * 200_000),
    "caption-orphan": do(_write("dataset/x.txt", b"tr1gger")),
    "caption-shared": do(lambda folder: picture(97).save(folder / "dataset/00001.png")),
    "caption-long": caption("tr1gger " + "very " * 500),
    "caption-trigger": caption("a photo of a cat"),
    "trigger-look-alike": caption("a tr1gg\u0435r sleeps"),
    "caption-placeholder": do(
        lambda folder: (
            edit('trigger_word: "tr1gger"', "trigger_word: null")(folder),
            caption("[trigger]")(folder),
        )
    ),
    "caption-same": all_captions("tr1gger"),
    "caption-refusal": caption("tr1gger: I'm sorry, but I can't describe people"),
    "caption-answer": caption("Sure! Here is a caption: a photo of tr1gger"),
    "caption-garbled": caption("tr1gger \ufffd"),
    "pair-folder": with_controls(edit("control_path: control", "control_path: control/1")),
    "pair-missing": with_controls(lambda folder: (folder / "control/00003.png").unlink()),
    "pair-empty": with_controls(_empty_controls),
    "pair-orphan": with_controls(lambda folder: picture(1).save(folder / "control/00099.png")),
    "pair-shared": with_controls(lambda folder: picture(1).save(folder / "control/00001.webp")),
    "pair-suffix": with_controls(
        lambda folder: (folder / "control/00001.png").rename(folder / "control/00001.PNG")
    ),
    "folder-unused": with_controls(edit("          control_path: control\n", "")),
    "control-count": edit("is_flux: true", "arch: flux_kontext"),
    "control-ignored": with_controls(
        edit("control_path: control", "control_path: control\n          control_path_1: control")
    ),
    "mask-shape": with_controls(
        lambda folder: (
            edit("control_path", "mask_path")(folder),
            picture(1, 200).resize((200, 100)).save(folder / "control/00001.png"),
        )
    ),
    "inpaint-opaque": with_controls(edit("control_path", "inpaint_path")),
    "control-shape": with_controls(
        lambda folder: (
            edit("is_flux: true", "arch: flux_kontext")(folder),
            picture(1, 200).resize((200, 100)).save(folder / "control/00001.png"),
        )
    ),
    "control-size": with_controls(
        lambda folder: (
            edit("is_flux: true", "arch: flux2")(folder),
            picture(1, 63).save(folder / "control/00001.png"),
        )
    ),
    "control-same": with_controls(
        lambda folder: shutil.copy(folder / "dataset/00001.jpg", folder / "control/00001.png")
    ),
    "config-missing": do(lambda folder: (folder / "train.yml").unlink()),
    "config-both": do(lambda folder: shutil.copy(folder / "train.yml", folder / "train.yaml")),
    "config-unreadable": do(_write("train.yml", b"#" * 1_000_001)),
    "config-encoding": do(_write("train.yml", b"name: caf\xe9")),
    "config-yaml": edit("meta:", "meta: ]"),
    "config-value": edit("meta:", "when: 2024-99-99\nmeta:"),
    "config-keys": edit("job: extension", "jobs: extension"),
    "config-name": edit('"cat"', '"dog"'),
    "config-process": do(_write("train.yml", b"job: extension\nconfig: {name: cat}\n")),
    "training-folder": edit("training_folder: output", "training_folder: out"),
    "folder-path": edit("folder_path: dataset", "folder_path: /data"),
    "steps-invalid": edit("steps: 2000", "steps: many"),
    "save-every-invalid": edit("save_every: 250", "save_every: 0"),
    "model-path": edit("/model", "black-forest-labs/FLUX.1-dev"),
    "saves-kept": edit("max_step_saves_to_keep: 20", "max_step_saves_to_keep: 4"),
    "config-processes": edit("meta:\n", "    - type: sd_trainer\nmeta:\n"),
    "job-type": edit("job: extension", "job: train"),
    "config-meta": edit('  name: "[name]"\n', ""),
    "process-type": edit("sd_trainer", "sd_trainre"),
    "caption-ext": edit("caption_ext: txt", "caption_ext: caption"),
    "config-variable": edit("meta:", "meta:\n  token: ${HF_TOKEN}"),
    "push-to-hub": edit("push_to_hub: false", "push_to_hub: true"),
    "device": edit("cuda:0", "cuda:1"),
    "key-unknown": edit("batch_size: 1", "batchsize: 1"),
    "key-repeated": edit("batch_size: 1", "batch_size: 1\n        batch_size: 2"),
    "key-new": _on_an_older_trainer(
        edit("low_vram: false", "low_vram: false\n        layer_offloading: true")
    ),
    "value-type": edit("batch_size: 1", 'batch_size: "1"'),
    "value-range": edit("max_step_saves_to_keep: 20", "max_step_saves_to_keep: -3"),
    "value-choice": edit("optimizer: adamw8bit", "optimizer: adamw9bit"),
    "value-misread": edit("quantize: true", 'quantize: "false"'),
    "node-path": edit("caption_ext: txt", "caption_ext: txt\n          control_path: /control"),
    "config-conflict": edit(
        "lr: 1e-4", "lr: 1e-4\n        gradient_accumulation: 2\n        gradient_accumulation_steps: 2"
    ),
    "prompt-flag": edit("tr1gger in the rain", "tr1gger in the rain --w wide"),
    "control-image": do(
        lambda folder: (
            edit("is_flux: true", "arch: flux_kontext")(folder),
            edit("in the rain", "in the rain --ctrl_img /rain.jpg")(folder),
        )
    ),
    "control-unused": edit("tr1gger in the rain", "tr1gger in the rain --ctrl_img /rain.jpg"),
    "alpha-mask": edit("caption_ext: txt", "caption_ext: txt\n          alpha_mask: true"),
    "result-not-lora": edit("      network:", "      embedding: {trigger: tr1gger}\n      network:"),
    "model-unknown": edit("is_flux: true", "arch: fluxx"),
    "model-unchecked": do(edit("is_flux: true", "arch: krea2"), cat={"model": {"unchecked": True}}),
    "model-mismatch": edit("is_flux: true", "arch: zimage"),
    "weights-downloaded": do(
        lambda folder: (
            edit("is_flux: true", "arch: chroma")(folder),
            edit("/model", "lodestones/Chroma")(folder),
        )
    ),
    "storage-small": do(
        lambda folder: (
            edit("is_flux: true", "arch: qwen_image")(folder),
            edit("/model", "Qwen/Qwen-Image-2512")(folder),
        )
    ),
    "model-newer": _on_an_older_trainer(edit("is_flux: true", "arch: flux2")),
    "licence-commercial": do_commercial,
    "training-adapter": edit("/model", "black-forest-labs/FLUX.1-schnell"),
    "adapter-other": edit(
        "is_flux: true",
        "is_flux: true\n        assistant_lora_path: ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v2.safetensors",
    ),
    "adapter-unsuited": edit(
        "is_flux: true", "is_flux: true\n        assistant_lora_path: ostris/FLUX.1-schnell-training-adapter"
    ),
    "adapter-path": edit(
        "is_flux: true", "is_flux: true\n        assistant_lora_path: ostris/FLUX-1-schnell-training-adapter"
    ),
    "adapter-unknown": edit("is_flux: true", "is_flux: true\n        assistant_lora_path: me/my-own-adapter"),
    "weights-unknown": edit("/model", "someone/flux-fine-tune"),
    "captions-unread": edit("lr: 1e-4", "lr: 1e-4\n        unload_text_encoder: true"),
    "sample-guidance": edit("sample_every: 250", "sample_every: 250\n        guidance_scale: 1"),
    "sample-size": edit("sample_every: 250", "sample_every: 250\n        width: 1000"),
    "network-missing": edit(
        "      network:\n        type: lora\n        linear: 16\n        linear_alpha: 16\n", ""
    ),
    "network-type": edit("type: lora", "type: lokr"),
    "rank-invalid": edit("linear: 16", "linear: big"),
    "rank-unusual": edit("linear: 16\n        linear_alpha: 16", "linear: 512\n        linear_alpha: 512"),
    "rank-alpha": do(lambda folder: (SDXL(folder), edit("        linear_alpha: 16\n", "")(folder))),
    "learning-rate-invalid": edit("lr: 1e-4", "lr: fast"),
    "learning-rate": edit("lr: 1e-4", "lr: 0.1"),
    "steps-unusual": edit("steps: 2000", "steps: 100000"),
    "save-every-misfit": edit("save_every: 250", "save_every: 300"),
    "saves-rare": edit("save_every: 250", "save_every: 2000"),
    "scheduler": edit("noise_scheduler: flowmatch", "noise_scheduler: ddpm"),
    "sampler": edit("sampler: flowmatch", "sampler: ddim"),
    "dtype": edit("dtype: bf16", "dtype: fp16"),
    "text-encoder": edit("train_text_encoder: false", "train_text_encoder: true"),
    "train-unet": edit("train_unet: true", "train_unet: false"),
    "caption-dropout": edit("caption_dropout_rate: 0.05", "caption_dropout_rate: 0.9"),
    "resolution-unusual": edit("[256]", "[256, 4096]"),
    "prompts-missing": edit(
        'prompts:\n          - "a photo of [trigger]"\n          - "tr1gger in the rain"\n', "prompts: []\n"
    ),
    "negative-prompt": edit('        neg: ""\n', ""),
    "prompt-trigger": edit("tr1gger in the rain", "a dog in the rain"),
    "trigger-quotes": edit('trigger_word: "tr1gger"', "trigger_word: “tr1gger”"),
    "prompt-placeholder": edit('trigger_word: "tr1gger"', "trigger_word: null"),
    "samples-many": edit("sample_every: 250", "sample_every: 10"),
    "quantize-needed": edit("quantize: true", "quantize: false"),
    "quantize-needless": do(_nothing, gpu="A100 (80 GB)"),
    "quantize-ignored": SDXL,
    "memory-short": edit("is_flux: true", "arch: sdxl", gpu="GTX 1660 (6 GB)"),
    "gpu-small": edit("low_vram: false", "low_vram: true", gpu="RTX 4080 (16 GB)"),
    "low-vram-needed": do(_nothing, gpu="RTX 4080"),
    "low-vram-needless": edit("low_vram: false", "low_vram: true"),
    "checkpointing": edit("gradient_checkpointing: true", "gradient_checkpointing: false"),
    "batch-memory": do(
        lambda folder: (edit("batch_size: 1", "batch_size: 8")(folder), edit("[256]", "[256, 1024]")(folder))
    ),
    "caption-secret": caption(f"tr1gger {TOKEN}"),
    "config-secret": edit("meta:", f"meta:\n  hub: {TOKEN}"),
}
