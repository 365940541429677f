"""Brings back the checkpoint to go on from.

ai-toolkit resumes from the checkpoint with the newest ctime, and prunes those with the oldest. So only the newest sound
checkpoint is downloaded. Each older one is represented by an empty file with an older ctime: when the trainer prunes that,
the object in the bucket is deleted (uploads.py).
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flux_training.node.launcher.bucket import ListedObject
from flux_training.node.launcher.dataset import DownloadAll
from flux_training.node.launcher.downloads import Download
from flux_training.node.launcher.errors import ExitCode, RunEndedError, UnsoundFileError
from flux_training.node.launcher.process import say
from flux_training.node.launcher.retries import RetryingBucket
from flux_training.node.launcher.settings import RunSettings
from flux_training.node.launcher.weights import is_whole_zip, sha256, weights_step

OPTIMIZER = "optimizer.pt"
CLOCK_SECONDS = 3.0


@dataclass(frozen=True)
class CheckpointObject:
    """A checkpoint in the bucket. `step` is what its name says; None for the final weights, which name none."""

    key: str
    name: str
    size: int
    step: int | None


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on. `restored` are the files that came from this run's own objects, by name."""

    step: int = 0
    is_final: bool = False
    restored: tuple[str, ...] = ()


@dataclass
class CheckpointRestore:
    """One start's search for the newest sound checkpoint.

    `digests`: the SHA-256 of checkpoints by name, as far as earlier starts have recorded it. Those of checkpoints that are
    trained again are removed.
    """

    settings: RunSettings
    bucket: RetryingBucket
    download: DownloadAll
    digests: dict[str, str]
    unsound: dict[str, str] = field(default_factory=dict)

    def run(self, *, were_lost: bool, on_lost: Callable[[], None]) -> ResumePoint:
        """`were_lost`: an earlier node found no sound one either. Raises RunEndedError."""
        found = self._checkpoints(self.settings.output_prefix)
        for number, checkpoint in enumerate(found):
            path = self.settings.output_folder / checkpoint.name
            if (step := self._fetch_sound(checkpoint, path, self.digests.get(checkpoint.name))) is None:
                continue
            self._forget_digests({one.name for one in found[number:]})
            self._bring_optimizer(self.settings.output_prefix)
            older = self._represent_others(found, checkpoint)
            make_newest(path, older)
            is_final = checkpoint.step is None and step == self.settings.steps
            return ResumePoint(step, is_final, (*(one.name for one in found), OPTIMIZER))
        if self.unsound:
            self._give_up(found, were_lost=were_lost, on_lost=on_lost)
        self._forget_digests(set())
        return self._parents_checkpoint()

    def _forget_digests(self, kept: set[str]) -> None:
        for name in self.digests.keys() - kept:
            del self.digests[name]

    def _checkpoints(self, prefix: str) -> list[CheckpointObject]:
        """The newest first. Names that ai-toolkit would not have given are ignored."""
        pattern = re.compile(re.escape(self.settings.job) + r"(?:_([0-9]{1,12}))?\.safetensors")
        found = []
        for item in self.bucket.list_objects(f"{prefix}{self.settings.job}"):
            name = item.key[len(prefix) :]
            if match := pattern.fullmatch(name):
                found.append(checkpoint_object(item, name, match[1]))
        return sorted(found, key=lambda one: float("inf") if one.step is None else one.step, reverse=True)

    def _fetch_sound(self, checkpoint: CheckpointObject, path: Path, digest: str | None = None) -> int | None:
        """The step of a sound file that is now at `path`; None for a damaged one, which is removed."""
        self.download([Download(checkpoint.key, path, checkpoint.size)])
        try:
            step = weights_step(path)
            if step > self.settings.steps:
                raise UnsoundFileError(f"step {step} is beyond the {self.settings.steps} of this run")
            if digest and sha256(path) != digest:
                raise UnsoundFileError("its SHA-256 is not the one that was recorded")
        except UnsoundFileError as error:
            say(f"launch: {checkpoint.name} is not used: {error}")
            self.unsound[checkpoint.name] = str(error)
            path.unlink()
            return None
        return step

    def _bring_optimizer(self, prefix: str) -> None:
        path = self.settings.output_folder / OPTIMIZER
        if (size := self.bucket.size(prefix + OPTIMIZER)) is None:
            return
        self.download([Download(prefix + OPTIMIZER, path, size)])
        if not is_whole_zip(path):
            say(f"launch: {OPTIMIZER} is not used: it is damaged")
            path.unlink()

    def _represent_others(self, found: list[CheckpointObject], used: CheckpointObject) -> int:
        """Empty files for all other checkpoints, oldest first, damaged ones before them. The newest ctime of these."""
        others = [one for one in reversed(found) if one is not used]
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
        for checkpoint in found:
            say(f"launch: {checkpoint.name} is deleted: {self.unsound[checkpoint.name]}")
            self.bucket.delete(checkpoint.key)

    def _parents_checkpoint(self) -> ResumePoint:
        """The newest sound checkpoint of the run that this one continues, named as ai-toolkit names checkpoints."""
        prefix = self.settings.parent_output_prefix
        if prefix is None:
            return ResumePoint()
        for checkpoint in self._checkpoints(prefix):
            path = self.settings.output_folder / ".parent.safetensors"
            if (step := self._fetch_sound(checkpoint, path)) is not None:
                self._bring_optimizer(prefix)
                path.rename(self.settings.output_folder / f"{self.settings.job}_{step:09}.safetensors")
                return ResumePoint(step)
        raise RunEndedError(
            ExitCode.FILES_MISSING, f"there is no sound checkpoint below {prefix} to go on from"
        )


def checkpoint_object(item: ListedObject, name: str, digits: str | None) -> CheckpointObject:
    return CheckpointObject(item.key, name, item.size, int(digits) if digits else None)


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
