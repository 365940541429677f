"""A stand-in for the run.py of ostris/ai-toolkit 0.12.26 that trains a small LoRA on the CPU: `python run.py FILE`.

Command line, file names, output and faults are ai-toolkit's; comments name the file that a rule comes from. The model is in
standin.py. As with the real trainer, the result depends on the images, the captions, the seed and the settings.

It uses these settings: config.name; config.process[0] training_folder, training_seed, trigger_word, network.linear,
save.{dtype, save_every, max_step_saves_to_keep}, datasets[].{folder_path, caption_ext,
caption_dropout_rate, is_reg, num_repeats, control_path, control_path_1 to _3},
train.{steps, lr, batch_size, skip_first_sample, disable_sampling}, model.{name_or_path, arch, is_flux, …}, sample.{prompts, num_frames, ...}.
Environment: STEP_SECONDS (minimum duration of a step), SEED; SKIPPED_STEPS and NAN_STEPS (such as `5,9`) are numbers of steps
whose batch does not fit into memory, or whose loss is no number.
"""

# ruff: noqa: E402 - the environment must be set before NumPy is imported
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"  # NumPy's BLAS library reads these variables when it is loaded

import glob
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kinds import names_of  # type: ignore[import-not-found]  # nodes have this file beside run.py, outside any package
from PIL import Image, ImageOps
from standin import (  # type: ignore[import-not-found]  # nodes have this file beside run.py, outside any package
    Adam,
    Array,
    Network,
    embed_caption,
    embed_latent,
    encode_image,
    load_weights,
    save_weights,
)
from tqdm import tqdm

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".wmv", ".m4v", ".flv")
LEARNING_RATE_FACTOR = 15.0  # the stand-in's small network needs a higher learning rate than FLUX

RULER = "=" * 40


# ------------------------------------------------------------------------- configuration (toolkit/config.py)


class TrainYamlLoader(yaml.SafeLoader):
    """Reads 1e-4 as a number."""


EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
TrainYamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def environment_value(match: re.Match[str]) -> str:
    value = os.environ.get(match[1])
    if value is None:
        raise ValueError(f"Environment variable {match[1]} not set.")
    return value


def read_config(path: Path) -> dict[str, Any]:
    text = re.sub(r"\$\{([^}]+)\}", environment_value, path.read_text("utf-8"))
    config = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=TrainYamlLoader)  # noqa: S506 (a SafeLoader)
    for key in ("job", "config"):
        if key not in config:
            raise ValueError(f"config file must have a {key} key")
    if "name" not in config["config"]:
        raise ValueError("config file must have a config.name key")
    replaced = json.dumps(config).replace("[name]", str(config["config"]["name"]))
    result: dict[str, Any] = json.loads(replaced)
    return result


def steps_of(variable: str) -> set[int]:
    return {int(one) for one in os.environ.get(variable, "").split(",") if one}


def with_trigger(text: str, trigger: str, *, add: bool) -> str:
    """toolkit/prompt_utils.py, inject_trigger_into_prompt"""
    for tag in ("[name]", "[trigger]"):
        text = text.replace(tag, trigger)
    return f"{trigger} {text}" if add and trigger.strip() and trigger not in text else text


# The dataset (ai-toolkit: toolkit/data_loader.py).


