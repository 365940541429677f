"""progress.json and loss.csv, summed over all restarts of a run.

progress.json: `state` is starting, training, verifying, finished, failed, canceled or interrupted. `loss_first` and
`loss_smoothed` are means of `loss_steps` steps at the start and at the end; `seconds_per_step` and `eta_seconds` are null
until they are known; `gpu_seconds` is the time of trainers over all restarts, `download_seconds` that of downloads of this
one; `begun` is [the step that the last start began with, how many starts in a row began with it]; `resumed` are the steps
that the starts after the first began with; `restart_seconds` are summed over these starts, from the trainer's start to its first
step, and `repeated_seconds` is the time of the steps that they trained again; `checkpoints` has the SHA-256 of each checkpoint that was put into the folder for
uploads, by name.
"""

import contextlib
import json
import math
import time
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from flux_training.node.launcher.errors import ExitCode, RunEndedError
from flux_training.node.launcher.process import hide_secrets, say
from flux_training.node.launcher.settings import UPLOAD_FOLDER, RunSettings, is_number, parse_object

# R2 accepts one write per second for each key, and the worker uploads a change up to a second late.
WRITE_SECONDS = 2
IDLE_WRITE_SECONDS = 30
CURVE_SECONDS = 10
MAX_MESSAGE = 4000
# The maximum number of starts in a row without a new checkpoint. The queue never counts the failure of a container that is
# killed for its memory.
MAX_RESTARTS = 10
MAX_PROGRESS_BYTES = 1 << 20
MAX_DIGESTS = 100  # The maximum number of checkpoints whose SHA-256 is recorded: the newest ones.
# The maximum number of faulty steps that are recorded, so that progress.json stays smaller than MAX_PROGRESS_BYTES.
MAX_FAULTY_STEPS = 10_000
MAX_CURVE_BYTES = 16 << 20
# The maximum number of recorded steps from which training was resumed: the newest ones, which charts mark.
MAX_RESUMED = 100
# The maximum number of steps whose losses are averaged: a tenth of the run, if that is shorter.
MAX_LOSS_STEPS = 50


class LaunchState(str, Enum):
    """`state` in progress.json."""

    STARTING = "starting"
    TRAINING = "training"
    VERIFYING = "verifying"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def replace_file(path: Path, text: str) -> None:
    """Atomic. The temporary file is outside the watched folder, or the worker would upload and delete it."""
    temporary = path.parent.parent / f".{path.name}.tmp"
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def mean(losses: list[float]) -> float | None:
    value = math.fsum(losses) / len(losses) if losses and all(map(math.isfinite, losses)) else math.nan
    return float(f"{value:.6g}") if math.isfinite(value) else None


class EarlierStarts:
    """What an earlier progress.json of this run says; anything else in it is ignored."""

    def __init__(self, run_id: str, data: bytes | None) -> None:
        raw: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            raw = parse_object(data or b"{}")
        is_ours = raw.get("run_id") == run_id
        is_sane = is_ours and is_number(raw.get("restarts")) and is_number(raw.get("gpu_seconds"))
        self.restarts = int(raw["restarts"]) + 1 if is_sane else 0
        self.gpu_seconds = float(raw["gpu_seconds"]) if is_sane else 0.0
        self.started_at = str(raw.get("started_at"))[:40] if is_sane else now()
        begun = raw.get("begun") if is_ours else None
        self.begun = [0, 0]
        if isinstance(begun, list) and len(begun) == 2 and all(map(is_number, begun)):
            self.begun = begun
        self.resumed = _step_list(raw.get("resumed") if is_sane else None)
        self.restart_seconds = _amount(raw, "restart_seconds") if is_sane else 0.0
        self.repeated_seconds = _amount(raw, "repeated_seconds") if is_sane else 0.0
        self.step, self.seconds_per_step = _amount(raw, "step"), _amount(raw, "seconds_per_step")
        self.lost_checkpoints = is_ours and raw.get("checkpoints_lost") is True
        self.faulty = FaultySteps(raw.get("faulty_steps") if is_ours else None)
        recorded = raw.get("checkpoints") if is_ours else None
        self.digests, self.has_digests = digests_of(recorded), isinstance(recorded, dict)


