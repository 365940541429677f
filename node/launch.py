#!/usr/bin/env python3
# ruff: noqa: UP017, S603
# UP017: `datetime.UTC` is newer than Python 3.10, which a node may have.
# S603: starting the program that launch.json names is what a launcher is for; no shell is involved.
"""Runs one training job on a node and makes sure that what comes of it can be trusted.

    python training-config/launch.py

The Kelpie worker starts it in the folder that holds the trainer; launch.json and manifest.json lie beside it.
It checks the dataset, sets unsound checkpoints aside, runs the trainer, writes progress.json and loss.csv into
the synced output folder, checks the final weights, and only then makes the folder with the results: without
that folder the worker cannot report the job completed. Standard library only, Python 3.10 or newer.

Exit codes (all but 0 are failures the queue counts):
     0  the weights are verified and lie in the model folder
     2  launch.json or manifest.json cannot be used
     3  files that the worker should have brought are missing or damaged
     4  surroundings: no space, a folder that cannot be written, no python, an image without the trainer
     5  the trainer ended with an error
     6  the trainer was killed by a signal; most often the node ran out of memory
     7  no step for stall_minutes
     8  max_hours are used up, summed over all restarts
     9  the trainer ended without an error, but its weights are missing, unsound or of another step
    70  a fault of this program
Cancelled (SIGINT) or interrupted (SIGTERM, or the worker is gone) it dies by that signal once the trainer has
ended: the worker takes death by signal for an interruption and counts nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import queue
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ASIDE = Path("set-aside")  # beside the synced folder, not in it
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
CHUNK = 4 << 20
# Files in the output folder that are no checkpoints. ai-toolkit loads whatever begins with the job's name
# (get_latest_save_path), so no job may be called like the beginning of one of these.
NO_CHECKPOINTS = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")
Manifest = dict[str, dict[str, Any]]


class JobError(Exception):
    """The run ends as a counted failure with exit code `code`; the message says what was wrong."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoppedError(Exception):
    """The run was cancelled (SIGINT) or interrupted (SIGTERM)."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum.name)
        self.signum = signum


class UnsoundError(Exception):
    """A file of weights cannot be used."""


# ------------------------------------------------------------------------- signals and the log

_received: list[int] = []
_parent = os.getppid()
_log: queue.Queue[str] = queue.Queue(maxsize=2000)
_secrets = [v for k, v in os.environ.items() if len(v) >= 6 and re.search("TOKEN|SECRET|KEY|PASSW", k)]


def check_stopped() -> None:
    """Called in every loop: an exception out of the handler itself could strike inside Popen."""
    if _received:
        raise StoppedError(signal.SIGINT if _received[0] == signal.SIGINT else signal.SIGTERM)
    if os.getppid() != _parent:  # the worker was killed: whatever is trained from now on is lost
        raise StoppedError(signal.SIGTERM)


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_stopped()
        time.sleep(min(0.1, left))


def say(line: str) -> None:
    """Printed by a thread of its own, so that a full pipe blocks neither the watchdog nor the trainer."""
    with contextlib.suppress(queue.Full):
        _log.put_nowait(line)


def print_log() -> None:
    while True:
        line = hide_secrets(_log.get()).encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        _log.task_done()


def hide_secrets(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


# ------------------------------------------------------------------------- launch.json and manifest.json


@dataclass(frozen=True)
class Settings:
    """launch.json, key for key. Folders are below the working directory."""

    job: str
    run_id: str
    attempt: int
    steps: int
    save_every: int
    trainer: list[str]
    weights: str
    dataset_folder: Path
    output_folder: Path
    model_folder: Path
    manifest: Path
    max_hours: float | None
    stall_minutes: float
    wait_minutes: float
    settle_seconds: float  # the worker sees changes up to a second late, and none once the command has ended
    free_gib: float


def read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(64 << 20))
    except (OSError, ValueError, RecursionError) as err:
        raise JobError(2, f"{path} cannot be read: {str(err) or type(err).__name__}") from None
    if not isinstance(value, dict):
        raise JobError(2, f"{path} must hold an object, not {type(value).__name__}")
    return value


def is_plain(name: object) -> bool:
    """The name of one visible file, without any folder."""
    return isinstance(name, str) and name.isprintable() and re.fullmatch(r"[^./\\][^/\\]*", name) is not None


def is_number(value: object, most: float = 1e9) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < most


def is_count(value: object) -> bool:
    return is_number(value) and isinstance(value, int) and value > 0


def is_folder(value: object) -> bool:
    return isinstance(value, str) and all(map(is_plain, value.rstrip("/").split("/")))


def read_settings(path: Path) -> Settings:
    defaults = {"max_hours": None, "stall_minutes": 30, "wait_minutes": 5, "settle_seconds": 3, "free_gib": 2}
    raw = {**defaults, **read_json(path)}
    checks: dict[str, Callable[[Any], bool]] = {
        "contract": lambda value: value == 1,
        **dict.fromkeys(("job", "run_id", "weights"), is_plain),
        **dict.fromkeys(("attempt", "steps", "save_every"), is_count),
        **dict.fromkeys(("dataset_folder", "output_folder", "model_folder", "manifest"), is_folder),
        **dict.fromkeys(("stall_minutes", "wait_minutes", "settle_seconds", "free_gib"), is_number),
        "max_hours": lambda value: value is None or is_number(value),
        "trainer": lambda words: isinstance(words, list) and {type(word) for word in words} == {str},
    }
    for key, check in checks.items():
        if not check(raw.get(key)):
            raise JobError(2, f"{path}: {key} is {raw.get(key)!r:.100}, which this launcher cannot use")
    for key, name in (("run_id", "FLUX_RUN_ID"), ("attempt", "FLUX_ATTEMPT")):
        if os.environ.get(name, str(raw[key])) != str(raw[key]):
            raise JobError(2, f"{path} is for {key} {raw[key]}, but {name} is {os.environ[name]!r:.100}")
    for name in NO_CHECKPOINTS:
        if name.startswith(raw["job"]):
            raise JobError(2, f"rename job {raw['job']!r}: ai-toolkit would load its {name} as a checkpoint")
    folders = {key: Path(raw[key]) for key, check in checks.items() if check is is_folder}
    places = [folder.parts[0] for folder in folders.values()]
    if len(set(places)) < len(places):
        raise JobError(
            2, f"{path}: dataset, output, model and manifest must lie in four folders, not {places}"
        )
    return Settings(**{key: raw[key] for key in Settings.__annotations__} | folders)


def read_manifest(path: Path) -> Manifest:
    images = read_json(path).get("images")
    if not isinstance(images, dict) or not images:
        raise JobError(2, f"{path}: images must be an object with at least one image")
    captions: dict[str, str] = {}
    for name, image in images.items():
        where = f"{path}: {name!r:.100}"
        if not is_plain(name) or Path(name).suffix.lower() not in IMAGES:
            raise JobError(2, f"{where} is not the plain name of a file of {', '.join(IMAGES)}")
        match image:
            case {"size": int(), "sha256": str(digest), "caption": str(caption)} if len(digest) == 64:
                if captions.setdefault(Path(name).stem, caption) != caption:
                    raise JobError(2, f"{where} shares its caption file with an image of another caption")
            case _:
                raise JobError(2, f"{where} lacks a usable size, sha256 or caption")
    return images


# ------------------------------------------------------------------------- what the worker brought


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            check_stopped()
            digest.update(chunk)
    return digest.hexdigest()


def image_fault(path: Path, image: dict[str, Any]) -> str | None:
    try:
        if not path.is_file():
            return "missing"
        if (size := path.stat().st_size) != image["size"]:
            return f"{size} bytes instead of {image['size']}"
        return None if sha256(path) == image["sha256"] else "other content than the manifest says"
    except OSError as err:
        return str(err.strerror)


def check_dataset(settings: Settings, manifest: Manifest, tell: Callable[[str], None]) -> None:
    """Waits for late files, then writes the captions and leaves nothing else in the folder."""
    deadline = time.monotonic() + settings.wait_minutes * 60
    folder, run_json = settings.dataset_folder, settings.output_folder / "run.json"
    bad = sorted(manifest)
    while True:
        faults = {name: fault for name in bad if (fault := image_fault(folder / name, manifest[name]))}
        bad = list(faults)
        if not run_json.is_file():  # the worker uploads nothing from a folder that was not there at the start
            faults = {str(run_json): "missing", **faults}
        if not faults:
            break
        story = "; ".join(f"{name}: {fault}" for name, fault in list(faults.items())[:10])
        story = f"{len(faults)} of {len(manifest) + 1} files did not arrive whole: {story}"
        if time.monotonic() >= deadline:
            raise JobError(3, story)
        tell(f"waiting for files. {story}")
        pause(min(2.0, max(0.1, deadline - time.monotonic())))
    captions = {f"{Path(name).stem}.txt": image["caption"] for name, image in manifest.items()}
    for path in sorted(folder.iterdir()):
        if path.name not in manifest and path.name not in captions:
            set_aside(path, "not in the manifest")
    for name, caption in captions.items():
        (folder / name).write_bytes(caption.encode("utf-8", "replace"))


def set_aside(path: Path, reason: str) -> None:
    say(f"launch: set aside {path}: {reason}")
    ASIDE.mkdir(exist_ok=True)
    shutil.move(path, ASIDE / f"{time.time_ns()}-{path.name}")


# ------------------------------------------------------------------------- weights

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
SIZES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}


def weights_step(path: Path) -> int:
    """The step in a .safetensors file whose header, extents and values are sound; raises UnsoundError."""
    size, tensors = path.stat().st_size, []
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, 100 << 20):
                raise UnsoundError(f"{size} bytes do not hold its header")
            header = json.loads(file.read(length))
        step = json.loads(header.pop("__metadata__")["training_info"])["step"]
        for entry in header.values():
            (begin, end), width = entry["data_offsets"], SIZES[entry["dtype"]]
            if end - begin != width * math.prod(entry["shape"]) or min(entry["shape"], default=0) < 0:
                raise UnsoundError("its tensors do not lie where its header says")
            tensors.append((begin, end, entry["dtype"]))
        tensors.sort()
        at = 8 + length
        for begin, end, _ in tensors:
            if 8 + length + begin != at:
                raise UnsoundError("its tensors do not lie where its header says")
            at += end - begin
        if not tensors or at != size or not is_number(step) or step != int(step):
            raise UnsoundError(f"{size} bytes instead of {at}, {len(tensors)} tensors, step {step!r:.20}")
    except (struct.error, OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as err:
        raise UnsoundError(f"its header cannot be read ({type(err).__name__})") from None
    for begin, end, dtype in tensors:
        check_finite(path, dtype, 8 + length + begin, end - begin)
    return int(step)


def check_finite(path: Path, dtype: str, start: int, length: int) -> None:
    """NaN and infinity have all bits of the exponent set. By bytes methods, as a loop over 100 MB takes minutes."""
    width = {"F16": 2, "BF16": 2, "F32": 4}.get(dtype)
    ones = bytes(byte for byte in range(256) if byte & 0x7C == 0x7C) if dtype == "F16" else b"\x7f\xff"
    with path.open("rb") as file:
        file.seek(start)
        for at in range(0, length if width else 0, CHUNK):
            check_stopped()
            data = file.read(min(CHUNK, length - at))
            high, low = data[(width or 2) - 1 :: width], data[(width or 2) - 2 :: width]
            found = len(high.translate(None, ones)) < len(high)
            if found and dtype != "F16":  # one bit of the exponent is in the next byte
                found = any(h in ones and lo & 0x80 for h, lo in zip(high, low, strict=False))
            if found:
                raise UnsoundError("it holds values that are not finite numbers")


def check_checkpoints(settings: Settings) -> tuple[int, bool]:
    """Leaves only sound checkpoints, created in the order of their steps: ai-toolkit resumes from the newest
    and prunes the oldest by ctime, and the worker restores them in any order.

    Returns the step to resume from (0 without a checkpoint), and whether that is the finished LoRA.
    """
    sound: list[tuple[int, bool, Path]] = []
    for path in sorted(settings.output_folder.iterdir()):
        if not path.name.startswith(settings.job):
            continue
        try:
            if path.suffix != ".safetensors" or not path.is_file():
                raise UnsoundError("ai-toolkit would take it for a checkpoint")
            if (step := weights_step(path)) > settings.steps:
                raise UnsoundError(f"step {step} is beyond the {settings.steps} of this run")
            sound.append((step, path.name == settings.weights, path))
        except UnsoundError as err:
            set_aside(path, str(err))
    optimizer = settings.output_folder / "optimizer.pt"
    if optimizer.exists() and not (sound and zipfile.is_zipfile(optimizer)):
        set_aside(optimizer, "truncated" if sound else "there is no checkpoint it belongs to")
    previous = 0
    for _, _, path in sorted(sound):
        previous = renew_ctime(path, previous)
    step, final, _ = max(sound, default=(0, False, None))
    return step, final and step == settings.steps


def renew_ctime(path: Path, previous: int) -> int:
    """Any change of a file's times sets its ctime to now; repeated until the clock's grain tells two apart.

    The new atime is later than the unchanged mtime: chokidar then sees no change, and nothing is uploaded again.
    """
    deadline = time.monotonic() + 3
    while True:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        if (ctime := path.stat().st_ctime_ns) > previous or time.monotonic() > deadline:
            return ctime
        time.sleep(0.002)


# ------------------------------------------------------------------------- progress


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def replace_file(path: Path, text: str) -> None:
    """Atomic; the temporary file lies outside the synced folder, or the worker would upload and delete it."""
    temporary = path.parent.parent / f".{path.name}.tmp"
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def mean(losses: list[float]) -> float | None:
    value = math.fsum(losses) / len(losses) if losses and all(map(math.isfinite, losses)) else math.nan
    return float(f"{value:.6g}") if math.isfinite(value) else None


class Progress:
    """progress.json and loss.csv, summed over all restarts of the run."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, settings.output_folder
        self.state, self.message, self.gpu = "starting", "", ""
        self.step, self.trainer_seconds = 0, 0.0
        self.losses: dict[int, float] = {}  # by the number of steps done; the last word on each counts
        self.durations: deque[float] = deque(maxlen=30)
        self._written: tuple[object, ...] = ()
        self._written_at = self._curve_at = -math.inf
        before: dict[str, Any] = {}
        with contextlib.suppress(JobError):
            before = read_json(self.folder / "progress.json")
        known = before.get("run_id") == settings.run_id
        sane = known and is_number(before.get("restarts")) and is_number(before.get("gpu_seconds"))
        self.restarts = int(before["restarts"]) + 1 if sane else 0
        self.seconds_before = float(before["gpu_seconds"]) if sane else 0.0
        self.started_at = str(before.get("started_at"))[:40] if sane else now()

    @property
    def gpu_seconds(self) -> float:
        return self.seconds_before + self.trainer_seconds

    def resume(self, step: int) -> None:
        """Takes over the curve of earlier lives as far as the checkpoint to go on from."""
        self.step = step
        with contextlib.suppress(OSError, ValueError):
            for line in (self.folder / "loss.csv").read_text("utf-8").splitlines()[1 : step + 1]:
                at, loss = line.split(",")
                if 0 < int(at) <= step:
                    self.losses[int(at)] = float(loss)

    def report(self) -> dict[str, Any]:
        settings, losses = self.settings, [self.losses[n] for n in sorted(self.losses) if n <= self.step]
        tenth = max(1, len(losses) // 10)
        pace = statistics.median(self.durations) if self.durations else None
        left = pace * (settings.steps - self.step) if pace is not None and self.state == "training" else None
        return {
            "version": 1,
            "state": self.state,
            "job": settings.job,
            "run_id": settings.run_id,
            "attempt": settings.attempt,
            "step": self.step,
            "steps": settings.steps,
            "loss": mean(losses[-1:]),
            "loss_smoothed": mean(losses[-50:]),
            "loss_first": mean(losses[:tenth]),
            "loss_last": mean(losses[-tenth:]),
            "seconds_per_step": None if pace is None else round(pace, 4),
            "eta_seconds": None if left is None else round(left, 1),
            "gpu": self.gpu or None,
            "restarts": self.restarts,
            "gpu_seconds": round(self.gpu_seconds, 1),
            "launcher": "1",
            "started_at": self.started_at,
            "updated_at": now(),
            "message": self.message or None,
        }

    def write(self, state: str = "", message: str | None = None, *, force: bool = False) -> None:
        """At most once a second unless the state changes or a checkpoint is due, every 30 s without news.

        A full disk ends nothing here.
        """
        self.state = state or self.state
        self.message = self.message if message is None else hide_secrets(message)[:4000]
        saves = self.step // self.settings.save_every
        key, at = (self.state, self.message, saves, self.step), time.monotonic()
        force = force or key[:3] != self._written[:3]
        if not force and at - self._written_at < (1 if key != self._written else 30):
            return
        self._written, self._written_at = key, at
        try:
            if force or at - self._curve_at >= 10:
                self._curve_at = at
                rows = [f"{n},{self.losses[n]:.6g}\n" for n in sorted(self.losses) if n <= self.step]
                replace_file(self.folder / "loss.csv", "".join(["step,loss\n", *rows]))
            replace_file(self.folder / "progress.json", json.dumps(self.report(), indent=1, allow_nan=False))
        except OSError as err:
            say(f"launch: progress.json cannot be written: {err.strerror}")


# ------------------------------------------------------------------------- the trainer


class Trainer:
    """The child in a session of its own, and a thread that reads its output: tqdm's bar and everything else."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.progress, self.steps = progress, settings.steps
        self.tail: deque[str] = deque(maxlen=12)
        self.step_at, self._first_step, self._bar_said_at = time.monotonic(), True, -math.inf
        # What ai-toolkit prints (BaseSDTrainProcess; tqdm): "cat:  33%|███▎      | 99/300 [00:33<01:07,  3.00it/s,
        # lr: 1.0e-04 loss: 4.512e-01]", for each step once with the old count and once with the new one.
        loss = r"[^\]]*?(?:\bloss: ([-+.\w]+)[^\]]*)?"
        self.bar = re.compile(rf"{re.escape(settings.job)}:\s+\d+%\|[^|]*\|\s*(\d+)/{self.steps} \[{loss}\]")
        kept = ("AWS_", "NODE_TOKEN", "SALAD_API_KEY", "KELPIE_API_KEY")  # for the worker alone
        environment = {name: value for name, value in os.environ.items() if not name.startswith(kept)}
        self.process = subprocess.Popen(
            settings.trainer,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        rest = b""
        with self.process.stdout or contextlib.nullcontext() as output:
            while output and (chunk := os.read(output.fileno(), 1 << 16)):
                *lines, rest = re.split(rb"[\r\n]", rest + chunk)
                for line in lines:
                    self._line(line)
                if rest.endswith(b"]"):  # tqdm ends a line only when the next one begins
                    self._line(rest, unfinished=True)
                rest = rest[:8192]
        self._line(rest)

    def _line(self, raw: bytes, *, unfinished: bool = False) -> None:
        line = raw[:2000].decode("utf-8", "replace").rstrip()
        if match := self.bar.match(line):
            self._step(int(match[1]), match[2])
            if time.monotonic() - self._bar_said_at >= 10:
                self._bar_said_at = time.monotonic()
                say(match[0])
            line = line[match.end() :].strip()  # an error is printed behind the bar, on the same line
        if line and not unfinished:
            self.tail.append(line)
            say(line)

    def _step(self, step: int, loss: str | None) -> None:
        progress, at = self.progress, time.monotonic()
        if loss is not None:
            with contextlib.suppress(ValueError):
                progress.losses[min(step + 1, self.steps)] = float(loss)
        if step != progress.step and step <= self.steps:
            if not self._first_step and step > progress.step:
                progress.durations.append((at - self.step_at) / (step - progress.step))
            progress.step, self.step_at, self._first_step = step, at, False

    def stop(self, signum: signal.Signals, grace: float) -> None:
        """Asks, waits, kills: nothing of the group stays behind."""
        for number in (signum, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace if number != signal.SIGKILL else 30)
        self.reader.join(5)


def check_surroundings(settings: Settings) -> None:
    if shutil.which(settings.trainer[0]) is None:
        raise JobError(4, f"there is no {settings.trainer[0]!r} on this node")
    script = next((word for word in settings.trainer[1:] if word.endswith(".py")), None)
    if script and not Path(script).is_file():
        raise JobError(4, f"there is no {script!r} in {Path.cwd().name}/: this image lacks ai-toolkit there")
    free = shutil.disk_usage(".").free / (1 << 30)
    if free < settings.free_gib:
        raise JobError(4, f"{free:.1f} GiB are free on this node, {settings.free_gib} are needed")


def gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(out.decode("utf-8", "replace").split())[:200]


def train(settings: Settings, progress: Progress) -> str:
    """Runs the trainer to its end; returns how it ended when it gave no error, for the case that weights lack.

    Raises JobError when it failed or had to be stopped, StoppedError after a signal: it has ended in any case.
    """
    limit = math.inf if settings.max_hours is None else settings.max_hours * 3600
    if progress.gpu_seconds >= limit:
        raise JobError(8, f"{progress.gpu_seconds:.0f} s are used up, max_hours is {settings.max_hours}")
    progress.gpu = gpu_name()
    progress.write("training", "")
    start = time.monotonic()
    try:
        trainer = Trainer(settings, progress)
    except OSError as err:
        raise JobError(4, f"the trainer cannot be started: {err}") from None
    try:
        while trainer.process.poll() is None:
            check_stopped()
            progress.trainer_seconds = time.monotonic() - start
            progress.write()
            if time.monotonic() - trainer.step_at > settings.stall_minutes * 60:
                raise JobError(7, f"no step for {settings.stall_minutes} minutes after step {progress.step}")
            if progress.gpu_seconds >= limit:
                raise JobError(8, f"max_hours ({settings.max_hours}) are used up at step {progress.step}")
            time.sleep(0.1)
    except StoppedError as err:
        trainer.stop(err.signum, 30 if err.signum == signal.SIGINT else 2)
        raise
    except JobError:
        trainer.stop(signal.SIGTERM, 10)
        raise
    finally:
        trainer.stop(signal.SIGKILL, 0)
        progress.trainer_seconds = time.monotonic() - start
    code, story = trainer.process.returncode, "\n".join([f"at step {progress.step}", *trainer.tail])
    if code < 0:
        guess = ", for lack of memory most likely" if -code == signal.SIGKILL else ""
        raise JobError(6, f"the trainer was killed by signal {-code}{guess}, {story}")
    if code > 0:
        raise JobError(5, f"the trainer ended with exit code {code} {story}")
    return f"the trainer ended without an error {story}"


# ------------------------------------------------------------------------- the result


def final_fault(settings: Settings) -> str | None:
    path = settings.output_folder / settings.weights
    try:
        step = weights_step(path)
    except FileNotFoundError:
        return f"there is no {path}"
    except UnsoundError as err:
        return f"{path}: {err}"
    return None if step == settings.steps else f"{path} is of step {step}, not {settings.steps}"


def publish(settings: Settings) -> None:
    """The folder with the weights and done.json appears in one rename."""
    weights, folder = settings.output_folder / settings.weights, Path(f".model-{settings.run_id}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        os.link(weights, folder / settings.weights)
    except OSError:
        shutil.copyfile(weights, folder / settings.weights)
    done = {"version": 1, "job": settings.job, "run_id": settings.run_id, "steps": settings.steps}
    done |= {"size": weights.stat().st_size, "sha256": sha256(weights), "finished_at": now()}
    (folder / "done.json").write_text(json.dumps(done, indent=1), "utf-8")
    settings.model_folder.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(settings.model_folder)


def run(settings: Settings, progress: Progress) -> None:
    manifest = read_manifest(settings.manifest)
    check_surroundings(settings)
    check_dataset(settings, manifest, lambda story: progress.write("starting", story))
    step, finished = check_checkpoints(settings)
    progress.resume(step)
    if not finished:
        try:
            story = train(settings, progress)
        except JobError as err:
            # After the final save, in the last samples for instance, a crash costs nothing: the weights are there.
            if final_fault(settings):
                raise
            say(f"launch: the weights are complete, although {err}")
        progress.write("verifying", "")
        if fault := final_fault(settings):
            raise JobError(9, f"{fault}: {story}")
    publish(settings)
    progress.step = settings.steps


def finish(progress: Progress, state: str, message: str) -> None:
    """The last word, twice: the worker drops a change that comes while it uploads the one before."""
    progress.write(state, message, force=True)
    pause(progress.settings.settle_seconds / 2)
    progress.write(force=True)
    pause(progress.settings.settle_seconds / 2)


def launch() -> int:
    """The exit code; negative: the signal to die by."""
    progress: Progress | None = None
    try:
        try:
            settings = read_settings(HERE / "launch.json")
            # The worker makes the folders of ended jobs again, and an empty model/ would pass for a result.
            for folder in filter(Path.exists, (settings.model_folder, ASIDE)):
                shutil.rmtree(folder)
            for folder in (settings.output_folder, settings.dataset_folder):
                folder.mkdir(parents=True, exist_ok=True)
            progress = Progress(settings)
            run(settings, progress)
        except OSError as err:
            raise JobError(4, f"{err.filename or 'this node'}: {err.strerror}") from None
        finish(progress, "finished", "")
    except JobError as err:
        say(f"launch: failed ({err.code}): {err}")
        with contextlib.suppress(StoppedError):
            if progress:
                finish(progress, "failed", str(err))
        return err.code
    except StoppedError as err:
        say(f"launch: stopped by {err}")
        if progress:
            progress.write("canceled" if err.signum == signal.SIGINT else "interrupted")
        return -err.signum
    except Exception as err:  # noqa: BLE001 - whatever it is, the queue must count it
        say(f"launch: fault of the launcher: {type(err).__name__}: {err}")
        return 70
    return 0


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _frame: _received.append(number))
    threading.Thread(target=print_log, daemon=True).start()
    code = launch()
    deadline = time.monotonic() + 1
    while _log.unfinished_tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)  # waits for no thread that hangs in a full pipe


if __name__ == "__main__":
    main()
