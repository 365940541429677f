"""A job folder on disk: `dataset/` with images and a caption each, and `train.yml`.

Everything wrong in a folder is found in one pass and raised together as BadInput.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from training.errors import BadInput
from training.file_cache import FolderCache, Seen, all_settled, scan, signature_of
from training.manifest import Image, dataset_digest, manifest, parse_manifest
from training.trainer_config import (
    CONFIG_NAMES,
    DATASET_FOLDER,
    TrainerConfig,
    read_trainer_config,
    understand,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_SUFFIX = ".txt"
READERS = min(32, (os.cpu_count() or 1) + 4)
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# ai-toolkit takes every file that begins with the job's name for a checkpoint of it: these lie beside the checkpoints.
TAKEN_NAMES = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")


@dataclass(frozen=True)
class ImageSet:
    """The images of one `dataset/` folder with their captions, as their manifest says.

    `count` images of `size` bytes together; `digest` covers the images alone. All that a plan needs is here at once; `images` and
    `captions`, by image name, are taken from the manifest when somebody asks.
    """

    folder: Path
    manifest: bytes
    digest: str
    count: int
    size: int

    @staticmethod
    def of(folder: Path, images: dict[str, Image], captions: dict[str, str]) -> ImageSet:
        size = sum(image.size for image in images.values())
        return ImageSet(folder, manifest(images, captions), dataset_digest(images), len(images), size)

    @property
    def images(self) -> dict[str, Image]:
        return self._parsed[0]

    @property
    def captions(self) -> dict[str, str]:
        return self._parsed[1]

    @cached_property
    def _parsed(self) -> tuple[dict[str, Image], dict[str, str]]:
        return parse_manifest(self.manifest)


@dataclass(frozen=True)
class JobFolder:
    """A job folder that passed every check. `raw_config` is train.yml byte for byte."""

    name: str
    path: Path
    raw_config: bytes
    config: TrainerConfig


def read_config(path: Path) -> JobFolder:
    """The folder's train.yml (or train.yaml); raises BadInput."""
    if not JOB_NAME.fullmatch(path.name):
        raise BadInput(
            [
                f"{path}: a job's name is letters, digits, `.`, `_` and `-`, at most 63 of them; rename the folder"
            ]
        )
    if any(taken.startswith(path.name) for taken in TAKEN_NAMES):
        raise BadInput(
            [
                f"{path}: ai-toolkit would take its own {', '.join(TAKEN_NAMES)} for checkpoints of this job; rename the folder"
            ]
        )
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
    """The images and captions of a job folder's `dataset/`; raises BadInput with every finding.

    What has not changed since it was last read is not read again (training/file_cache.py).
    """
    folder = path / DATASET_FOLDER
    try:
        scanned = scan(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput([f"{folder}: no such folder; put the images and their captions there"]) from None
    except OSError as error:
        raise BadInput([f"{folder}: cannot be read ({error.strerror}); make it a readable folder"]) from None
    signature = signature_of(scanned)
    cache = FolderCache.of(folder)
    known = cache.load_whole(signature)
    if known is not None:
        facts, content = known
        return ImageSet(folder, content, facts["digest"], facts["count"], facts["bytes"])
    image_set = _read_folder(folder, [Seen(*entry) for entry in scanned], cache)
    if all_settled(scanned):
        facts = {"digest": image_set.digest, "count": image_set.count, "bytes": image_set.size}
        cache.save_whole(signature, facts, image_set.manifest)
    return image_set


def _read_folder(folder: Path, entries: list[Seen], cache: FolderCache) -> ImageSet:
    """Each file that is not known from before is read, many at a time."""
    files = {entry.name: entry for entry in entries if entry.is_file}
    images = {name: file for name, file in files.items() if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    captions = {name: file for name, file in files.items() if Path(name).suffix == CAPTION_SUFFIX}

    findings = _strangers(folder, {entry.name for entry in entries} - images.keys() - captions.keys())
    findings += _pair_findings(folder, images.keys(), captions.keys())
    if not images:
        findings.append(
            f"{folder}: no image; put some there ({', '.join(IMAGE_SUFFIXES)}), each with a caption .txt"
        )
    named = {f"{Path(name).stem}{CAPTION_SUFFIX}" for name in images}
    findings += [
        f"{folder / name}: no caption for this image; ai-toolkit would train it with an empty prompt: write one"
        for name in sorted(named - captions.keys())
    ]
    wanted = [*images.values(), *(file for name, file in captions.items() if name in named)]
    held, bad = _read_files(folder, wanted, cache)
    if findings or bad:
        raise BadInput([*findings, *bad])
    return ImageSet.of(
        folder,
        {name: Image(name, file.size, held[name]) for name, file in images.items()},
        {name: held[f"{Path(name).stem}{CAPTION_SUFFIX}"] for name in images},
    )


def _read_files(folder: Path, files: list[Seen], cache: FolderCache) -> tuple[dict[str, str], list[str]]:
    """What each file holds (an image's SHA-256, a caption's text), and what is wrong with those that cannot be used."""
    known = cache.load_parts()
    held = {file.name: known[file.name][1] for file in files if known.get(file.name, ([],))[0] == file.mark}
    findings: list[str] = []

    def read(file: Seen) -> None:
        path = folder / file.name
        try:
            held[file.name] = (
                _read_caption(path) if path.suffix == CAPTION_SUFFIX else _read_image(path, file)
            )
        except BadInput as bad:
            findings.extend(bad.findings)

    unknown = [file for file in files if file.name not in held]
    if unknown:
        # Decoding and hashing let other threads run.
        with ThreadPoolExecutor(min(len(unknown), READERS)) as pool:
            list(pool.map(read, unknown))
        now = time.time_ns()
        keep = {
            file.name: (file.mark, held[file.name])
            for file in files
            if file.name in held and file.is_settled(now)
        }
        cache.save_parts(keep)
    return held, sorted(findings)


def _strangers(folder: Path, names: set[str]) -> list[str]:
    return [
        f"{folder / name}: neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a caption (.txt); move it out of the dataset"
        for name in sorted(names)
    ]


def _pair_findings(folder: Path, images: Set[str], captions: Set[str]) -> list[str]:
    findings = []
    by_stem: dict[str, list[str]] = {}
    for name in images:
        by_stem.setdefault(Path(name).stem, []).append(name)
    for stem, names in by_stem.items():
        if len(names) > 1:
            findings.append(
                f"{folder}: {' and '.join(names)} would share the caption {stem}.txt; rename one of them"
            )
    for name in captions:
        stem = Path(name).stem
        if stem not in by_stem:
            findings.append(
                f"{folder / name}: a caption without an image; add the image {stem}.jpg or delete the caption"
            )
    return findings


def _read_image(path: Path, seen: Seen) -> str:
    """The SHA-256 of a file that Pillow can decode to its last pixel. Raises BadInput."""
    try:
        raw = path.read_bytes()
        with Pillow.open(io.BytesIO(raw)) as picture:
            picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadInput([f"{path}: cannot be read as an image ({reason}); replace or delete it"]) from error
    if len(raw) != seen.size:
        raise BadInput(
            [f"{path}: is being written ({len(raw)} bytes now, {seen.size} a moment ago); run again"]
        )
    return hashlib.sha256(raw).hexdigest()


def _read_caption(file: Path) -> str:
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
