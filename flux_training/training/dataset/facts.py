"""What lies in the folders of a job's dataset: each image decoded once, each caption read."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flux_training.training.dataset.image_cache import ImageCache, Stamp, file_stamp, is_old_enough_to_cache
from flux_training.training.dataset.image_facts import ImageFacts, read_image_facts
from flux_training.training.files import rename_hint
from flux_training.training.finding import Problem
from flux_training.training.names import (
    CAPTION_SUFFIX,
    DATASET_FOLDER,
    FOLDER_NAME,
    MEDIA_SUFFIXES,
    dataset_file,
    folder_of,
)
from flux_training.training.opening import (
    outside_target,
    project_of_job_folder,
    read_regular_file,
    special_kind,
    target_outside_project,
)
from flux_training.training.text_files import describe_encoding, git_artefact, normalized_text
from flux_training.training.train_yml.dataset_folders import (
    DATASET_ALONE,
    TRAINED_KINDS,
    FolderKind,
    FolderUse,
)
from flux_training.training.train_yml.trainer_config import outside_problem

# Called with the number of images done and the total number of images.
OnProgress = Callable[[int, int], None]
MAX_CAPTION_BYTES = 1_000_000
# The lint rule for a caption file that exists but cannot be read.
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
    """One job's dataset: images and captions by name, and the names of all other files.

    `folder` is `dataset/`, and names are relative to it; a file of another folder has that in its name, as in `control/00001.png`.
    `uses` says what each folder is for; `unused` are folders named like those of a dataset that train.yml does not use. `faults` say which
    folders cannot be read. `outside`: links that leave the project, with their targets. `special`: pipes, devices and sockets, with their kind. None of these is
    opened. `images` has videos, too. `captions` has an entry for every caption file. Hidden files are left out, as ai-toolkit does.
    """

    folder: Path
    faults: tuple[Problem, ...] = ()
    uses: tuple[FolderUse, ...] = DATASET_ALONE
    unused: tuple[str, ...] = ()
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    captions: Mapping[str, Caption] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    special: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return dataset_file(self.folder, name)

    def folders_of(self, *kinds: FolderKind) -> frozenset[str]:
        return frozenset(use.folder for use in self.uses if use.kind in kinds)

    @cached_property
    def trained(self) -> Mapping[str, ImageFacts]:
        """The images that are trained: those that have captions."""
        folders = self.folders_of(*TRAINED_KINDS)
        return {name: image for name, image in self.images.items() if folder_of(name) in folders}


def report_each_thousand_images(say: Callable[[str], None]) -> OnProgress:
    """Progress as one line per thousand images: for output that is no terminal."""
    said = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        if done // 1000 > said:
            said = done // 1000
            say(f"checked {said * 1000} of {total} images")

    return on_progress


class DatasetPlace(NamedTuple):
    """Where a dataset is, and which folders belong to it."""

    job_folder: Path
    uses: tuple[FolderUse, ...] = DATASET_ALONE


class DatasetReader:
    """Reads each dataset once, so that everyone who asks gets the same answer."""

    def __init__(
        self, cache: ImageCache | None = None, on_progress: OnProgress = lambda _done, _total: None
    ) -> None:
        self._cache = cache
        self._on_progress = on_progress
        self._folders: dict[Path, DatasetFacts] = {}
        self._datasets: dict[DatasetPlace, DatasetFacts] = {}

    def dataset(self, job_folder: Path, uses: tuple[FolderUse, ...] = DATASET_ALONE) -> DatasetFacts:
        place = DatasetPlace(job_folder, uses)
        self.prepare([place])
        return self._datasets[place]

    def prepare(self, places: Iterable[DatasetPlace]) -> None:
        """Read several datasets together, on all cores."""
        new = [place for place in dict.fromkeys(places) if place not in self._datasets]
        self._read(folder for place in new for folder in _folders_to_read(place))
        for place in new:
            self._datasets[place] = _combine_folders(
                place, [self._folders[one] for one in _folders_to_read(place)]
            )

    def _read(self, folders: Iterable[Path]) -> None:
        listed = {folder: _list(folder) for folder in dict.fromkeys(folders) if folder not in self._folders}
        images = self._images([path for _, _, paths in listed.values() for path in paths])
        for folder, (facts, captions, paths) in listed.items():
            self._folders[folder] = replace(
                facts,
                images={path.name: images[path] for path in paths},
                captions={path.name: read_caption(path) for path in captions},
            )
            if self._cache:
                self._cache.forget_other_images(facts.folder, {path.name for path in paths})
        if self._cache:
            self._cache.save()

    def _images(self, paths: Sequence[Path]) -> dict[Path, ImageFacts]:
        if self._cache is None:
            return self._decode(paths, {})
        stamps = {path: stamp for path in paths if (stamp := file_stamp(path))}
        known = {path: facts for path, stamp in stamps.items() if (facts := self._cache.get(path, stamp))}
        settled = {path: stamp for path, stamp in stamps.items() if is_old_enough_to_cache(stamp)}
        return known | self._decode([path for path in paths if path not in known], settled)

    def _decode(self, paths: Sequence[Path], stamps: Mapping[Path, Stamp]) -> dict[Path, ImageFacts]:
        decoded: dict[Path, ImageFacts] = {}
        try:
            with _image_decoding_pool() as pool:
                for path, facts in zip(paths, pool.map(read_image_facts, paths), strict=True):
                    decoded[path] = facts
                    if self._cache and path in stamps and not facts.unread:
                        self._cache.put(path, stamps[path], facts)
                    self._on_progress(len(decoded), len(paths))
        finally:
            # Save the cache even after Ctrl-C, so that the next command continues from here.
            if self._cache:
                self._cache.save()
        return decoded


@contextmanager
def _image_decoding_pool() -> Iterator[ThreadPoolExecutor]:
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

    if target := target_outside_project(path):
        return wrong(UNREADABLE, f"links to {target}, outside the project; it is not read")
    try:
        raw = read_regular_file(path, MAX_CAPTION_BYTES + 1)
        if len(raw) > MAX_CAPTION_BYTES:
            return wrong(UNREADABLE, f"more than {MAX_CAPTION_BYTES} bytes are too much for a caption")
        if left := git_artefact(raw):
            return wrong(left.code, left.message, left.line)
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return wrong("caption-encoding", describe_encoding(raw, error.start))
    except OSError as error:
        return wrong(UNREADABLE, f"cannot be read ({error.strerror})")
    if not text:
        return wrong("caption-empty", "the caption is empty")
    return Caption(path.name, normalized_text(text), own_text=text)


def _folders_to_read(place: DatasetPlace) -> list[Path]:
    """The folders to read: `dataset/` first."""
    used = sorted({use.folder for use in place.uses} - {DATASET_FOLDER})
    return [place.job_folder / name for name in (DATASET_FOLDER, *used)]


def _combine_folders(place: DatasetPlace, folders: Sequence[DatasetFacts]) -> DatasetFacts:
    """The facts of several folders as one dataset. The first is `dataset/`."""
    main = folders[0]
    parts = [main, *(_with_folder_in_names(one, f"{one.folder.name}/") for one in folders[1:])]
    return DatasetFacts(
        main.folder,
        faults=tuple(fault for part in parts for fault in part.faults),
        uses=place.uses,
        unused=tuple(sorted(_dataset_folders(place.job_folder) - {one.folder.name for one in folders})),
        images={name: image for part in parts for name, image in part.images.items()},
        captions={name: caption for part in parts for name, caption in part.captions.items()},
        strangers=tuple(name for part in parts for name in part.strangers),
        outside={name: target for part in parts for name, target in part.outside.items()},
        special={name: kind for part in parts for name, kind in part.special.items()},
    )


def _with_folder_in_names(facts: DatasetFacts, prefix: str) -> DatasetFacts:
    """The facts of one folder, with its name before that of each file."""
    return replace(
        facts,
        images={prefix + name: replace(one, name=prefix + name) for name, one in facts.images.items()},
        captions={prefix + name: replace(one, name=prefix + name) for name, one in facts.captions.items()},
        strangers=tuple(prefix + name for name in facts.strangers),
        outside={prefix + name: target for name, target in facts.outside.items()},
        special={prefix + name: kind for name, kind in facts.special.items()},
    )


def _dataset_folders(job_folder: Path) -> set[str]:
    """The folders of a job that have the name of a dataset's folder."""
    try:
        with os.scandir(job_folder) as found:
            return {entry.name for entry in found if FOLDER_NAME.fullmatch(entry.name) and entry.is_dir()}
    except OSError:
        return set()


