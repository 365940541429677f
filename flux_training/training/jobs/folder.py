"""A job folder on disk: `dataset/` with images and a caption each, further folders that train.yml names, and `train.yml`.

The needed rules of `training.lint` decide whether a folder is usable. BadInput holds all findings at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flux_training.training.dataset.facts import DatasetFacts, DatasetReader
from flux_training.training.dataset.image_cache import ImageCache
from flux_training.training.dataset.manifest import Image, dataset_digest, manifest_json, parse_manifest
from flux_training.training.lint.check import refuse_unusable
from flux_training.training.lint.registry import Subject
from flux_training.training.names import caption_name
from flux_training.training.text_files import normalized
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import TrainerFile, parse_train_yml, read_trainer_file


@dataclass(frozen=True)
class ImageSet:
    """The images and captions of a job's dataset. `folder` is `dataset/`; images of other folders have the folder in their names.

    Only trained images have captions. `size` is the total in bytes; `digest` covers the images only.

    `own_manifest` has the captions with their files' own line endings, as earlier versions hashed them.
    """

    folder: Path
    manifest: bytes
    digest: str
    count: int
    size: int
    own_manifest: bytes

    @staticmethod
    def of(
        folder: Path,
        images: dict[str, Image],
        captions: dict[str, str],
        own_captions: dict[str, str] | None = None,
    ) -> ImageSet:
        size = sum(image.size for image in images.values())
        made = manifest_json(images, captions)
        own = manifest_json(images, own_captions) if own_captions and own_captions != captions else made
        return ImageSet(folder, made, dataset_digest(images), len(images), size, own)

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
    """A job folder that passed every check.

    `raw_config` is train.yml as it is uploaded: byte for byte, but with normalised line endings and no byte order mark.
    `own_config` is the file itself.
    """

    name: str
    path: Path
    raw_config: bytes
    steps: int
    save_every: int
    own_config: bytes

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The content of `raw_config`, parsed once."""
        return parse_train_yml(self.raw_config)


def read_config(path: Path) -> JobFolder:
    """The folder's train.yml (or train.yaml); raises BadInput."""
    file = read_trainer_file(path)
    refuse_unusable(Subject(path.name, path, file, None))
    return job_folder(path, file)


def read_images(path: Path, job: Path | None = None) -> ImageSet:
    """The images and captions of a job folder; raises BadInput with every finding.

    `job` is the folder whose train.yml says which folders belong to the dataset: jobs may train on the images of another one.
    """
    uses = folder_uses(read_trainer_file(job or path).process)
    facts = DatasetReader(ImageCache.of()).dataset(path, uses)
    refuse_unusable(Subject(path.name, path, None, facts))
    return image_set(facts)


def job_folder(path: Path, file: TrainerFile) -> JobFolder:
    """Of a train.yml that breaks no needed rule."""
    steps, save_every = file.steps, file.save_every
    assert steps is not None  # noqa: S101 - checked by the rule steps-invalid
    assert save_every is not None  # noqa: S101 - checked by the rule save-every-invalid
    return JobFolder(path.name, path, normalized(file.raw), steps, save_every, file.raw)


def image_set(facts: DatasetFacts) -> ImageSet:
    """Of a dataset that breaks no needed rule."""
    images = {name: Image(name, image.size, image.sha256) for name, image in facts.images.items()}
    captions = {name: facts.captions[caption_name(name)].text for name in facts.trained}
    own = {name: facts.captions[caption_name(name)].own_text for name in facts.trained}
    return ImageSet.of(facts.folder, images, captions, own)
