"""A job folder on disk: `dataset/` with images and a caption each, and `train.yml`.

Everything wrong in a folder is found in one pass and raised together as BadInput.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from training.errors import BadInput
from training.manifest import Image, dataset_digest, manifest
from training.trainer_config import (
    CONFIG_NAMES,
    DATASET_FOLDER,
    TrainerConfig,
    read_trainer_config,
    understand,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_SUFFIX = ".txt"
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# ai-toolkit takes every file that begins with the job's name for a checkpoint of it: these lie beside the checkpoints.
TAKEN_NAMES = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")


@dataclass(frozen=True)
class ImageSet:
    """The images of one `dataset/` folder and their captions, both keyed by image name."""

    folder: Path
    images: dict[str, Image]
    captions: dict[str, str]

    @property
    def digest(self) -> str:
        return dataset_digest(self.images)

    @property
    def manifest(self) -> bytes:
        return manifest(self.images, self.captions)

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return sum(image.size for image in self.images.values())


@dataclass(frozen=True)
class JobFolder:
    """A job folder that passed every check. `raw_config` is train.yml byte for byte."""

    name: str
    path: Path
    raw_config: bytes
    config: TrainerConfig


def name_finding(path: Path) -> str | None:
    """What is wrong with a job folder's name, if anything."""
    if not JOB_NAME.fullmatch(path.name):
        return f"{path}: a job's name is letters, digits, `.`, `_` and `-`, at most 63 of them; rename the folder"
    if any(taken.startswith(path.name) for taken in TAKEN_NAMES):
        return f"{path}: ai-toolkit would take its own {', '.join(TAKEN_NAMES)} for checkpoints of this job; rename the folder"
    return None


def read_config(path: Path) -> JobFolder:
    """The folder's train.yml (or train.yaml); raises BadInput."""
    if (finding := name_finding(path)) is not None:
        raise BadInput([finding])
    present = [name for name in CONFIG_NAMES if (path / name).is_file()]
    if not present:
        raise BadInput(
            [
                f"{path}: no train.yml; a job folder needs one: copy one from another folder under {path.parent}"
            ]
        )
    if len(present) > 1:
        raise BadInput(
            [f"{path}: both train.yml and train.yaml; only one may be there: delete the one you do not use"]
        )
    config_path = path / present[0]
    raw, document = read_trainer_config(config_path)
    return JobFolder(path.name, path, raw, understand(config_path, document))


def read_images(path: Path) -> ImageSet:
    """The images and captions of a job folder's `dataset/`; raises BadInput with every finding."""
    folder = path / DATASET_FOLDER
    if not folder.is_dir():
        raise BadInput([f"{folder}: no such folder; put the images and their captions there"])
    entries = {entry.name: entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}
    files = {name: entry for name, entry in entries.items() if entry.is_file()}
    image_files = {name: file for name, file in files.items() if file.suffix.lower() in IMAGE_SUFFIXES}
    caption_files = {name: file for name, file in files.items() if file.suffix == CAPTION_SUFFIX}

    findings = _strangers(folder, entries.keys() - image_files.keys() - caption_files.keys())
    findings += _pair_findings(folder, image_files, caption_files)
    if not image_files:
        findings.append(
            f"{folder}: no image; put some there ({', '.join(IMAGE_SUFFIXES)}), each with a caption .txt"
        )

    images: dict[str, Image] = {}
    captions: dict[str, str] = {}
    for name, file in image_files.items():
        try:
            images[name] = _read_image(file)
            captions[name] = read_caption(file.with_suffix(CAPTION_SUFFIX))
        except BadInput as bad:
            findings += bad.findings
    if findings:
        raise BadInput(findings)
    return ImageSet(folder, images, captions)


def _strangers(folder: Path, names: set[str]) -> list[str]:
    return [
        f"{folder / name}: neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a caption (.txt); move it out of the dataset"
        for name in sorted(names)
    ]


def _pair_findings(folder: Path, images: dict[str, Path], captions: dict[str, Path]) -> list[str]:
    findings = []
    by_stem: dict[str, list[str]] = {}
    for name, file in images.items():
        by_stem.setdefault(file.stem, []).append(name)
    for stem, names in by_stem.items():
        if len(names) > 1:
            findings.append(
                f"{folder}: {' and '.join(names)} would share the caption {stem}.txt; rename one of them"
            )
    for name, file in captions.items():
        if file.stem not in by_stem:
            findings.append(
                f"{folder / name}: a caption without an image; add the image {file.stem}.jpg or delete the caption"
            )
    return findings


def _read_image(file: Path) -> Image:
    try:
        with Pillow.open(file) as picture:
            picture.load()
        raw = file.read_bytes()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadInput([f"{file}: cannot be read as an image ({reason}); replace or delete it"]) from error
    return Image(file.name, len(raw), hashlib.sha256(raw).hexdigest())


def read_caption(file: Path) -> str:
    """A caption without the white space around it; raises BadInput."""
    try:
        caption = file.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError as error:
        raise BadInput(
            [f"{file}: no caption for this image; ai-toolkit would train it with an empty prompt: write one"]
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput([f"{file}: not UTF-8 (byte {error.start}); save the caption as UTF-8"]) from error
    except OSError as error:
        raise BadInput([f"{file}: cannot be read ({error.strerror}); make it a readable file"]) from error
    if not caption:
        raise BadInput([f"{file}: the caption is empty; say what the image shows, with the trigger word"])
    return caption
