"""The rules: each a small pure function over a job's facts, under a stable code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_training.training.dataset.facts import Caption, DatasetFacts, caption_name
from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.finding import Finding, Problem, Severity
from flux_training.training.lint.gpu_memory import memory_gb
from flux_training.training.lint.secret_patterns import without_secrets
from flux_training.training.train_yml.trainer_config import TrainerFile
from flux_training.training.words import with_escapes


@dataclass(frozen=True)
class Subject:
    """One job as the rules see it. `gpu` and `variables` (what a train.yml may refer to on the node) are the stack's."""

    name: str
    folder: Path
    config: TrainerFile | None
    dataset: DatasetFacts | None
    gpu: str = ""
    variables: frozenset[str] = frozenset()

    @property
    def images(self) -> Mapping[str, ImageFacts]:
        return self.dataset.images if self.dataset else {}

    @property
    def sound_images(self) -> list[ImageFacts]:
        return [image for image in self.images.values() if image.sound]

    @property
    def captions(self) -> list[Caption]:
        """The captions that belong to an image and can be read."""
        if self.dataset is None:
            return []
        wanted = {caption_name(image) for image in self.images}
        return [
            caption
            for caption in self.dataset.captions.values()
            if caption.name in wanted and not caption.fault
        ]

    @property
    def gpu_gb(self) -> int | None:
        return memory_gb(self.gpu)

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of train.yml's process; empty without a readable train.yml."""
        return self.config.section(name) if self.config else {}

    @property
    def trains(self) -> bool:
        """Whether there is a process to look at: else one finding says so, and not one of each rule."""
        return bool(self.config and self.config.process)

    def in_dataset(self, name: str, message: str) -> Problem:
        """A problem of a file in `dataset/`; with an empty name, of the folder."""
        folder = self.dataset.folder if self.dataset else self.folder
        return Problem(str(folder / name) if name else str(folder), message)

    def in_config(self, message: str, *place: str) -> Problem:
        """A problem at a key below the process of train.yml."""
        if self.config is None:
            return Problem(str(self.folder), message)
        return Problem(str(self.config.path), message, self.config.line(*place))


# A value in a message may be a whole file.
LONGEST = 300
Check = Callable[[Subject], Iterable[Problem]]


@dataclass(frozen=True)
class Rule:
    """`needed`: a job that breaks it cannot be declared at all. `why_loud`: why its findings cannot be silenced, empty when they can."""

    code: str
    area: str
    severity: Severity
    rule: str
    mend: str
    check: Check
    needed: bool = False
    why_loud: str = ""

    def finding(self, problem: Problem, job: str = "") -> Finding:
        return Finding(
            self.code,
            self.severity,
            with_escapes(problem.path),
            problem.line,
            with_escapes(_short(without_secrets(problem.message))),
            self.rule,
            self.mend,
            job,
        )


NEEDED = "without it there is nothing that could be queued"


@dataclass
class Area:
    """The rules of one module, in the order they are written."""

    name: str
    rules: list[Rule] = field(default_factory=list)

    def error(
        self, code: str, rule: str, mend: str, needed: bool = False, why_loud: str = ""
    ) -> Callable[[Check], Check]:
        return self._add(code, "error", rule, mend, needed, why_loud or (NEEDED if needed else ""))

    def warning(self, code: str, rule: str, mend: str, why_loud: str = "") -> Callable[[Check], Check]:
        return self._add(code, "warning", rule, mend, False, why_loud)

    def fault(self, code: str, rule: str, mend: str) -> None:
        """A rule that reading a file checks: its problems come with the facts."""
        self.error(code, rule, mend, needed=True)(lambda job: faults(job, code))

    def stack(self, code: str, rule: str, mend: str) -> None:
        """A rule about the stack's list of jobs: who chooses the jobs checks it."""
        self.error(code, rule, mend, needed=True)(lambda _job: ())

    def _add(
        self, code: str, severity: Severity, rule: str, mend: str, needed: bool, why_loud: str
    ) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            self.rules.append(Rule(code, self.name, severity, rule, mend, check, needed, why_loud))
            return check

        return add


def _short(message: str) -> str:
    return message if len(message) <= LONGEST else f"{message[: LONGEST - 3]}..."


def faults(job: Subject, code: str) -> list[Problem]:
    """What reading the job's files ran into, of one kind."""
    met: list[Problem | None] = [job.config.fault if job.config else None]
    if job.dataset:
        met.append(job.dataset.fault)
        wanted = {caption_name(image) for image in job.images}
        met += [caption.fault for caption in job.dataset.captions.values() if caption.name in wanted]
    return [problem for problem in met if problem and problem.code == code]
