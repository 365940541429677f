"""Brings back the checkpoint to go on from.

ai-toolkit resumes from the checkpoint with the newest ctime, and prunes those with the oldest. So only the newest sound
checkpoint is downloaded. Each older one is represented by an empty file with an older ctime: when the trainer prunes that,
the object in the bucket is deleted (uploads.py).

A checkpoint of a model with two noise stages is two files, which are used together or not at all. The trainer, given either of
them, loads both. A node that dies between their uploads leaves one file of each of two trainings in the bucket: so both must
have the recorded digests, and pairs that are trained again are deleted first.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from flux_training.node.launcher.dataset import DownloadAll
from flux_training.node.launcher.downloads import Download
from flux_training.node.launcher.errors import ExitCode, RunEndedError, UnsoundFileError
from flux_training.node.launcher.process import say
from flux_training.node.launcher.progress import MAX_PROGRESS_BYTES, digests_of
from flux_training.node.launcher.retries import RetryingBucket
from flux_training.node.launcher.settings import NOISE_STAGES, WEIGHTS_SUFFIX, RunSettings, parse_object
from flux_training.node.launcher.weights import is_whole_zip, sha256, weights_step

OPTIMIZER = "optimizer.pt"
CLOCK_SECONDS = 3.0


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint. `ending` is what follows the job's name and the step."""

    key: str
    name: str
    size: int
    ending: str


@dataclass(frozen=True)
class CheckpointObject:
    """A checkpoint in the bucket. `step` is what its name says; None for the final weights, which name none."""

    step: int | None
    files: tuple[CheckpointFile, ...]

    @property
    def is_complete(self) -> bool:
        return not self.is_of_stages or len(self.files) == len(NOISE_STAGES)

    @property
    def is_of_stages(self) -> bool:
        return bool(self.files[0].ending)


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on. `restored` are the files that came from this run's own objects, by name."""

    step: int = 0
    is_final: bool = False
    restored: tuple[str, ...] = ()


class ParentsDigests(TypedDict):
    """Fields of CheckpointRestore, for the checkpoints of the run that this one continues."""

    digests: dict[str, str]
    has_records: bool