def control_images(path: Path, entry: dict[str, Any]) -> list[Path]:
    """toolkit/dataloader_mixins.py, ControlFileItemDTOMixin: by name; one that is not there is left out without a message."""
    numbered = [
        entry[key] for key in ("control_path_1", "control_path_2", "control_path_3") if entry.get(key)
    ]
    folders = numbered or entry.get("control_path") or []
    found = []
    for folder in folders if isinstance(folders, list) else [folders]:
        named = [Path(folder) / f"{path.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        found += [control for control in named if control.exists()][:1]
    return found


def picture_of(path: Path) -> Image.Image:
    """What an image shows. The stand-in decodes no video: a pattern made of the file's bytes stands for it."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        digest = hashlib.sha256(path.read_bytes()).digest()
        pattern = np.frombuffer(digest[:27], np.uint8).reshape(3, 3, 3)
        return Image.fromarray(pattern, "RGB").resize((64, 64), Image.Resampling.BICUBIC)
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image)


class TrainingImages:
    """Images and captions. An image without a caption file gets an empty caption, without a message."""

    def __init__(self, settings: list[dict[str, Any]], trigger: str) -> None:
        self.latents, self.captions, self.dropout = [], [], []
        self.controls: list[Array | None] = []
        for entry in settings:
            suffix = "." + str(entry.get("caption_ext", "txt")).lstrip(".")
            root = Path(entry["folder_path"])
            # Unless `num_frames` is above 1, ai-toolkit ignores videos in the folder.
            has_videos = int(entry.get("num_frames", 1)) > 1 or entry.get("auto_frame_count")
            wanted = IMAGE_SUFFIXES + VIDEO_SUFFIXES if has_videos else IMAGE_SUFFIXES
            paths = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in wanted]
            paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(root).parts)]
            paths *= int(entry.get("num_repeats", 1))
            videos = sum(path.suffix.lower() in VIDEO_SUFFIXES for path in paths)
            found = f"{videos} videos and {len(paths) - videos} images" if videos else f"{len(paths)} images"
            print(f"Dataset: {root}\n  -  Found {found}")
            for path in paths:
                self.latents.append(encode_image(picture_of(path)))
                text = path.with_suffix(suffix)
                caption = text.read_text("utf-8").strip() if text.exists() else ""
                self.captions.append(with_trigger(caption, trigger, add=not entry.get("is_reg")))
                self.controls.append(embed_controls(control_images(path, entry)))
                self.dropout.append(float(entry.get("caption_dropout_rate", 0)))
        if not self.latents:
            raise ValueError("no images found in the dataset")

    def random_batch(self, rng: np.random.Generator, size: int) -> tuple[Array, Array]:
        chosen = rng.choice(len(self.latents), size, replace=size > len(self.latents))
        kept = rng.random(size) >= np.array(self.dropout)[chosen]
        inputs = [self._input_of(i, with_caption=keep) for i, keep in zip(chosen, kept, strict=True)]
        return np.stack([self.latents[i] for i in chosen]), np.stack(inputs)

    def _input_of(self, index: int, *, with_caption: bool) -> Array:
        """What the model sees of an image besides its noise: the caption, and the control images if there are any."""
        caption, control = embed_caption(self.captions[index] if with_caption else ""), self.controls[index]
        return caption if control is None else caption + control


def embed_controls(paths: list[Path]) -> Array | None:
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(embed_latent(encode_image(ImageOps.exif_transpose(image))))
    return np.sum(found, axis=0) if found else None


# The training process.


class Training:
    """jobs/process/BaseSDTrainProcess.py"""

    def __init__(self, config: dict[str, Any]) -> None:
        self.raw, self.name = config, str(config["config"]["name"])
        process = config["config"]["process"][0]
        if process.get("type") == "ui_trainer":
            raise ValueError("SQLite database not found at ./aitk_db.db")
        if process.get("type") not in ("sd_trainer", "diffusion_trainer", "textual_inversion_trainer"):
            raise ValueError(f"config file is invalid. Unknown process type: {process.get('type')}")
        print(json.dumps(process, indent=4))
        self.train, self.save_settings = process.get("train", {}), process.get("save", {})
        self.sample_settings, self.trigger = process.get("sample", {}), str(process.get("trigger_word") or "")
        self.datasets = process["datasets"]
        self.steps, self.lr = int(self.train.get("steps", 1000)), float(self.train.get("lr", 1e-6))
        self.folder = Path(process["training_folder"]) / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.dump(config), "utf-8")
        self.seed = int(os.environ.get("SEED") or process.get("training_seed") or 42)
        network = process["network"]
        rank = int(network.get("rank") or network.get("linear") or 4)
        self.network = Network(str(process["model"]["name_or_path"]), rank, self.seed)
        self.adam = Adam(self.network.lora)
        self.kind = names_of(process["model"])
        self.tensors = {
            f"{layer}.{part}": f"{self.kind.prefix}{module}{end}"
            for layer, module in zip(Network.LAYERS, self.kind.modules, strict=True)
            for part, end in zip(("lora_A", "lora_B"), self.kind.parts, strict=True)
        }
        self.step = self.epoch = self.skipped = 0

    def run_training(self) -> None:
        self.resume_from_checkpoint()
        data = TrainingImages(self.datasets, self.trigger)
        sampling = not self.train.get("disable_sampling", False)
        if sampling and self.step <= 1 and not self.train.get("skip_first_sample", False):
            print("Generating baseline samples before training")
            self.save_samples(self.step)
        self.train_steps(data, sampling)
        self.save_checkpoint(None)
        if sampling:
            self.save_samples(self.step)
        print("")

    def train_steps(self, data: TrainingImages, sampling: bool) -> None:
        """Step s is saved as s after its update, so a resumed run repeats it."""
        save_every = self.save_settings.get("save_every", 1000)
        sample_every = self.sample_settings.get("sample_every", 100)
        size, min_seconds = int(self.train.get("batch_size", 1)), float(os.environ.get("STEP_SECONDS") or 0)
        first = self.step
        bar = tqdm(desc=self.name, initial=first, total=self.steps)
        for step in range(first, self.steps):
            started = time.monotonic()
            self.step, self.epoch = step, step * size // len(data.latents)
            rng = np.random.default_rng([self.seed, 2, step])
            if step in steps_of("SKIPPED_STEPS"):
                self.skip_batch()
            else:
                self.skipped = 0
                loss = self.train_batch(data.random_batch(rng, size), rng)
                bar.set_postfix_str(f"lr: {self.lr:.1e} loss: {loss:.3e}")
            time.sleep(max(0.0, min_seconds - (time.monotonic() - started)))
            if step != first and save_every and step % save_every == 0:
                print(f"\nSaving at step {step}")
                self.save_checkpoint(step)
            if step != first and sampling and sample_every and step % sample_every == 0:
                self.save_samples(step)
            bar.update()
            self.step = step + 1
        bar.close()

    def train_batch(self, batch: tuple[Array, Array], rng: np.random.Generator) -> float:
        """SDTrainer.train_single_accumulation: a loss that is no number becomes 0, and training goes on."""
        if self.step in steps_of("NAN_STEPS"):
            print("loss is nan")
            return 0.0
        loss = self.network.loss(*batch, rng)
        self.adam.step(self.network.lora, self.network.grads, self.lr * LEARNING_RATE_FACTOR)
        return float(loss)

    def skip_batch(self) -> None:
        """The bar goes on showing the loss of the last batch that was trained."""
        self.skipped += 1
        if self.skipped > 3:
            raise RuntimeError("OOM during training step 3 times in a row, aborting training")
        ruler = "#" * 48
        print(f"\n{ruler}\n# OOM during training step, skipping batch {self.skipped}/3 #\n{ruler}\n")

    def resume_from_checkpoint(self) -> None:
        """get_latest_save_path: the newest file by ctime whose name begins with the job's."""
        found = list(self.folder.glob(f"{glob.escape(self.name)}*"))
        if not found:
            return
        latest = max(found, key=lambda path: path.stat().st_ctime_ns)
        print(f"#### IMPORTANT RESUMING FROM {latest} ####\nLoading from {latest}")
        metadata: dict[str, str] = {}
        for path, names in self.files_of(latest).items():
            metadata = load_weights(path, {name: self.network.lora[name] for name in names}, names)
        info = json.loads(metadata.get("training_info", "{}"))
        if "step" in info:
            self.step, self.epoch = int(info["step"]), int(info.get("epoch", 0))
            print(f"Found step {self.step} in metadata, starting from there")
        optimizer = self.folder / "optimizer.pt"
        if optimizer.exists():
            print(f"Loading optimizer state from {optimizer}")
            try:
                self.adam.load(optimizer)
            except Exception as err:  # noqa: BLE001 (ai-toolkit ignores all errors)
                print(f"Failed to load optimizer state from {optimizer}\n{err}")

    def save_checkpoint(self, step: int | None) -> None:
        suffix = "" if step is None else f"_{step:09}"
        path = self.folder / f"{self.name}{suffix}.safetensors"
        meta: dict[str, Any] = {**(self.raw.get("meta") or {}), "ss_output_name": self.name}
        meta |= {"training_info": {"step": self.step, "epoch": self.epoch}}
        meta["ss_base_model_version"] = self.kind.base
        meta["software"] = {"name": "ai-toolkit stand-in", "version": "0.12.26"}
        text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
        dtype = str(self.save_settings.get("dtype", "float16"))
        kind = "BF16" if dtype in ("bf16", "bfloat16") else "F16" if dtype in ("float16", "fp16") else "F32"
        for file, names in self.files_of(path).items():
            save_weights(
                file, {name: self.network.lora[name] for name in names}, names, kind, {**text, "format": "pt"}
            )
        print(f"Saved checkpoint to {path}")
        self.adam.save(self.folder / "optimizer.pt")
        print(f"Saved optimizer to {self.folder / 'optimizer.pt'}")
        # max_step_saves_to_keep_multiplier in wan22_14b_model.py
        keep = int(self.save_settings.get("max_step_saves_to_keep", 5)) * len(self.kind.stages)
        saves = self.folder.glob(f"{glob.escape(self.name)}_*.safetensors")
        for old in sorted(saves, key=lambda path: path.stat().st_ctime_ns)[:-keep]:
            print(f"Removing old save: {old}")
            old.unlink()

    def files_of(self, path: Path) -> dict[Path, dict[str, str]]:
        """The tensors in each file of a save, which `path` names with or without the ending of a stage (wan22_14b_model.py)."""
        stages, names = self.kind.stages, list(self.tensors.items())
        stem = re.sub(f"({'|'.join(stages)})$", "", path.stem)
        size = len(names) // len(stages)
        return {
            path.with_name(f"{stem}{stage}.safetensors"): dict(names[at * size : (at + 1) * size])
            for at, stage in enumerate(stages)
        }

    def save_samples(self, step: int) -> None:
        """Write samples/<ms>__<step>_<i>.jpg, through a hidden folder, and thumbnails (GenerateImageConfig)."""
        settings, folder = self.sample_settings, self.folder / "samples"
        (folder / ".tmp").mkdir(parents=True, exist_ok=True)
        (folder / ".thumbs").mkdir(exist_ok=True)
        # Samples of video models are saved as animated WebP (ai-toolkit: SampleConfig).
        frames = int(settings.get("num_frames", 1))
        extension = "webp" if frames > 1 else settings.get("format", "jpg")
        shrink = min(1.0, 512 / max(int(settings.get("width", 512)), int(settings.get("height", 512))))
        size = [max(64, int(int(settings.get(side, 512)) * shrink)) for side in ("width", "height")]
        # As in ai-toolkit's SampleConfig, `samples` takes precedence over `prompts`, and a text instead of
        # a list is read as a list of characters.
        samples = settings.get("samples", [{"prompt": one} for one in settings.get("prompts", [])])
        samples = [entry for entry in samples if entry.get("prompt") is not None]
        for i, entry in enumerate(samples):
            prompt, negative = entry["prompt"], entry.get("neg", settings.get("neg", False))
            if not isinstance(negative, str) and " --n " not in prompt:
                raise ValueError("text input must be of type `str` (sample.neg is missing)")
            seed = int(settings.get("seed", 0)) + (i if settings.get("walk_seed") else 0)
            caption = with_trigger(prompt.split(" --")[0], self.trigger, add=False)
            picture = self.network.sample(caption, max(1, int(settings.get("sample_steps", 20))), seed)
            picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
            name = f"{int(time.time() * 1000)}__{step:09}_{i}.{extension}"
            more = {"save_all": True, "append_images": [picture.transpose(0)]} if frames > 1 else {}
            picture.save(folder / ".tmp" / name, **more)
            picture.resize((300, 300)).save(folder / ".thumbs" / f"{name}.jpg", quality=90)
            (folder / ".tmp" / name).replace(folder / name)
        print("\x1b[A", end="", file=sys.stderr)  # move the cursor up, as a nested progress bar does


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: run.py FILE")
    print("Running 1 job")
    try:
        training = Training(read_config(Path(arguments[0])))
        print(f"\n#############################################\n# Running job: {training.name}")
        training.run_training()
    except Exception as err:
        print(f"Error running job: {err}\n\n{RULER}\nResult:\n - 0 completed jobs\n - 1 failure\n{RULER}")
        raise
    except KeyboardInterrupt:
        print(f"\n{RULER}\nJob stopped\n{RULER}")
        sys.exit(0)  # the exit status of ai-toolkit since July 2026
    print(f"\n{RULER}\nResult:\n - 1 completed job\n{RULER}")


if __name__ == "__main__":
    main(sys.argv[1:])
