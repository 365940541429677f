"""A job folder on disk: `dataset/` with images and a caption each, and `train.yml`.

What makes a folder usable are the needed rules of `training.lint`; everything wrong is raised together as BadInput.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flux_training.training.dataset.facts import DatasetFacts, FileFacts, caption_name
from flux_training.training.dataset.file_cache import FolderCache, all_settled, scan, signature_of
from flux_training.training.dataset.manifest import Image, dataset_digest, manifest, parse_manifest
from flux_training.training.lint.check import refuse_unusable
from flux_training.training.lint.registry import Subject
from flux_training.training.train_yml.trainer_config import (
    DATASET_FOLDER,
    TrainerConfig,
    TrainerFile,
    read_trainer_file,
)


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
    file = read_trainer_file(path)
    refuse_unusable(Subject(path.name, path, file, None))
    return job_folder(path, file)


def read_images(path: Path) -> ImageSet:
    """The images and captions of a job folder's `dataset/`; raises BadInput with every finding.

    A folder in which nothing has changed since it was found sound is not read again (flux_training/training/dataset/file_cache.py).
    """
    folder = path / DATASET_FOLDER
    scanned = scan(folder)
    signature, settled = signature_of(scanned), all_settled(scanned)
    known = known_images(folder, signature) if scanned else None
    if known is not None:
        return known
    found = FileFacts().dataset(path)
    refuse_unusable(Subject(path.name, path, None, found))
    images = image_set(found)
    if settled:
        remember_images(images, signature)
    return images


def known_images(folder: Path, signature: str, root: Path = Path()) -> ImageSet | None:
    """What a `dataset/` folder of this signature came to, as the checkout `root` remembers it."""
    known = FolderCache.of(folder, root).load(signature)
    if known is None:
        return None
    facts, content = known
    return ImageSet(folder, content, facts["digest"], facts["count"], facts["bytes"])


def remember_images(images: ImageSet, signature: str, root: Path = Path()) -> None:
    """Of a folder that was settled when its signature was taken."""
    facts = {"digest": images.digest, "count": images.count, "bytes": images.size}
    FolderCache.of(images.folder, root).save(signature, facts, images.manifest)


def job_folder(path: Path, file: TrainerFile) -> JobFolder:
    """From a train.yml that the needed rules let pass."""
    steps, save_every = file.steps, file.save_every
    assert steps is not None  # noqa: S101 - steps-invalid
    assert save_every is not None  # noqa: S101 - save-every-invalid
    return JobFolder(path.name, path, file.raw, TrainerConfig(path.name, steps, save_every))


def image_set(facts: DatasetFacts) -> ImageSet:
    """From a dataset that the needed rules let pass."""
    images = {name: Image(name, image.size, image.sha256) for name, image in facts.images.items()}
    captions = {name: facts.captions[caption_name(name)].text for name in images}
    return ImageSet.of(facts.folder, images, captions)
