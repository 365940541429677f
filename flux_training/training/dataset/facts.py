"""The facts of whole datasets: what lies in a `dataset/` folder, each image looked at once, each caption read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from flux_training.training.dataset.facts_cache import FactsCache, Stamp, is_settled, stamp_of
from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.dataset.workers import look_at_images
from flux_training.training.finding import Problem
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, TrainerFile, read_trainer_file

# (images done, images to do)
Progress = Callable[[int, int], None]
LARGEST_CAPTION = 1_000_000
# The rule of what is there and cannot be read.
UNREADABLE = "caption-unreadable"
# Images: what Ctrl-C leaves of many is not looked at again.
KEPT_EVERY = 1000


@dataclass(frozen=True)
class Caption:
    """A caption file. `fault` says why there is no `text`."""

    name: str
    text: str = ""
    fault: Problem | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What lies in one `dataset/` folder: images and captions by file name, and the names of what is neither.

    `captions` has an entry for every caption file; hidden files are left out, as ai-toolkit leaves them out.
    """

    folder: Path
    fault: Problem | None = None
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    captions: Mapping[str, Caption] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()

    def path(self, name: str) -> str:
        return str(self.folder / name)


def each_thousand(say: Callable[[str], None]) -> Progress:
    """A progress that says a line for each thousand images: where lines cannot be taken back."""
    said = 0

    def tell(done: int, total: int) -> None:
        nonlocal said
        if done // 1000 > said:
            said = done // 1000
            say(f"looked at {said * 1000} of {total} images")

    return tell


@lru_cache(100_000)  # a dozen rules ask it of each image
def caption_name(image: str) -> str:
    """The caption of `00001.jpg` is `00001.txt`."""
    return Path(image).stem + CAPTION_SUFFIX


class FileFacts:
    """Looks at each dataset and train.yml once in its life, so that who asks twice sees the same. Without a cache every image is read."""

    def __init__(
        self, cache: FactsCache | None = None, progress: Progress = lambda _done, _all: None
    ) -> None:
        self._cache = cache
        self._progress = progress
        self._datasets: dict[Path, DatasetFacts] = {}
        self._trainer_files: dict[Path, TrainerFile] = {}

    def trainer_file(self, job_folder: Path) -> TrainerFile:
        if job_folder not in self._trainer_files:
            self._trainer_files[job_folder] = read_trainer_file(job_folder)
        return self._trainer_files[job_folder]

    def dataset(self, job_folder: Path) -> DatasetFacts:
        self.prepare([job_folder])
        return self._datasets[job_folder]

    def prepare(self, job_folders: Iterable[Path]) -> None:
        """Look at the datasets of several job folders at once: on all cores."""
        listed = {
            folder: _list(folder / DATASET_FOLDER)
            for folder in dict.fromkeys(job_folders)
            if folder not in self._datasets
        }
        images = self._images([path for _, _, paths in listed.values() for path in paths])
        for folder, (facts, captions, paths) in listed.items():
            self._datasets[folder] = DatasetFacts(
                facts.folder,
                facts.fault,
                {path.name: images[path] for path in paths},
                {path.name: read_caption(path) for path in captions},
                facts.strangers,
            )
            if self._cache:
                self._cache.keep_only(facts.folder, {path.name for path in paths})
        if self._cache:
            self._cache.save()

    def _images(self, paths: list[Path]) -> dict[Path, ImageFacts]:
        known: dict[Path, ImageFacts] = {}
        stamps: dict[Path, Stamp] = {}
        for path in paths:
            stamp = stamp_of(path) if self._cache else None
            facts = self._cache.get(path, stamp) if self._cache and stamp else None
            if facts:
                known[path] = facts
            elif stamp and is_settled(stamp):
                stamps[path] = stamp
        new = [path for path in paths if path not in known]
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            if more:
                self._progress(done, len(new))

        for start in range(0, len(new), KEPT_EVERY):
            part = new[start : start + KEPT_EVERY]
            for path, facts in zip(part, look_at_images(part, tell), strict=True):
                known[path] = facts
                if self._cache and path in stamps and not facts.unread:
                    self._cache.put(path, stamps[path], facts)
            if self._cache:
                self._cache.save()
        return known


def read_caption(path: Path) -> Caption:
    """A caption as ai-toolkit reads it. What is wrong with it is its `fault`: raises nothing."""

    def wrong(code: str, message: str) -> Caption:
        return Caption(path.name, fault=Problem(str(path), message, code=code))

    try:
        raw = path.read_bytes()
        if len(raw) > LARGEST_CAPTION:
            return wrong(UNREADABLE, f"{len(raw)} bytes are no caption")
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return wrong("caption-encoding", f"not UTF-8 (byte {error.start})")
    except OSError as error:
        return wrong(UNREADABLE, f"cannot be read ({error.strerror})")
    return Caption(path.name, text) if text else wrong("caption-empty", "the caption is empty")


def _list(folder: Path) -> tuple[DatasetFacts, list[Path], list[Path]]:
    """(the facts that take no reading, the captions, the images), each in the order of the names."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(((entry.name, entry.is_file()) for entry in found), key=lambda entry: entry[0])
    except FileNotFoundError:
        return _no_dataset(folder, "no such folder"), [], []
    except OSError as error:
        return _no_dataset(folder, f"cannot be read ({error.strerror})"), [], []
    shown = [(name, is_file) for name, is_file in entries if not name.startswith(".")]
    images = [name for name, is_file in shown if is_file and Path(name).suffix.lower() in IMAGE_SUFFIXES]
    captions = [name for name, is_file in shown if is_file and Path(name).suffix == CAPTION_SUFFIX]
    strangers = sorted({name for name, _ in shown} - {*images, *captions})
    facts = DatasetFacts(folder, strangers=tuple(strangers))
    return facts, [folder / name for name in captions], [folder / name for name in images]


def _no_dataset(folder: Path, reason: str) -> DatasetFacts:
    return DatasetFacts(folder, Problem(str(folder), reason, code="dataset-missing"))
