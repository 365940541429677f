"""What lies in a job's `dataset/` folder: each image decoded once, each caption read."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from flux_training.training.dataset.image_cache import ImageCache, Stamp, is_settled, stamp_of
from flux_training.training.dataset.image_facts import ImageFacts, look_at_image
from flux_training.training.finding import Problem
from flux_training.training.names import CAPTION_SUFFIX, IMAGE_SUFFIXES
from flux_training.training.opening import (
    leaves_dataset,
    outside_target,
    project_of,
    read_regular_file,
    special_kind,
)
from flux_training.training.text_files import git_artefact, normalized_text
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, outside_problem

# (images done, images to do)
OnProgress = Callable[[int, int], None]
MAX_CAPTION_BYTES = 1_000_000
# The byte order marks that Windows' Notepad writes for "Unicode".
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The lint rule for a caption that exists and cannot be read.
UNREADABLE = "caption-unreadable"


@dataclass(frozen=True)
class Caption:
    """A caption file. `fault` says why there is no `text`. `own_text` has the file's own line endings."""

    name: str
    text: str = ""
    fault: Problem | None = None
    own_text: str = ""


@dataclass(frozen=True)
class DatasetFacts:
    """One `dataset/` folder: images and captions by file name, and the names of all other files.

    `outside`: links that leave the project, with their targets. `special`: pipes, devices and sockets, with their kind. None of these is
    opened. `captions` has an entry for every caption file. Hidden files are left out, as ai-toolkit does.
    """

    folder: Path
    fault: Problem | None = None
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    captions: Mapping[str, Caption] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    special: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        return str(self.folder / name)


def each_thousand(say: Callable[[str], None]) -> OnProgress:
    """Progress as one line per thousand images: for output that is no terminal."""
    said = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if done // 1000 > said:
            said = done // 1000
            say(f"checked {said * 1000} of {total} images")

    return on_progress


@lru_cache(100_000)  # a dozen rules ask it for each image
def caption_name(image: str) -> str:
    """The caption of `00001.jpg` is `00001.txt`."""
    return Path(image).stem + CAPTION_SUFFIX


class DatasetReader:
    """Reads each dataset once, so that everyone who asks gets the same answer."""

    def __init__(
        self, cache: ImageCache | None = None, on_progress: OnProgress = lambda _done, _total: None
    ) -> None:
        self._cache = cache
        self._on_progress = on_progress
        self._datasets: dict[Path, DatasetFacts] = {}

    def dataset(self, job_folder: Path) -> DatasetFacts:
        self.prepare([job_folder])
        return self._datasets[job_folder]

    def prepare(self, job_folders: Iterable[Path]) -> None:
        """Read the datasets of several job folders together, on all cores."""
        new = [folder for folder in dict.fromkeys(job_folders) if folder not in self._datasets]
        listed = {folder: _list(folder / DATASET_FOLDER) for folder in new}
        images = self._images([path for _, _, paths in listed.values() for path in paths])
        for folder, (facts, captions, paths) in listed.items():
            self._datasets[folder] = replace(
                facts,
                images={path.name: images[path] for path in paths},
                captions={path.name: read_caption(path) for path in captions},
            )
            if self._cache:
                self._cache.keep_only(facts.folder, {path.name for path in paths})
        if self._cache:
            self._cache.save()

    def _images(self, paths: Sequence[Path]) -> dict[Path, ImageFacts]:
        if self._cache is None:
            return self._decode(paths, {})
        stamps = {path: stamp for path in paths if (stamp := stamp_of(path))}
        known = {path: facts for path, stamp in stamps.items() if (facts := self._cache.get(path, stamp))}
        settled = {path: stamp for path, stamp in stamps.items() if is_settled(stamp)}
        return known | self._decode([path for path in paths if path not in known], settled)

    def _decode(self, paths: Sequence[Path], stamps: Mapping[Path, Stamp]) -> dict[Path, ImageFacts]:
        decoded: dict[Path, ImageFacts] = {}
        try:
            with _all_cores() as pool:
                for path, facts in zip(paths, pool.map(look_at_image, paths), strict=True):
                    decoded[path] = facts
                    if self._cache and path in stamps and not facts.unread:
                        self._cache.put(path, stamps[path], facts)
                    self._on_progress(len(decoded), len(paths))
        finally:
            # After Ctrl-C, too: the next command goes on from here.
            if self._cache:
                self._cache.save()
        return decoded


@contextmanager
def _all_cores() -> Iterator[ThreadPoolExecutor]:
    """Threads to decode images with: Pillow's decoders release the interpreter lock."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read_caption(path: Path) -> Caption:
    """A caption as ai-toolkit reads it. Errors go into its `fault`."""

    def wrong(code: str, message: str, line: int | None = None) -> Caption:
        return Caption(path.name, fault=Problem(str(path), message, line, code))

    if target := leaves_dataset(path):
        return wrong(UNREADABLE, f"links to {target}, outside the project; it is not read")
    try:
        raw = read_regular_file(path, MAX_CAPTION_BYTES + 1)
        if len(raw) > MAX_CAPTION_BYTES:
            return wrong(UNREADABLE, f"more than {MAX_CAPTION_BYTES} bytes are too much for a caption")
        if left := git_artefact(raw):
            return wrong(left.code, left.message, left.line)
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        kind = "UTF-16" if raw.startswith(UTF_16_MARKS) else f"not UTF-8 (byte {error.start})"
        return wrong("caption-encoding", kind)
    except OSError as error:
        return wrong(UNREADABLE, f"cannot be read ({error.strerror})")
    if not text:
        return wrong("caption-empty", "the caption is empty")
    return Caption(path.name, normalized_text(text), own_text=text)


def _list(folder: Path) -> tuple[DatasetFacts, list[Path], list[Path]]:
    """(facts known without reading files, caption paths, image paths), each sorted by name."""
    root = project_of(folder.parent)
    if target := outside_target(folder, root):
        return DatasetFacts(folder, outside_problem(folder, target)), [], []
    try:
        with os.scandir(folder) as found:
            shown = sorted(
                (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except FileNotFoundError:
        return _no_dataset(folder, "no such folder"), [], []
    except OSError as error:
        return _no_dataset(folder, f"cannot be read ({error.strerror})"), [], []
    links = {entry.name: outside_target(folder / entry.name, root) for entry in shown if entry.is_symlink()}
    outside = {name: target for name, target in links.items() if target}
    inside = [entry for entry in shown if entry.name not in outside]
    others = {entry.name: special_kind(folder / entry.name) for entry in inside if not _is_file(entry)}
    special = {name: kind for name, kind in others.items() if kind not in ("", "a folder")}
    files = [entry.name for entry in inside if entry.name not in others]
    images = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    captions = [name for name in files if Path(name).suffix == CAPTION_SUFFIX]
    strangers = sorted({entry.name for entry in inside} - {*images, *captions, *special})
    facts = DatasetFacts(folder, strangers=tuple(strangers), outside=outside, special=special)
    return facts, [folder / name for name in captions], [folder / name for name in images]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads back to itself
        return False


def _no_dataset(folder: Path, reason: str) -> DatasetFacts:
    return DatasetFacts(folder, Problem(str(folder), reason, code="dataset-missing"))