def _list(folder: Path) -> tuple[DatasetFacts, list[Path], list[Path]]:
    """(facts known without reading files, caption paths, image paths), each sorted by name."""
    root = project_of_job_folder(folder.parent)
    if target := outside_target(folder, root):
        return DatasetFacts(folder, (outside_problem(folder, target),)), [], []
    try:
        with os.scandir(folder) as found:
            shown = sorted(
                (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except FileNotFoundError:
        hint = rename_hint(folder.parent, folder.name, is_folder=True)
        return _no_dataset(folder, f"no such folder{hint}"), [], []
    except OSError as error:
        return _no_dataset(folder, f"cannot be read ({error.strerror})"), [], []
    links = {entry.name: outside_target(folder / entry.name, root) for entry in shown if entry.is_symlink()}
    outside = {name: target for name, target in links.items() if target}
    inside = [entry for entry in shown if entry.name not in outside]
    others = {entry.name: special_kind(folder / entry.name) for entry in inside if not _is_file(entry)}
    special = {name: kind for name, kind in others.items() if kind not in ("", "a folder")}
    files = [entry.name for entry in inside if entry.name not in others]
    images = [name for name in files if Path(name).suffix.lower() in MEDIA_SUFFIXES]
    captions = [name for name in files if Path(name).suffix == CAPTION_SUFFIX]
    strangers = sorted({entry.name for entry in inside} - {*images, *captions, *special})
    facts = DatasetFacts(folder, strangers=tuple(strangers), outside=outside, special=special)
    return facts, [folder / name for name in captions], [folder / name for name in images]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a symbolic link that points to itself
        return False


def _no_dataset(folder: Path, reason: str) -> DatasetFacts:
    return DatasetFacts(folder, (Problem(str(folder), reason, code="dataset-missing"),))