class FaultySteps:
    """The steps that taught nothing, by their numbers: those whose batch was skipped, and those without a loss."""

    def __init__(self, raw: object) -> None:
        known = raw if isinstance(raw, dict) else {}
        self.skipped = _step_numbers(known.get("skipped"))
        self.without_loss = _step_numbers(known.get("nan"))

    def __contains__(self, step: int) -> bool:
        return step in self.skipped or step in self.without_loss

    def forget_after(self, step: int) -> None:
        """These steps are trained again."""
        self.skipped = {one for one in self.skipped if one <= step}
        self.without_loss = {one for one in self.without_loss if one <= step}

    def check(self, settings: RunSettings) -> None:
        """Raises RunEndedError when too many steps taught nothing."""
        share = settings.limits.max_skipped_share
        if len(self.skipped | self.without_loss) <= share * settings.steps:
            return
        found = f"{len(self.skipped)} steps were skipped for lack of memory and {len(self.without_loss)} had no loss (NaN)"
        advice = (
            "train smaller images (datasets.resolution), smaller batches (train.batch_size) or with model.low_vram"
            if len(self.skipped) >= len(self.without_loss)
            else "lower train.lr, and train with dtype bf16"
        )
        message = f"{found}, more than {share:.0%} of {settings.steps}: {advice}"
        raise RunEndedError(ExitCode.TRAINING_FAULTY, message)

    def report(self) -> dict[str, list[int]]:
        return {
            "skipped": sorted(self.skipped)[:MAX_FAULTY_STEPS],
            "nan": sorted(self.without_loss)[:MAX_FAULTY_STEPS],
        }


def _step_numbers(raw: object) -> set[int]:
    return set(_step_list(raw))


def _step_list(raw: object) -> list[int]:
    found = raw[:MAX_FAULTY_STEPS] if isinstance(raw, list) else []
    return [int(one) for one in found if is_number(one)]


def _amount(raw: dict[str, Any], key: str) -> float:
    """0 for anything that is no number."""
    return float(raw[key]) if is_number(raw.get(key)) else 0.0


def digests_of(raw: object) -> dict[str, str]:
    """What can be digests in an object of a file that a node wrote."""
    found = raw.items() if isinstance(raw, dict) else ()
    return {name: digest for name, digest in found if isinstance(digest, str)}


