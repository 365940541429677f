"""What a lint rule is, what it sees of a job, and how rules are registered."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flux_training.training.dataset.facts import Caption, DatasetFacts
from flux_training.training.dataset.image_facts import ImageFacts
from flux_training.training.finding import Finding, Problem, Severity
from flux_training.training.gpu import memory_gb
from flux_training.training.lint.secret_patterns import without_secrets
from flux_training.training.models.choice import DEFAULT_POLICY, ModelChoice, ModelPolicy, choose_model
from flux_training.training.models.table import TrainableModel
from flux_training.training.names import caption_name
from flux_training.training.train_yml.trainer_config import TrainerFile, uses_variable
from flux_training.training.train_yml.trainer_keys import entries
from flux_training.training.train_yml.trainer_version import NEWEST
from flux_training.training.words import most_similar, with_escapes

# Messages are cut to this many characters, because a quoted value may be as long as a file.
MAX_MESSAGE_LENGTH = 300
NEEDED = "without it there is nothing to queue"


@dataclass(frozen=True)
class Subject:
    """One job as the rules see it. `gpu`, `variables` (the node's environment variables), `trainer_date` and `policy` come from the stack."""

    name: str
    folder: Path
    config: TrainerFile | None
    dataset: DatasetFacts | None
    gpu: str = ""
    variables: frozenset[str] = frozenset()
    trainer_date: str = NEWEST.date
    policy: ModelPolicy = DEFAULT_POLICY

    @cached_property
    def choice(self) -> ModelChoice:
        """What train.yml's `model` section means to ai-toolkit."""
        return choose_model(self.section("model"), self.policy.weights_in_image)

    @property
    def model(self) -> TrainableModel | None:
        """The model that is trained; None if there is no training, or the table lacks its architecture."""
        return self.choice.model if self.trains else None

    @property
    def images(self) -> Mapping[str, ImageFacts]:
        """The images that are trained."""
        return self.dataset.trained if self.dataset else {}

    @property
    def all_images(self) -> Mapping[str, ImageFacts]:
        """The images that are trained, and those that belong to them: control images, masks and the like."""
        return self.dataset.images if self.dataset else {}

    @property
    def readable_images(self) -> list[ImageFacts]:
        return [image for image in self.images.values() if image.sound]

    @property
    def captions(self) -> list[Caption]:
        """The readable captions that belong to an image."""
        if self.dataset is None:
            return []
        expected = {caption_name(image) for image in self.images}
        captions = self.dataset.captions.values()
        return [caption for caption in captions if caption.name in expected and not caption.fault]

    @property
    def gpu_gb(self) -> int | None:
        return memory_gb(self.gpu)

    @property
    def process(self) -> Mapping[str, Any]:
        """train.yml's `config.process[0]`; empty if it is missing."""
        return self.config.process if self.config else {}

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of train.yml's process; empty if it is missing."""
        return self.config.section(name) if self.config else {}

    @property
    def trains(self) -> bool:
        """Whether train.yml has a process. If not, only the rule for that reports it."""
        return bool(self.process)

    def describe_setting(self, path: str, value: object) -> str:
        """The value of a setting such as `train.steps`, or that it is not set, and which unknown key was probably meant for it."""
        section, _, key = path.rpartition(".")
        if value is not None:
            return describe_value(path, value)
        unknown = [entry.place for entry in entries(self.process) if entry.spec is None]
        in_section = [place[-1] for place in unknown if place[:-1] == ((section,) if section else ())]
        meant = {most_similar(key, in_section): key}
        if section and section not in self.process:
            meant = {most_similar(section, [place[0] for place in unknown if len(place) == 1]): section}
        hints = [f"; `{typo}` looks like a misspelling of `{name}`" for typo, name in meant.items() if typo]
        return describe_value(path, value) + "".join(hints)

    def dataset_problem(self, name: str, message: str, line: int | None = None) -> Problem:
        """A problem of a file of the dataset, or of the folder `dataset/` if the name is empty."""
        folder = self.dataset.folder if self.dataset else self.folder
        path = self.dataset.path(name) if self.dataset and name else folder
        return Problem(str(path), message, line)

    def folder_problem(self, name: str, message: str) -> Problem:
        """A problem of a folder of the dataset."""
        return Problem(str(self.dataset.folder.parent / name if self.dataset else self.folder), message)

    def process_problem(self, message: str, *place: str) -> Problem:
        """A problem at a key below the process of train.yml."""
        if self.config is None:
            return Problem(str(self.folder), message)
        return Problem(str(self.config.path), message, self.config.line(*place))

    def train_yml_problem(self, message: str, *place: str) -> Problem:
        """A problem at a key of train.yml, counted from the top of the file."""
        if self.config is None:
            return Problem(str(self.folder), message)
        return Problem(str(self.config.path), message, self.config.line_of(place))


Check = Callable[[Subject], Iterable[Problem]]


def describe_value(path: str, value: object) -> str:
    """`train.lr is 'high'`; `train.lr is not set` if it is null or missing."""
    return f"{path} is not set" if value is None else f"{path} is {value!r}"


@dataclass(frozen=True)
class Rule:
    """`needed`: a job that breaks it cannot be declared. `always`: why its findings cannot be silenced; empty if they can."""

    code: str
    severity: Severity
    why: str
    fix: str
    check: Check
    needed: bool = False
    always: str = ""

    def finding(self, problem: Problem, job: str = "") -> Finding:
        return Finding(
            self.code,
            self.severity,
            with_escapes(problem.path),
            problem.line,
            with_escapes(_short(without_secrets(problem.message))),
            self.why,
            # Rule texts use JOB as a placeholder; replace it by the job's name.
            self.fix.replace(" JOB`", f" {with_escapes(shlex.quote(job))}`") if job else self.fix,
            job,
        )


@dataclass
class Area:
    """The rules of one module, in the order in which they are written."""

    name: str
    rules: list[Rule] = field(default_factory=list)

    def error(
        self, code: str, why: str, fix: str, needed: bool = False, always: str = ""
    ) -> Callable[[Check], Check]:
        return self._register(code, "error", why, fix, needed, always)

    def warning(self, code: str, why: str, fix: str, always: str = "") -> Callable[[Check], Check]:
        return self._register(code, "warning", why, fix, False, always)

    def fault(self, code: str, why: str, fix: str) -> None:
        """A rule whose problems are found when a file is read, and are part of the facts."""
        self.error(code, why, fix, needed=True)(lambda job: faults_of_rule(job, code))

    def stack(self, code: str, why: str, fix: str) -> None:
        """A rule about the stack's list of jobs, checked where the jobs are chosen."""
        self.error(code, why, fix, needed=True)(lambda _job: ())

    def image(self, code: str, why: str, fix: str) -> Callable[[Callable[[ImageFacts], str]], None]:
        """A warning about single images: the function returns the message, or nothing if the image is fine."""

        def register(describe: Callable[[ImageFacts], str]) -> None:
            def check(job: Subject) -> Iterator[Problem]:
                for image in job.readable_images:
                    if message := describe(image):
                        yield job.dataset_problem(image.name, message)

            self.warning(code, why, fix)(check)

        return register

    def setting(
        self,
        severity: Severity,
        code: str,
        path: str,
        is_wrong: Callable[[Any], bool],
        why: str,
        fix: str,
        *,
        default: object = None,
        needed: bool = False,
    ) -> None:
        """A rule about one value below train.yml's process, such as `train.lr`."""
        section, _, key = path.rpartition(".")

        def check(job: Subject) -> Iterator[Problem]:
            value = (job.section(section) if section else job.process).get(key, default)
            if job.trains and (needed or not uses_variable(value)) and is_wrong(value):
                yield job.process_problem(job.describe_setting(path, value), *path.split("."))

        self._register(code, severity, why, fix, needed, "")(check)

    def _register(
        self, code: str, severity: Severity, why: str, fix: str, needed: bool, always: str
    ) -> Callable[[Check], Check]:
        reason = always or (NEEDED if needed else "")

        def register(check: Check) -> Check:
            self.rules.append(Rule(code, severity, why, fix, check, needed, reason))
            return check

        return register


def _short(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[: MAX_MESSAGE_LENGTH - 3]}..."


def faults_of_rule(job: Subject, code: str) -> list[Problem]:
    """The problems of one rule that reading the job's files found."""
    found: list[Problem | None] = [job.config.fault if job.config else None]
    if job.dataset:
        found += job.dataset.faults
        expected = {caption_name(image) for image in job.images}
        found += [caption.fault for caption in job.dataset.captions.values() if caption.name in expected]
    return [problem for problem in found if problem and problem.code == code]
