"""Runs the lint rules over a job folder, and turns a folder that breaks no needed rule into a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flux_training.training.dataset.facts import DatasetPlace, DatasetReader, OnProgress
from flux_training.training.dataset.image_cache import ImageCache
from flux_training.training.finding import Finding
from flux_training.training.jobs.folder import ImageSet, JobFolder, image_set, job_folder
from flux_training.training.lint.check import check_rules
from flux_training.training.lint.registry import Subject
from flux_training.training.lint.rules import RULES
from flux_training.training.models.choice import DEFAULT_POLICY, ModelPolicy
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.trainer_config import TrainerFile, read_trainer_file
from flux_training.training.train_yml.trainer_version import NEWEST


@dataclass(frozen=True)
class JobPlace:
    """A job's folder and what the stack says about its node. `dataset` is the job folder with the images; None: it does not exist."""

    name: str
    folder: Path
    dataset: Path | None
    gpu: str = ""
    variables: frozenset[str] = frozenset()
    trainer_date: str = NEWEST.date
    policy: ModelPolicy = DEFAULT_POLICY


@dataclass(frozen=True)
class JobExamination:
    """`findings` of all rules, by path and line. `made` is None if a needed rule is broken or the dataset is missing."""

    name: str
    folder: Path
    findings: tuple[Finding, ...]
    made: tuple[JobFolder, ImageSet] | None = None

    @property
    def needed(self) -> list[Finding]:
        """The findings that make the folder unusable as a job."""
        return [finding for finding in self.findings if RULES[finding.code].needed]


class Examiner:
    """Examines each job once, so that lint and the program see the same."""

    def __init__(self, datasets: DatasetReader | None = None) -> None:
        self._datasets = datasets or DatasetReader()
        self._examined: dict[JobPlace, JobExamination] = {}

    @staticmethod
    def of(root: Path = Path(), on_progress: OnProgress = lambda _done, _total: None) -> Examiner:
        """An examiner that decodes only images that the checkout's cache does not know."""
        return Examiner(DatasetReader(ImageCache.of(root), on_progress))

    def examine(self, places: Sequence[JobPlace]) -> list[JobExamination]:
        """Bad input becomes findings: raises nothing for it."""
        new = [place for place in dict.fromkeys(places) if place not in self._examined]
        files = {place: read_trainer_file(place.folder) for place in new}
        self._datasets.prepare(
            DatasetPlace(place.dataset, folder_uses(file.process))
            for place, file in files.items()
            if place.dataset
        )
        self._examined |= {place: self._examine(place, file) for place, file in files.items()}
        return [self._examined[place] for place in places]

    def _examine(self, place: JobPlace, file: TrainerFile) -> JobExamination:
        uses = folder_uses(file.process)
        facts = self._datasets.dataset(place.dataset, uses) if place.dataset else None
        stack = (place.gpu, place.variables, place.trainer_date, place.policy)
        subject = Subject(place.name, place.folder, file, facts, *stack)
        examined = JobExamination(place.name, place.folder, tuple(check_rules(subject)))
        if facts is None or examined.needed:
            return examined
        made = (job_folder(place.folder, file), image_set(facts))
        return JobExamination(place.name, place.folder, examined.findings, made)