class ProgressWriter:
    """Writes progress.json and loss.csv into the watched folder."""

    def __init__(self, settings: RunSettings, earlier: bytes | None, curve: bytes | None) -> None:
        self.settings = settings
        self.earlier = EarlierStarts(settings.run_id, earlier)
        self.state, self.message, self.gpu, self.trainer = LaunchState.STARTING, "", "", ""
        self.step, self.trainer_seconds, self.download_seconds = 0, 0.0, 0.0
        # Maps the number of steps done to the loss. If a step is repeated, the last value counts.
        self.losses: dict[int, float] = {}
        self.seconds_per_step: float | None = None
        # The seconds from the trainer's start to its progress bar, for loading and the first samples.
        self.start_seconds: float | None = None
        self.faulty, self.digests = self.earlier.faulty, self.earlier.digests
        self.begun, self.lost_checkpoints = self.earlier.begun, self.earlier.lost_checkpoints
        self.resumed, self.repeated_seconds = self.earlier.resumed, self.earlier.repeated_seconds
        self._curve = curve or b""
        self._written: tuple[object, ...] = ()
        self._written_at = self._curve_at = -math.inf

    @property
    def gpu_seconds(self) -> float:
        return self.earlier.gpu_seconds + self.trainer_seconds

    @property
    def restart_seconds(self) -> float:
        is_restart = self.earlier.restarts > 0
        return self.earlier.restart_seconds + (self.start_seconds or 0.0 if is_restart else 0.0)

    def check_hours(self) -> None:
        """Raises RunEndedError when the run's hours are used up."""
        limit = self.settings.limits.max_hours
        if limit is not None and self.gpu_seconds >= limit * 3600:
            used = f"maxHours ({limit:g}) are used up at step {self.step}: {self.gpu_seconds:.0f} s"
            raise RunEndedError(ExitCode.HOURS_USED_UP, used)

    def resume(self, step: int) -> None:
        """Takes over the curve of earlier starts up to the checkpoint's step. Raises RunEndedError."""
        self.step = step
        self.faulty.forget_after(step)
        if self.earlier.restarts:
            self.resumed = [*self.resumed, step][-MAX_RESUMED:]
            lost_steps = max(0.0, self.earlier.step - step)
            self.repeated_seconds += lost_steps * self.earlier.seconds_per_step
        self.begun = [step, self.begun[1] + 1 if self.begun[0] == step else 1]
        if self.begun[1] > MAX_RESTARTS and step < self.settings.steps:
            message = f"{MAX_RESTARTS} starts in a row began at step {step} and brought no new checkpoint"
            raise RunEndedError(ExitCode.NO_PROGRESS, message)
        self.faulty.check(self.settings)
        with contextlib.suppress(ValueError):
            for line in self._curve.decode("ascii").split("\n")[1:]:
                at, _, loss = line.partition(",")
                if 0 < int(at) <= step:
                    self.losses[int(at)] = float(loss)

    def report(self) -> dict[str, Any]:
        settings, losses = self.settings, [self.losses[n] for n in sorted(self.losses) if n <= self.step]
        window = min(len(losses), MAX_LOSS_STEPS, max(1, settings.steps // 10))
        is_training = self.seconds_per_step is not None and self.state == LaunchState.TRAINING
        left = (self.seconds_per_step or 0) * (settings.steps - self.step) if is_training else None
        report = {
            "version": 1,
            "state": self.state.value,
            "message": self.message or None,
            "updated_at": now(),
            "job": settings.job,
            "run_id": settings.run_id,
            "attempt": settings.attempt,
            "step": self.step,
            "steps": settings.steps,
            "loss": mean(losses[-1:]),
            "loss_first": mean(losses[:window]),
            "loss_smoothed": mean(losses[-window:]),
            # Version 0.2 of flux-training reads the loss under this name.
            "loss_last": mean(losses[-window:]),
            "loss_steps": window,
            "seconds_per_step": self.seconds_per_step,
            "eta_seconds": None if left is None else round(left, 1),
            "gpu": self.gpu or None,
            "gpu_seconds": round(self.gpu_seconds, 1),
            "start_seconds": self.start_seconds,
            "download_seconds": round(self.download_seconds, 1),
            "restarts": self.earlier.restarts,
            "restart_seconds": round(self.restart_seconds, 1),
            "repeated_seconds": round(self.repeated_seconds, 1),
            "started_at": self.earlier.started_at,
            "launcher": "1",
            "trainer": self.trainer or None,
            "begun": self.begun,
            "resumed": self.resumed,
            "skipped_batches": len(self.faulty.skipped),
            "nan_losses": len(self.faulty.without_loss),
            "faulty_steps": self.faulty.report(),
            "checkpoints": dict(list(self.digests.items())[-MAX_DIGESTS:]),
        }
        return report | ({"checkpoints_lost": True} if self.lost_checkpoints else {})

    def write(
        self, state: LaunchState | None = None, message: str | None = None, *, force: bool = False
    ) -> None:
        """At most every WRITE_SECONDS unless the state changes or a checkpoint is due. A full disk ends nothing here."""
        self.state = state or self.state
        self.message = self.message if message is None else hide_secrets(message)[:MAX_MESSAGE]
        saves = self.step // self.settings.save_every
        # A checkpoint's digest is recorded some time after it was saved, so write then too: the trainer may be making samples
        # while no step ends.
        content = (self.state, saves, self.message, self.step, len(self.digests))
        at = time.monotonic()
        force = force or content[:2] != self._written[:2]
        pause = WRITE_SECONDS if content != self._written else IDLE_WRITE_SECONDS
        if not force and at - self._written_at < pause:
            return
        self._written, self._written_at = content, at
        try:
            if force or at - self._curve_at >= CURVE_SECONDS:
                # After a forced write, write again in 2 s: the worker loses a change that happens during an upload.
                self._curve_at = at - (CURVE_SECONDS - WRITE_SECONDS if force else 0)
                self._write_curve()
            replace_file(
                UPLOAD_FOLDER / "progress.json", json.dumps(self.report(), indent=1, allow_nan=False)
            )
        except OSError as error:
            say(f"launch: progress.json cannot be written: {error.strerror}")

    def _write_curve(self) -> None:
        rows = [f"{n},{self.losses[n]:.6g}\n" for n in sorted(self.losses) if n <= self.step]
        replace_file(UPLOAD_FOLDER / "loss.csv", "".join(["step,loss\n", *rows]))
