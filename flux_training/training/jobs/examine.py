"""A job folder, examined once: what the rules of lint find in it, and the job that it makes where nothing forbids one.

An examination is remembered in `.flux-cache/` under all that it came from: the signature of the dataset (flux_training/training/dataset/file_cache.py), the
bytes of train.yml, what the stack says of the node, and the rules themselves. While these are the same it costs a stat a file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from flux_training.training.dataset.facts import UNREADABLE, DatasetFacts, FileFacts, Progress
from flux_training.training.dataset.facts_cache import VERSION, FactsCache
from flux_training.training.dataset.file_cache import FolderCache, all_settled, is_off, scan, signature_of
from flux_training.training.finding import Finding
from flux_training.training.jobs.folder import (
    ImageSet,
    JobFolder,
    image_set,
    job_folder,
    known_images,
    remember_images,
)
from flux_training.training.lint.check import check
from flux_training.training.lint.registry import Subject
from flux_training.training.lint.rules import RULES
from flux_training.training.train_yml.trainer_config import (
    DATASET_FOLDER,
    TrainerConfig,
    TrainerFile,
    read_raw,
)

KEPT_IN = "examined"
# Stacks that want another GPU or other variables are remembered beside each other, but not for ever.
MOST_KEPT = 4


@dataclass(frozen=True)
class Snapshot:
    """A dataset as it was before any of its files was looked at. `sure`: what changes afterwards has another signature."""

    signature: str
    sure: bool

    @staticmethod
    def of(folder: Path) -> Snapshot:
        scanned = scan(folder)
        return Snapshot(signature_of(scanned), bool(scanned) and all_settled(scanned))


@dataclass(frozen=True)
class JobPlace:
    """Where a job's files lie, and what the stack says of the node. `dataset` is the job folder with the images; None: there is none such."""

    name: str
    folder: Path
    dataset: Path | None
    gpu: str = ""
    variables: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Examined:
    """`findings` of all rules, by path and line. `made` is None where a needed rule is broken or the dataset is missing."""

    name: str
    folder: Path
    findings: tuple[Finding, ...]
    made: tuple[JobFolder, ImageSet] | None = None

    @property
    def needed(self) -> list[Finding]:
        """Those of rules without which there is no job."""
        return [finding for finding in self.findings if RULES[finding.code].needed]


class Examiner:
    """Examines each job once in its life, so that who asks twice gets the same. `root` holds `.flux-cache/`; None: nothing is remembered."""

    def __init__(self, files: FileFacts | None = None, root: Path | None = None) -> None:
        self._files = files or FileFacts()
        self._root = root
        self._snapshots: dict[Path, Snapshot] = {}
        self._examined: dict[JobPlace, Examined] = {}

    @staticmethod
    def of(root: Path = Path(), progress: Progress = lambda _done, _all: None) -> Examiner:
        """What has not changed comes from `.flux-cache/` of the checkout, unless that is off."""
        return (
            Examiner(FileFacts(None, progress))
            if is_off()
            else Examiner(FileFacts(FactsCache(root), progress), root)
        )

    def examine(self, places: Sequence[JobPlace]) -> list[Examined]:
        """Bad input is a finding: raises nothing for it."""
        new = [place for place in dict.fromkeys(places) if place not in self._examined]
        known = {place: found for place in new if (found := self._remembered(place))}
        left = [place for place in new if place not in known]
        self._files.prepare(place.dataset for place in left if place.dataset)
        self._examined |= known | {place: self._look_at(place) for place in left}
        return [self._examined[place] for place in places]

    def _look_at(self, place: JobPlace) -> Examined:
        file = self._files.trainer_file(place.folder)
        facts = self._files.dataset(place.dataset) if place.dataset else None
        subject = Subject(place.name, place.folder, file, facts, place.gpu, place.variables)
        found = Examined(place.name, place.folder, tuple(check(subject)))
        if facts and not found.needed:
            found = Examined(
                place.name, place.folder, found.findings, (job_folder(place.folder, file), image_set(facts))
            )
        if not file.fault and not (facts and has_passing_fault(facts)):
            self._remember(place, file, found)
        return found

    def _remembered(self, place: JobPlace) -> Examined | None:
        if self._root is None or place.dataset is None:
            return None
        path, raw = read_raw(place.folder)
        snapshot = self._snapshot(place.dataset)
        kept = self._kept(place).load(_key(place, snapshot, path, raw)) if raw else None
        if kept is None:
            return None
        try:
            findings = tuple(Finding(**finding) for finding in kept[0]["findings"])
            config = kept[0]["config"]
            if config is None:
                return Examined(place.name, place.folder, findings)
            images = known_images(place.dataset / DATASET_FOLDER, snapshot.signature, self._root)
            job = JobFolder(place.folder.name, place.folder, raw, TrainerConfig(**config))
        except (KeyError, TypeError, AttributeError):
            return None
        return Examined(place.name, place.folder, findings, (job, images)) if images else None

    def _remember(self, place: JobPlace, file: TrainerFile, found: Examined) -> None:
        if self._root is None or place.dataset is None:
            return
        snapshot = self._snapshot(place.dataset)
        if not snapshot.sure:
            return
        config = None
        if found.made:
            config = asdict(found.made[0].config)
            remember_images(found.made[1], snapshot.signature, self._root)
        facts = {"findings": [asdict(finding) for finding in found.findings], "config": config}
        kept = self._kept(place)
        kept.save(_key(place, snapshot, file.path, file.raw), facts, b"")
        _forget_old(kept.place)

    def _snapshot(self, dataset: Path) -> Snapshot:
        if dataset not in self._snapshots:
            self._snapshots[dataset] = Snapshot.of(dataset / DATASET_FOLDER)
        return self._snapshots[dataset]

    def _kept(self, place: JobPlace) -> FolderCache:
        folder = FolderCache.of(place.folder, self._root or Path(), KEPT_IN).place
        return FolderCache(folder and folder / hashlib.sha256(_of_the_stack(place)).hexdigest()[:24])


def has_passing_fault(facts: DatasetFacts) -> bool:
    """Whether a file could not be read: that may be the machine's fault, and is looked at again."""
    captions = (caption.fault for caption in facts.captions.values())
    return any(fault and fault.code == UNREADABLE for fault in captions) or any(
        image.unread for image in facts.images.values()
    )


def _forget_old(kept: Path | None) -> None:
    with suppress(OSError):
        if kept is not None:
            for old in sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-MOST_KEPT]:
                old.unlink()


def _of_the_stack(place: JobPlace) -> bytes:
    said = [place.name, str(place.folder), str(place.dataset), place.gpu, sorted(place.variables)]
    # repr: a name may be no UTF-8.
    return repr(said).encode()


def _key(place: JobPlace, snapshot: Snapshot, path: Path, raw: bytes) -> str:
    parts = (
        _of_the_stack(place),
        snapshot.signature.encode(),
        os.fsencode(path.name),
        hashlib.sha256(raw).digest(),
        _rules().encode(),
    )
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


@cache
def _rules() -> str:
    """Another one as soon as a file of ours is, or Pillow."""
    root = Path(__file__).parents[1]
    folders = [root, *sorted(folder for folder in root.glob("**/") if folder.name != "__pycache__")]
    sources = [entry for folder in folders for entry in scan(folder) if str(entry[0]).endswith(".py")]
    return f"{VERSION} {signature_of(sources)}"
