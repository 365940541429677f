"""A job folder, examined once: what the rules of lint find in it, and the job that it makes where nothing forbids one.

An examination is remembered in `.flux-cache/` under all that it came from: the signature of the dataset (training/file_cache.py), the
bytes of train.yml, what the stack says of the node, and the rules themselves. While these are the same it costs a stat a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from training.file_cache import FolderCache, all_settled, is_off, scan, signature_of
from training.folder import ImageSet, JobFolder, image_set, job_folder, known_images, remember_images
from training.lint.cache import VERSION, FactsCache
from training.lint.check import check
from training.lint.finding import Finding
from training.lint.gather import FileFacts, Progress
from training.lint.registry import Subject
from training.lint.rules import RULES
from training.manifest import canonical_json
from training.trainer_config import DATASET_FOLDER, TrainerConfig, read_raw

KEPT_IN = "examined"
Scanned = tuple[list[tuple[object, ...]], str]


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
        self._scanned: dict[Path, Scanned] = {}
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
        if not file.fault:
            self._remember(place, file.raw, found)
        return found

    def _remembered(self, place: JobPlace) -> Examined | None:
        if self._root is None or place.dataset is None:
            return None
        raw = read_raw(place.folder)
        if raw is None:
            return None
        scanned, signature = self._scan(place.dataset)
        kept = self._kept(place).load(_key(place, signature, raw)) if scanned else None
        if kept is None:
            return None
        try:
            findings = tuple(Finding(**finding) for finding in kept[0]["findings"])
            config = kept[0]["config"]
            if config is None:
                return Examined(place.name, place.folder, findings)
            images = known_images(place.dataset / DATASET_FOLDER, signature, self._root)
            job = JobFolder(place.folder.name, place.folder, raw, TrainerConfig(**config))
        except (KeyError, TypeError):
            return None
        return Examined(place.name, place.folder, findings, (job, images)) if images else None

    def _remember(self, place: JobPlace, raw: bytes, found: Examined) -> None:
        if self._root is None or place.dataset is None:
            return
        scanned, signature = self._scan(place.dataset)
        if not scanned or not all_settled(scanned):
            return
        config = None
        if found.made:
            config = asdict(found.made[0].config)
            remember_images(found.made[1], signature, self._root)
        facts = {"findings": [asdict(finding) for finding in found.findings], "config": config}
        self._kept(place).save(_key(place, signature, raw), facts, b"")

    def _scan(self, dataset: Path) -> Scanned:
        """As it was before any of its files was looked at: what changes afterwards has another signature."""
        if dataset not in self._scanned:
            scanned = scan(dataset / DATASET_FOLDER)
            self._scanned[dataset] = scanned, signature_of(scanned)
        return self._scanned[dataset]

    def _kept(self, place: JobPlace) -> FolderCache:
        assert self._root is not None  # noqa: S101 - asked by those who remember
        return FolderCache.of(
            place.folder / hashlib.sha256(_of_the_stack(place)).hexdigest(), self._root, KEPT_IN
        )


def _of_the_stack(place: JobPlace) -> bytes:
    return canonical_json(
        [place.name, str(place.folder), str(place.dataset), place.gpu, sorted(place.variables)]
    )


def _key(place: JobPlace, signature: str, raw: bytes) -> str:
    parts = (_of_the_stack(place), signature.encode(), hashlib.sha256(raw).digest(), _rules().encode())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


@cache
def _rules() -> str:
    """Another one as soon as a file of ours is, or Pillow."""
    here = Path(__file__).parent
    sources = [
        entry for folder in (here, here / "lint") for entry in scan(folder) if str(entry[0]).endswith(".py")
    ]
    return f"{VERSION} {signature_of(sources)}"
