"""The trainer's process: its output, its end, and the limits it runs under."""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

from flux_training.node.launcher.errors import ExitCode, RunEndedError
from flux_training.node.launcher.process import check_stopped, hide_secrets, say
from flux_training.node.launcher.progress import LaunchState, ProgressWriter
from flux_training.node.launcher.settings import TRAINER, TRAINER_SCRIPT, RunSettings

# Environment variables that begin like this are not passed to the trainer, which does not need them.
WORKER_VARIABLES = ("AWS_", "NODE_TOKEN", "SALAD_API_KEY", "KELPIE_API_KEY")
# Messages of ai-toolkit's classes BaseSDTrainProcess and SDTrainer.
SKIPPED_BATCH, NAN_LOSS = "OOM during training step, skipping batch", "loss is nan"
# From this version on, ai-toolkit's progress bar shows the number of steps done. Before, it showed the number of the last step,
# counted from 0.
SHOWS_STEPS_DONE_SINCE = (0, 12, 26)
# A progress bar of tqdm, with or without a name: "Caching latents:  33%|███▎      | 12/36 [00:04<00:08".
OTHER_BAR = re.compile(r"([^|%:]{0,60}?):?\s*\d{1,3}%\|[^|]*\|\s*([\d.]+[kMG]?)/([\d.]+[kMG]?) \[")
CURSOR_MOVEMENT = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
MAX_LINE = 2000
MAX_HEADING = 60
MAX_LINE_BYTES = 8192
BAR_LOG_SECONDS = 10
TAIL_LINES = 12
GPU_NAME_SECONDS = 20
MIN_FREE_BYTES = 64 << 20
CANCEL_GRACE_SECONDS, INTERRUPT_GRACE_SECONDS, KILL_SECONDS = 30, 2, 30


class OutputReader:
    """Reads what ai-toolkit prints: tqdm's bar, and everything else."""

    def __init__(self, settings: RunSettings, progress: ProgressWriter) -> None:
        self.progress, self.steps = progress, settings.steps
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.step_at, self._bar_said_at = time.monotonic(), -math.inf
        self._started_at = self.step_at
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        # The progress bar of ai-toolkit's training: "cat:  33%|███▎      | 99/300 [00:33<01:07,  3.00it/s, lr: 1.0e-04 loss:
        # 4.512e-01]". It is printed twice for each step, with the old and with the new count.
        name = re.escape(settings.job)
        self._phase, self._heading = ("", ""), "preparing"
        self._shows_steps_done, self._first_bar = _shows_steps_done(progress.trainer), ("", "")
        self._bar = re.compile(rf"{name}:\s+\d+%\|[^|]*\|\s*(\d{{1,9}})/{self.steps} \[([^\]]*)\]")

    def read(self, descriptor: int) -> None:
        """Read the trainer's output until its end."""
        rest = b""
        while chunk := os.read(descriptor, 1 << 16):
            *lines, rest = re.split(rb"[\r\n]", rest + chunk)
            for line in lines:
                self._line(line)
            # tqdm ends the line of a bar only when the next one begins, so read the bar before its line ends.
            if rest.endswith(b"]"):
                self._line(rest, unfinished=True)
            rest = rest[:MAX_LINE_BYTES]
        self._line(rest)

    def _line(self, raw: bytes, *, unfinished: bool = False) -> None:
        text = CURSOR_MOVEMENT.sub("", raw[:MAX_LINE_BYTES].decode("utf-8", "replace"))
        line = hide_secrets(text)[:MAX_LINE].rstrip()
        if phase := OTHER_BAR.match(line):
            self._note_phase(phase[1].strip() or self._heading, f"{phase[2]}/{phase[3]}")
        elif line:
            self._heading = line.lstrip(" -")[:MAX_HEADING]
        if match := self._bar.match(line):
            self.progress.message = ""
            loss = re.search(r"\bloss: ([-+.\w]+)", match[2])
            self._step(self._steps_done(match[1], loss[1] if loss else ""), loss and loss[1])
            if time.monotonic() - self._bar_said_at >= BAR_LOG_SECONDS:
                self._bar_said_at = time.monotonic()
                say(match[0])
            # An error is printed after the progress bar, on the same line.
            line = line[match.end() :].strip()
        if line and not unfinished:
            self._note_fault(line)
            self.tail.append(line)
            say(line)

    def _note_phase(self, name: str, count: str) -> None:
        """Caching, quantizing, downloading and sampling have bars of their own: the trainer does not hang while one moves.

        Bars without a name belong to the line above them, such as " - quantizing 57 transformer blocks".
        """
        if (name, count) == self._phase or name == self.progress.settings.job:
            return
        self._phase, self.step_at = (name, count), time.monotonic()
        self.progress.message = f"{name} {count}"

    def _note_fault(self, line: str) -> None:
        """The bar goes on showing the loss of an earlier step, or 0.0: it does not belong into the curve."""
        faulty, step = self.progress.faulty, min(self.progress.step + 1, self.steps)
        if SKIPPED_BATCH in line:
            faulty.skipped.add(step)
        elif line == NAN_LOSS:
            faulty.without_loss.add(step)
        else:
            return
        self.progress.losses.pop(step, None)

    def _steps_done(self, shown: str, loss: str) -> int:
        """As a new ai-toolkit would show it. An old one shows two steps with the count that it began with."""
        if loss and not self._first_bar[1]:
            self._first_bar = (shown, loss)
        is_right = self._shows_steps_done or not loss or (shown, loss) == self._first_bar
        return int(shown) if is_right else int(shown) + 1

    def _step(self, step: int, loss: str | None) -> None:
        progress, at = self.progress, time.monotonic()
        if progress.start_seconds is None:
            progress.start_seconds = round(at - self._started_at, 3)
        done = min(step + 1, self.steps)
        if loss is not None and done not in progress.faulty:
            with contextlib.suppress(ValueError):
                progress.losses[done] = float(loss)
        if step != progress.step and step <= self.steps:
            progress.step, self.step_at = step, at
            self._recent.append((at, step))
            begin, first = self._recent[0]
            progress.seconds_per_step = round((at - begin) / (step - first), 4) if step > first else None