@dataclass
class CheckpointRestore:
    """One start's search for the newest sound checkpoint.

    `digests`: the SHA-256 of checkpoints by name, as far as earlier starts have recorded it. Those of checkpoints that are
    trained again are removed. `has_records`: False if the earlier starts were of a launcher that recorded none.
    """

    settings: RunSettings
    bucket: RetryingBucket
    download: DownloadAll
    digests: dict[str, str]
    has_records: bool = False
    unsound: dict[str, str] = field(default_factory=dict)

    def run(self, *, were_lost: bool, on_lost: Callable[[], None]) -> ResumePoint:
        """`were_lost`: an earlier node found no sound one either. Raises RunEndedError."""
        found = self._checkpoints(self.settings.output_prefix)
        for number, checkpoint in enumerate(found):
            paths = [self.settings.output_folder / file.name for file in checkpoint.files]
            if (step := self._fetch_sound(checkpoint, paths)) is None:
                continue
            self._forget_digests({file.name for one in found[number:] for file in one.files})
            left = self._delete_newer_pairs(found, checkpoint)
            self._bring_optimizer(self.settings.output_prefix)
            ctime = self._represent_others(left, checkpoint)
            for path in paths:
                ctime = make_newest(path, ctime)
            is_final = checkpoint.step is None and step == self.settings.steps
            names = (file.name for one in left for file in one.files)
            return ResumePoint(step, is_final, (*names, OPTIMIZER))
        if self.unsound:
            self._give_up(found, were_lost=were_lost, on_lost=on_lost)
        self._delete_newer_pairs(found, None)
        self._forget_digests(set())
        return self._parents_checkpoint()

    def _delete_newer_pairs(
        self, found: list[CheckpointObject], used: CheckpointObject | None
    ) -> list[CheckpointObject]:
        """Deletes pairs that are trained again: half of one would pass for half of the next. Returns what is left."""
        newer = found[: found.index(used)] if used else found
        stale = [one for one in newer if one.is_of_stages]
        for one in stale:
            self._delete(one, "it is trained again")
        return [one for one in found if one not in stale]

    def _delete(self, checkpoint: CheckpointObject, reason: str) -> None:
        for file in checkpoint.files:
            say(f"launch: {file.name} is deleted: {self.unsound.get(file.name, reason)}")
            self.bucket.delete(file.key)

    def _forget_digests(self, kept: set[str]) -> None:
        for name in self.digests.keys() - kept:
            del self.digests[name]

    def _checkpoints(self, prefix: str) -> list[CheckpointObject]:
        """The newest first. Names that ai-toolkit would not have given are ignored."""
        stages = "|".join(NOISE_STAGES)
        pattern = re.compile(
            re.escape(self.settings.job) + rf"(?:_([0-9]{{1,12}}))?(?:_({stages}))?\.safetensors"
        )
        found: dict[tuple[str | None, bool], list[CheckpointFile]] = {}
        for item in self.bucket.list_objects(f"{prefix}{self.settings.job}"):
            name = item.key[len(prefix) :]
            if match := pattern.fullmatch(name):
                file = CheckpointFile(item.key, name, item.size, match[2] or "")
                found.setdefault((match[1], file.ending != ""), []).append(file)
        checkpoints = [
            CheckpointObject(int(digits) if digits else None, tuple(files))
            for (digits, _), files in found.items()
        ]
        return sorted(
            checkpoints, key=lambda one: float("inf") if one.step is None else one.step, reverse=True
        )

    def _fetch_sound(self, checkpoint: CheckpointObject, paths: list[Path]) -> int | None:
        """The step of sound files that are now at `paths`; None for damaged or missing ones, which are removed."""
        if not checkpoint.is_complete:
            say(
                f"launch: {checkpoint.files[0].name} is not used: the file of the other noise stage is missing"
            )
            return None
        if not self._is_recorded(checkpoint):
            say(
                f"launch: {checkpoint.files[0].name} is not used: no SHA-256 of both noise stages was recorded"
            )
            return None
        pairs = list(zip(checkpoint.files, paths, strict=True))
        self._download(pairs)
        steps = [self._sound_step(file.name, path) for file, path in pairs]
        if None not in steps and len(set(steps)) == 1:
            self._record(checkpoint, paths)
            return steps[0]
        if None not in steps:
            self._refuse(
                checkpoint.files[0].name, f"the two noise stages are of steps {steps[0]} and {steps[1]}"
            )
        for path in paths:
            path.unlink(missing_ok=True)
        return None

    def _is_recorded(self, checkpoint: CheckpointObject) -> bool:
        """Whether it is known that the files of a pair belong together, as far as that was recorded at all."""
        recorded = [file.name in self.digests for file in checkpoint.files]
        return not checkpoint.is_of_stages or all(recorded) or not (self.has_records or any(recorded))

    def _record(self, checkpoint: CheckpointObject, paths: list[Path]) -> None:
        """The next start finds records, and would not use a pair that an older launcher has left without."""
        if checkpoint.is_of_stages:
            digests = {file.name: sha256(path) for file, path in zip(checkpoint.files, paths, strict=True)}
            self.digests.update(digests)

    def _download(self, files: list[tuple[CheckpointFile, Path]]) -> None:
        """Once more where the content is not what was recorded: it may have been damaged on the way."""
        self.download([Download(file.key, path, file.size) for file, path in files])
        wrong = [(file, path) for file, path in files if self._has_wrong_digest(file.name, path)]
        if wrong:
            self.download([Download(file.key, path, file.size) for file, path in wrong])

    def _has_wrong_digest(self, name: str, path: Path) -> bool:
        return name in self.digests and sha256(path) != self.digests[name]

    def _sound_step(self, name: str, path: Path) -> int | None:
        try:
            step = weights_step(path)
            if step > self.settings.steps:
                raise UnsoundFileError(
                    f"step {step} is beyond the last step of this run, {self.settings.steps}"
                )
            if self._has_wrong_digest(name, path):
                raise UnsoundFileError("its SHA-256 is not the one that was recorded")
        except UnsoundFileError as error:
            self._refuse(name, str(error))
            return None
        return step

    def _refuse(self, name: str, fault: str) -> None:
        say(f"launch: {name} is not used: {fault}")
        self.unsound[name] = fault

    def _bring_optimizer(self, prefix: str) -> None:
        key, path = prefix + OPTIMIZER, self.settings.output_folder / OPTIMIZER
        sizes = {item.key: item.size for item in self.bucket.list_objects(key)}
        if key not in sizes:
            return
        self.download([Download(key, path, sizes[key])])
        if not is_whole_zip(path):
            say(f"launch: {OPTIMIZER} is not used: it is damaged")
            path.unlink()

    def _represent_others(self, found: list[CheckpointObject], used: CheckpointObject) -> int:
        """Empty files for all other checkpoints, oldest first, damaged ones before them. The newest ctime of these."""
        # Skip the final weights: the trainer never prunes them, and an empty file would be taken for its result.
        others = [
            file for one in reversed(found) if one is not used and one.step is not None for file in one.files
        ]
        ctime = 0
        for one in sorted(others, key=lambda one: one.name not in self.unsound):
            path = self.settings.output_folder / one.name
            path.touch()
            ctime = make_newest(path, ctime)
        return ctime

    def _give_up(
        self, found: list[CheckpointObject], *, were_lost: bool, on_lost: Callable[[], None]
    ) -> None:
        """No checkpoint is sound. Another node has to see the same before they are deleted: this one may be broken."""
        if not were_lost:
            on_lost()
            faults = "; ".join(f"{name}: {fault}" for name, fault in list(self.unsound.items())[:5])
            message = f"no checkpoint is sound; another node will check them again: {faults}"
            raise RunEndedError(ExitCode.FILES_MISSING, message)
        for one in found:
            if any(file.name in self.unsound for file in one.files):
                self._delete(one, "the other noise stage is not sound")

    def _parents_checkpoint(self) -> ResumePoint:
        """The newest sound checkpoint of the run that this one continues, named as ai-toolkit names checkpoints."""
        prefix = self.settings.parent_output_prefix
        if prefix is None:
            return ResumePoint()
        parent = replace(self, **self._parents_digests())
        for checkpoint in self._checkpoints(prefix):
            folder = self.settings.output_folder
            paths = [folder / f".parent{file.ending}{WEIGHTS_SUFFIX}" for file in checkpoint.files]
            if (step := parent._fetch_sound(checkpoint, paths)) is None:
                continue
            if step == self.settings.steps:
                say(f"launch: {checkpoint.files[0].name} is not used: it leaves no step to train")
                continue
            self._bring_optimizer(prefix)
            for file, path in zip(checkpoint.files, paths, strict=True):
                ending = f"_{file.ending}" if file.ending else ""
                path.rename(folder / f"{self.settings.job}_{step:09}{ending}{WEIGHTS_SUFFIX}")
            return ResumePoint(step)
        raise RunEndedError(
            ExitCode.FILES_MISSING, f"there is no sound checkpoint below {prefix} to go on from"
        )

    def _parents_digests(self) -> ParentsDigests:
        """As its launcher has recorded them: in progress.json, and those of its result in done.json."""
        run, job = self.settings.parent_prefix, self.settings.job
        report = _recorded(self.bucket.get_bytes(f"{run}output/progress.json", MAX_PROGRESS_BYTES))
        done = _recorded(self.bucket.get_bytes(f"{run}model/done.json", MAX_PROGRESS_BYTES))
        checkpoints, stages = report.get("checkpoints"), done.get("stages")
        digests = digests_of(checkpoints)
        if stages:
            found = digests_of(stages).items()
            digests |= {f"{job}_{stage}{WEIGHTS_SUFFIX}": digest for stage, digest in found}
        else:
            digests |= digests_of({f"{job}{WEIGHTS_SUFFIX}": done.get("sha256")})
        return {"digests": digests, "has_records": isinstance(checkpoints, dict)}


def _recorded(data: bytes | None) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        return parse_object(data or b"{}")
    return {}


def make_newest(path: Path, previous_ctime: int) -> int:
    """Gives the file a ctime later than `previous_ctime`, and returns it.

    Any change of a file's times sets its ctime to now; repeated until the clock's resolution tells the two apart.
    """
    deadline = time.monotonic() + CLOCK_SECONDS
    while time.monotonic() < deadline:
        os.utime(path)
        if (ctime := path.stat().st_ctime_ns) > previous_ctime:
            return ctime
        time.sleep(0.002)
    message = f"the clock of this node jumped back: {path} cannot be made the newest"
    raise RunEndedError(ExitCode.CLOCK_JUMPED, message)
