"""A job folder on disk: `dataset/` with images and a caption each, and `train.yml`.

What makes a folder usable are the needed rules of `training.lint`; everything wrong is raised together as BadInput.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.lint.check import refuse_unusable
from training.lint.gather import DatasetFacts, FileFacts, caption_name
from training.lint.registry import Subject
from training.manifest import Image, dataset_digest, manifest
from training.trainer_config import TrainerConfig, TrainerFile, read_trainer_file


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


def read_config(path: Path) -> JobFolder:
    """The folder's train.yml (or train.yaml); raises BadInput."""
    file = read_trainer_file(path)
    refuse_unusable(Subject(path.name, path, file, None))
    return job_folder(path, file)


def read_images(path: Path) -> ImageSet:
    """The images and captions of a job folder's `dataset/`, each file read; raises BadInput with every finding."""
    facts = FileFacts().dataset(path)
    refuse_unusable(Subject(path.name, path, None, facts))
    return image_set(facts)


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
    return ImageSet(facts.folder, images, captions)