class TrainerProcess:
    """The child, in a session of its own, and the thread that reads its output."""

    def __init__(self, output: OutputReader) -> None:
        self.output = output
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(WORKER_VARIABLES)
        }
        try:
            self.process = subprocess.Popen(  # noqa: S603 - constant words
                TRAINER,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise RunEndedError(ExitCode.NO_PYTHON, f"{TRAINER[0]!r} cannot be started: {error}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout:
            self.output.read(self.process.stdout.fileno())

    def stop(self, signum: signal.Signals, grace: float) -> None:
        """Asks, waits, kills: no process of the group is left."""
        for number in (signum, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace if number != signal.SIGKILL else KILL_SECONDS)
        self._reader.join(5)


def check_node(settings: RunSettings) -> None:
    """Raises RunEndedError when this node cannot train."""
    if shutil.which(TRAINER[0]) is None:
        raise RunEndedError(ExitCode.NO_PYTHON, f"there is no {TRAINER[0]!r} on this node")
    if not Path(TRAINER_SCRIPT).is_file():
        message = f"there is no {TRAINER_SCRIPT!r} in {Path.cwd().name}/: this image has no ai-toolkit there"
        raise RunEndedError(ExitCode.NO_TRAINER, message)
    free, needed = shutil.disk_usage(".").free / (1 << 30), settings.limits.free_gib
    if free < needed:
        message = f"no space: {free:.1f} GiB are free on this node, {needed:g} are needed"
        raise RunEndedError(ExitCode.DISK_FULL, message)


def gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603 - constant words
    except OSError:
        return ""
    try:
        out = process.communicate(timeout=GPU_NAME_SECONDS)[0]
    except subprocess.TimeoutExpired:
        # Do not wait for the killed process: if the driver hangs, it never ends.
        process.kill()
        return ""
    if process.returncode != 0:
        return ""
    return " ".join(out.decode("utf-8", "replace").split())[:200]


def trainer_version() -> str:
    """ai-toolkit's version, such as `0.12.26`, and the commit if it is a git checkout; empty if the image does not tell."""
    try:
        found = re.search(r"VERSION\s*=\s*[\"']([\w.-]{1,40})", Path("version.py").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return " ".join(part for part in (found[1] if found else "", _commit()) if part)


def _shows_steps_done(trainer: str) -> bool:
    """By the trainer's version. One that is not known is taken for a new one."""
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", trainer)
    return version is None or tuple(map(int, version.groups())) >= SHOWS_STEPS_DONE_SINCE


def _commit() -> str:
    try:
        head = Path(".git/HEAD").read_text("utf-8").strip()
        text = Path(f".git/{head[5:]}").read_text("utf-8") if head.startswith("ref: ") else head
    except (OSError, ValueError):
        return ""
    return text[:8] if re.match(r"[0-9a-f]{40}", text) else ""


def _watch(settings: RunSettings, progress: ProgressWriter, trainer: TrainerProcess) -> None:
    """Until the trainer has ended. Raises RunEndedError when it has to be stopped."""
    start, stall_minutes = time.monotonic(), settings.limits.stall_minutes
    while trainer.process.poll() is None:
        check_stopped()
        progress.trainer_seconds = time.monotonic() - start
        progress.write()
        progress.check_hours()
        progress.faulty.check(settings)
        if time.monotonic() - trainer.output.step_at > stall_minutes * 60:
            message = f"no step for {stall_minutes:g} minutes after step {progress.step}"
            message += f", in: {progress.message}" if progress.message else ""
            raise RunEndedError(ExitCode.STALLED, message)
        time.sleep(0.1)


def train(settings: RunSettings, progress: ProgressWriter) -> str:
    """Runs the trainer to its end, and returns its last lines. The process has ended in any case.

    Raises RunEndedError when it failed or had to be stopped.
    """
    progress.gpu, progress.trainer = gpu_name(), trainer_version()
    progress.write(LaunchState.TRAINING, "")
    trainer = TrainerProcess(OutputReader(settings, progress))
    try:
        _watch(settings, progress, trainer)
    except RunEndedError as end:
        # ai-toolkit does not save a checkpoint on any signal, and the worker uploads nothing after an interruption, so stop
        # quickly.
        if end.code == -signal.SIGINT:
            trainer.stop(signal.SIGINT, CANCEL_GRACE_SECONDS)
        else:
            trainer.stop(signal.SIGTERM, INTERRUPT_GRACE_SECONDS)
        raise
    finally:
        trainer.stop(signal.SIGKILL, 0)
    story = "\n".join([f"at step {progress.step}", *trainer.output.tail])
    progress.faulty.check(settings)
    _check_exit(trainer.process.returncode, story)
    return f"the trainer ended without an error {story}"


def _check_exit(code: int, story: str) -> None:
    if code < 0:
        guess = ", most likely out of memory" if -code == signal.SIGKILL else ""
        raise RunEndedError(
            ExitCode.TRAINER_KILLED, f"the trainer was killed by signal {-code}{guess}, {story}"
        )
    if code > 0:
        is_full = shutil.disk_usage(".").free < MIN_FREE_BYTES
        reason = ExitCode.DISK_FULL if is_full else ExitCode.TRAINER_FAILED
        raise RunEndedError(reason, f"the trainer ended with exit code {code} {story}")
