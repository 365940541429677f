#!/usr/bin/env python3
# ruff: noqa: UP017, S603
# UP017: `datetime.UTC` is newer than Python 3.10, which a node may have.
# S603: starting the program that launch.json names is what a launcher is for; no shell is involved.
"""Runs one training job on a node and makes sure that what comes of it can be trusted.

    python training-config/launch.py

The Kelpie worker starts it in the folder that holds the trainer; launch.json and manifest.json lie beside it.
It checks the dataset and the checkpoints, runs the trainer, writes progress.json and loss.csv into the synced
output folder, checks the final weights, and only then makes the folder with the results: without that folder the
worker cannot report the job completed. Standard library only, Python 3.10 or newer.

Exit codes (all but 0 are failures the queue counts):
     0  the weights are verified and lie in the model folder
     2  launch.json or manifest.json cannot be used
     3  files that the worker should have brought are missing or damaged
     4  this node cannot be used for another reason than 10 to 14
     5  the trainer ended with an error
     6  the trainer was killed by a signal; most often the node ran out of memory
     7  no step for stall_minutes
     8  max_hours are used up, summed over all restarts; the checkpoints stay
     9  the trainer ended without an error, but its weights are missing, unsound or of another step
    10  no space on this node
    11  a folder or file on this node cannot be written
    12  no python (or whatever launch.json names) on this node, or it cannot be started
    13  an image without ai-toolkit's run.py
    14  the clock of this node jumps back
    15  ten lives in a row brought no new checkpoint: more would be paid for and bring none either
    70  a fault of this program
Cancelled (SIGINT) or interrupted (SIGTERM, or the worker is gone) it dies by that signal once the trainer has
ended: the worker takes death by signal for an interruption and counts nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import queue
import re
import shutil
import signal
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
from typing import Any, BinaryIO

HERE = Path(__file__).parent
ASIDE = Path("set-aside")  # not in the synced folder
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
MOST_JSON, MOST_HEADER = 16 << 20, 4 << 20  # bytes; FLUX LoRAs have headers of some 200 KB
CLOCK_SECONDS = 3.0
PROGRESS_SECONDS = 2
MOST_LIVES = 10  # with no new checkpoint; a whole container that dies of memory is never counted by the queue
# Files in the output folder that are no checkpoints. ai-toolkit loads whatever begins with the job's name
# (get_latest_save_path), so no job may be called like the beginning of one of these.
NO_CHECKPOINTS = ("run.json", "progress.json", "loss.csv", "config.yaml", "samples", "optimizer.pt")
NODE_FAULTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 10)
NODE_FAULTS |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), 11)
Manifest = dict[str, dict[str, Any]]


class EndError(Exception):
    """The run ends: as a counted failure with exit code `code`, or, when that is negative, by a signal."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnsoundError(Exception):
    """A file of weights cannot be used."""


# ---- signals and the log

_received: list[int] = []
_parent = os.getppid()
_log: queue.Queue[str] = queue.Queue(maxsize=2000)
_names = [name for name in os.environ if re.search("TOKEN|SECRET|KEY|PASSW|CREDENTIAL", name.upper())]
_secrets = [line for name in _names for line in os.environ[name].split("\n") if len(line) >= 6]


def check_stopped() -> None:
    """Called in every loop: an exception out of the handler itself could strike inside Popen."""
    if signal.SIGINT in _received:
        raise EndError(-signal.SIGINT, "canceled")
    if _received or os.getppid() != _parent:  # without the worker whatever is trained from now on is lost
        raise EndError(-signal.SIGTERM, "interrupted")


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


# ---- launch.json and manifest.json


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
    max_hours: float | None = None
    stall_minutes: float = 30
    wait_minutes: float = 5
    settle_seconds: float = 3  # before the end: the worker sees changes up to a second late
    resend_seconds: float = 10
    free_gib: float = 2


def read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MOST_JSON))
    except (OSError, ValueError, RecursionError) as err:
        raise EndError(2, f"{path} cannot be read: {str(err)[:200] or type(err).__name__}") from None
    if not isinstance(value, dict):
        raise EndError(2, f"{path} must hold an object, not {type(value).__name__}")
    return value


def is_plain(name: object) -> bool:
    """The name of one visible file, without any folder."""
    return isinstance(name, str) and name.isprintable() and bool(re.fullmatch(r"[^./\\][^/\\]{0,200}", name))


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9


RULES: dict[str, Callable[[Any], bool]] = {  # by the annotations of Settings
    "str": is_plain,
    "int": lambda value: is_number(value) and isinstance(value, int) and value > 0,
    "Path": lambda value: isinstance(value, str) and all(map(is_plain, value.rstrip("/").split("/"))),
    "float": is_number,
    "float | None": lambda value: value is None or is_number(value),
    "list[str]": lambda words: isinstance(words, list) and {type(word) for word in words} == {str},
}


def read_settings(path: Path) -> Settings:
    raw = read_json(path)
    values: dict[str, Any] = {}
    if raw.get("contract") != 1:
        raise EndError(2, f"{path}: contract is {raw.get('contract')!r:.100}; this launcher is for 1")
    for key, kind in Settings.__annotations__.items():
        values[key] = raw.get(key, getattr(Settings, key, None))
        if not RULES[kind](values[key]):
            raise EndError(2, f"{path}: {key} is {values[key]!r:.100}, which this launcher cannot use")
        if kind == "Path":
            values[key] = Path(values[key])
    for key, name in (("run_id", "FLUX_RUN_ID"), ("attempt", "FLUX_ATTEMPT")):
        if os.environ.get(name, str(raw[key])) != str(raw[key]):
            raise EndError(2, f"{path} is for {key} {raw[key]}, but {name} is {os.environ[name]!r:.100}")
    for name in NO_CHECKPOINTS:
        if name.startswith(raw["job"]):
            raise EndError(2, f"rename job {raw['job']!r}: ai-toolkit would load its {name} as a checkpoint")
    places = [value.parts[0] for value in values.values() if isinstance(value, Path)]
    if len(set(places)) < len(places):
        raise EndError(2, f"{path}: dataset, output, model, manifest must lie in four folders, not {places}")
    return Settings(**values)


def read_manifest(path: Path) -> Manifest:
    images = read_json(path).get("images")
    if not isinstance(images, dict) or not images:
        raise EndError(2, f"{path}: images must be an object with at least one image")
    captions: dict[str, str] = {}
    for name, image in images.items():
        where = f"{path}: {name!r:.100}"
        if not is_plain(name) or Path(name).suffix.lower() not in IMAGES:
            raise EndError(2, f"{where} is not the plain name of a file of {', '.join(IMAGES)}")
        match image:
            case {"size": int(), "sha256": str(digest), "caption": str(caption)} if len(digest) == 64:
                if captions.setdefault(Path(name).stem, caption) != caption:
                    raise EndError(2, f"{where} shares its caption file with an image of another caption")
            case _:
                raise EndError(2, f"{where} lacks a usable size, sha256 or caption")
    return images


# ---- what the worker brought


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
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
            raise EndError(3, story)
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
    shutil.move(path, ASIDE / f"{time.monotonic_ns()}-{path.name}")


# ---- weights

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
SIZES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}


def weights_step(path: Path) -> int:
    """The step in a .safetensors file whose header, extents and values are sound; raises UnsoundError."""
    try:
        with path.open("rb") as file:
            step, tensors = read_header(file, path.stat().st_size)
            for begin, end, dtype in tensors:
                if dtype in ("F16", "BF16", "F32") and not is_finite(file, dtype, begin, end):
                    raise UnsoundError("it holds values that are not finite numbers")
    except (UnsoundError, EndError):
        raise
    except Exception as err:  # noqa: BLE001 - there is no end to what damage can make of a header
        raise UnsoundError(f"its header cannot be read ({type(err).__name__})") from None
    return step


def read_header(file: BinaryIO, size: int) -> tuple[int, list[tuple[int, int, str]]]:
    """The step and the tensors (first byte, last byte + 1, dtype), which fill the file without a gap."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MOST_HEADER):
        raise UnsoundError(f"{size} bytes do not hold its header")
    header = json.loads(file.read(length))
    json.dumps(
        header, ensure_ascii=False, allow_nan=False
    ).encode()  # Python reads more than safetensors does
    marks = header.pop("__metadata__")
    if {type(value) for value in marks.values()} != {str}:
        raise UnsoundError("its metadata are not all text")
    step = json.loads(marks["training_info"])["step"]
    tensors, at = [], 8 + length
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        begin, end = entry["data_offsets"]
        numbers = [begin, end, *entry["shape"]]
        if len(numbers) > 10 or {type(number) for number in numbers} != {int} or min(numbers) < 0:
            raise UnsoundError("its header is nonsense")
        start, at = at, at + SIZES[entry["dtype"]] * math.prod(entry["shape"])
        if (8 + length + begin, 8 + length + end) != (start, at) or at > size:
            raise UnsoundError(f"its {size} bytes are not what its header says")
        tensors.append((start, at, entry["dtype"]))
    if not tensors or at != size or not is_number(step) or step != int(step):
        raise UnsoundError(f"{size} bytes instead of {at}, {len(tensors)} tensors, step {step!r:.20}")
    return int(step), tensors


def is_finite(file: BinaryIO, dtype: str, begin: int, end: int) -> bool:
    width, kind = SIZES[dtype], "e" if dtype == "F16" else "f"
    file.seek(begin)
    for at in range(begin, end, 1 << 16):
        check_stopped()
        data = file.read(min(1 << 16, end - at))
        count = len(data) // width
        if dtype == "BF16":  # the upper half of a float32
            wide = bytearray(2 * len(data))
            wide[2::4], wide[3::4] = data[::2], data[1::2]
            data = bytes(wide)
        if not math.isfinite(sum(struct.unpack(f"<{count}{kind}", data))):  # the sum of finite ones is
            return False
    return True


def is_whole_zip(path: Path) -> bool:
    """torch.save writes a zip of uncompressed members with checksums, which torch.load does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            return bool(members) and stored and archive.testzip() is None
    except Exception:  # noqa: BLE001 - as with the header
        return False


def check_checkpoints(settings: Settings, progress: Progress) -> tuple[int, bool]:
    """Sees to it that ai-toolkit resumes from the newest sound checkpoint: it takes the one with the newest ctime,
    and prunes those with the oldest, while the worker restores them in any order.

    Unsound ones stay where they are, as the oldest: the worker deletes in the bucket what leaves the folder, and
    there they may be sound. Only where none is sound must they go, and not before a second node has seen the same.
    Returns the step to resume from (0 without a checkpoint), and whether that is the finished LoRA.
    """
    sound: list[tuple[int, bool, Path]] = []
    unsound: dict[Path, str] = {}
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
            unsound[path] = str(err)
            say(f"launch: {path} is not used: {err}")
    if not sound:
        lost = [f"{path.name}: {fault}" for path, fault in unsound.items() if path.suffix == ".safetensors"]
        if lost and not progress.lost:
            progress.lost = True
            raise EndError(
                3, f"no checkpoint arrived whole, another node may get them: {'; '.join(lost[:5])}"
            )
        for path, fault in unsound.items():
            set_aside(path, fault)
        unsound = {}
    optimizer = settings.output_folder / "optimizer.pt"
    if optimizer.exists() and not (sound and is_whole_zip(optimizer)):
        set_aside(optimizer, "damaged" if sound else "there is no checkpoint it belongs to")
    previous = 0
    for path in [*unsound, *(path for _, _, path in sorted(sound))]:
        previous = renew_ctime(path, previous)
    step, final, _ = max(sound, default=(0, False, None))
    return step, final and step == settings.steps


def renew_ctime(path: Path, previous: int) -> int:
    """Any change of a file's times sets its ctime to now; repeated until the clock's grain tells two apart.

    The new atime is later than the unchanged mtime: chokidar then sees no change, and nothing is uploaded again.
    """
    deadline = time.monotonic() + CLOCK_SECONDS
    while time.monotonic() < deadline:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        if (ctime := path.stat().st_ctime_ns) > previous:
            return ctime
        time.sleep(0.002)
    raise EndError(14, f"the clock of this node jumps back: {path} cannot be made the newest")


# ---- progress


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
        self.pace: float | None = None  # seconds a step
        self.start_seconds: float | None = None  # from the trainer's start to its bar: loading, first samples
        self._written: tuple[object, ...] = ()
        self._written_at = self._curve_at = -math.inf
        before: dict[str, Any] = {}
        with contextlib.suppress(EndError):
            before = read_json(self.folder / "progress.json")
        known = before.get("run_id") == settings.run_id
        sane = known and is_number(before.get("restarts")) and is_number(before.get("gpu_seconds"))
        self.restarts = int(before["restarts"]) + 1 if sane else 0
        self.seconds_before = float(before["gpu_seconds"]) if sane else 0.0
        self.started_at = str(before.get("started_at"))[:40] if sane else now()
        begun = (
            before.get("begun") if known else None
        )  # [the step of the last beginning, how often from there]
        self.begun = (
            begun if isinstance(begun, list) and len(begun) == 2 and all(map(is_number, begun)) else [0, 0]
        )
        self.lost = known and before.get("checkpoints_lost") is True

    @property
    def gpu_seconds(self) -> float:
        return self.seconds_before + self.trainer_seconds

    def check_hours(self) -> None:
        limit = self.settings.max_hours
        if limit is not None and self.gpu_seconds >= limit * 3600:
            raise EndError(
                8, f"max_hours ({limit}) are used up at step {self.step}: {self.gpu_seconds:.0f} s"
            )

    def resume(self, step: int) -> None:
        """Takes over the curve of earlier lives as far as the checkpoint to go on from. Raises EndError."""
        self.step = step
        self.begun = [step, self.begun[1] + 1 if self.begun[0] == step else 1]
        if self.begun[1] > MOST_LIVES and step < self.settings.steps:
            raise EndError(
                15, f"{MOST_LIVES} lives in a row began at step {step} and brought no new checkpoint"
            )
        with contextlib.suppress(OSError, ValueError), (self.folder / "loss.csv").open("rb") as file:
            for line in file.read(MOST_JSON).decode("ascii").split("\n")[1:]:
                at, _, loss = line.partition(",")
                if 0 < int(at) <= step:
                    self.losses[int(at)] = float(loss)

    def report(self) -> dict[str, Any]:
        settings, losses = self.settings, [self.losses[n] for n in sorted(self.losses) if n <= self.step]
        tenth = max(1, len(losses) // 10)
        left = self.pace * (settings.steps - self.step) if self.pace and self.state == "training" else None
        report = {"version": 1, "state": self.state, "message": self.message or None, "updated_at": now()}
        report |= {"job": settings.job, "run_id": settings.run_id, "attempt": settings.attempt}
        report |= {"step": self.step, "steps": settings.steps}
        report |= {"loss": mean(losses[-1:]), "loss_smoothed": mean(losses[-50:])}
        report |= {"loss_first": mean(losses[:tenth]), "loss_last": mean(losses[-tenth:])}
        report |= {"seconds_per_step": self.pace, "eta_seconds": None if left is None else round(left, 1)}
        report |= {"gpu": self.gpu or None, "gpu_seconds": round(self.gpu_seconds, 1)}
        report |= {"start_seconds": self.start_seconds}
        report |= {
            "restarts": self.restarts,
            "started_at": self.started_at,
            "launcher": "1",
            "begun": self.begun,
        }
        return report | ({"checkpoints_lost": True} if self.lost else {})

    def write(self, state: str = "", message: str | None = None, *, force: bool = False) -> None:
        """Every 2 s at most unless the state changes or a checkpoint is due, every 30 s without news.

        R2 takes one write a second of one key, and the worker sends a change up to a second late.

        A full disk ends nothing here.
        """
        self.state = state or self.state
        self.message = self.message if message is None else hide_secrets(message)[:4000]
        saves = self.step // self.settings.save_every
        key, at = (self.state, self.message, saves, self.step), time.monotonic()
        force = force or key[:3] != self._written[:3]
        if not force and at - self._written_at < (PROGRESS_SECONDS if key != self._written else 30):
            return
        self._written, self._written_at = key, at
        try:
            if force or at - self._curve_at >= 10:
                self._curve_at = at - (8 if force else 0)  # again in 2 s: a change during an upload is lost
                rows = [f"{n},{self.losses[n]:.6g}\n" for n in sorted(self.losses) if n <= self.step]
                replace_file(self.folder / "loss.csv", "".join(["step,loss\n", *rows]))
            replace_file(self.folder / "progress.json", json.dumps(self.report(), indent=1, allow_nan=False))
        except OSError as err:
            say(f"launch: progress.json cannot be written: {err.strerror}")


# ---- the trainer


class Trainer:
    """The child in a session of its own, and a thread that reads its output: tqdm's bar and everything else."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.listen(settings, progress)
        workers = ("AWS_", "NODE_TOKEN", "SALAD_API_KEY", "KELPIE_API_KEY")  # for the worker alone
        environment = {name: value for name, value in os.environ.items() if not name.startswith(workers)}
        try:
            self.process = subprocess.Popen(
                settings.trainer,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as err:  # ValueError: a NUL in a word
            raise EndError(12, f"{settings.trainer[0]!r} cannot be started: {err}") from None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def listen(self, settings: Settings, progress: Progress) -> None:
        self.progress, self.steps = progress, settings.steps
        self.tail: deque[str] = deque(maxlen=12)
        self.step_at, self._bar_said_at = time.monotonic(), -math.inf
        self._started_at = self.step_at
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        # What ai-toolkit prints (BaseSDTrainProcess; tqdm): "cat:  33%|███▎      | 99/300 [00:33<01:07,  3.00it/s,
        # lr: 1.0e-04 loss: 4.512e-01]", for each step once with the old count and once with the new one.
        name = re.escape(settings.job)
        self.bar = re.compile(rf"{name}:\s+\d+%\|[^|]*\|\s*(\d{{1,9}})/{self.steps} \[([^\]]*)\]")

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
        line = hide_secrets(raw[:8192].decode("utf-8", "replace"))[:2000].rstrip()
        if match := self.bar.match(line):
            loss = re.search(r"\bloss: ([-+.\w]+)", match[2])
            self._step(int(match[1]), loss and loss[1])
            if time.monotonic() - self._bar_said_at >= 10:
                self._bar_said_at = time.monotonic()
                say(match[0])
            line = line[match.end() :].strip()  # an error is printed behind the bar, on the same line
        if line and not unfinished:
            self.tail.append(line)
            say(line)

    def _step(self, step: int, loss: str | None) -> None:
        progress, at = self.progress, time.monotonic()
        if progress.start_seconds is None:
            progress.start_seconds = round(at - self._started_at, 3)
        if loss is not None:
            with contextlib.suppress(ValueError):
                progress.losses[min(step + 1, self.steps)] = float(loss)
        if step != progress.step and step <= self.steps:
            progress.step, self.step_at = step, at
            self._recent.append((at, step))
            begin, first = self._recent[0]
            progress.pace = round((at - begin) / (step - first), 4) if step > first else None

    def stop(self, signum: signal.Signals, grace: float) -> None:
        """Asks, waits, kills: nothing of the group stays behind."""
        for number in (signum, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace if number != signal.SIGKILL else 30)
        self.reader.join(5)


class Resend:
    """Has the worker send slowly written files again, once and a second time.

    It sends a file when its size has not changed for 0.2 s, after 5 s in any case, and drops the changes that come
    while it sends: such a file is cut in the bucket, and stays so until it changes again. Only the newest checkpoint
    and optimizer.pt: a change also renews the ctime, whose order is that of the steps.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.every = settings, settings.resend_seconds / 10
        self.next_look = 0.0
        self.seen = {path: path.stat().st_mtime_ns for path in self._files()}
        self.changed_at: dict[Path, float] = {}
        self.due: dict[Path, list[float]] = {}

    def _files(self) -> list[Path]:
        folder, job = self.settings.output_folder, self.settings.job
        saves = [path for path in folder.iterdir() if path.name.startswith(job)]
        newest = max(saves, key=lambda path: path.stat().st_ctime_ns, default=None)
        return [path for path in (newest, folder / "optimizer.pt") if path and path.exists()]

    def look(self) -> None:
        if (at := time.monotonic()) < self.next_look:
            return
        self.next_look = at + self.every
        with contextlib.suppress(OSError):  # the trainer prunes meanwhile
            for path in self._files():
                if self.seen.get(path) != path.stat().st_mtime_ns:
                    slow = at - self.changed_at.get(path, -math.inf) < 3 * self.every
                    self.due[path] = [at + 10 * self.every, at + 60 * self.every] if slow else []
                    self.changed_at[path] = at
                elif self.due.get(path) and at >= self.due[path][0]:
                    self.due[path].pop(0)
                    os.utime(path)
                self.seen[path] = path.stat().st_mtime_ns


def check_surroundings(settings: Settings) -> None:
    if shutil.which(settings.trainer[0]) is None:
        raise EndError(12, f"there is no {settings.trainer[0]!r} on this node")
    script = next((word for word in settings.trainer[1:] if word.endswith(".py")), None)
    if script and not Path(script).is_file():
        raise EndError(13, f"there is no {script!r} in {Path.cwd().name}/: this image lacks ai-toolkit there")
    if (free := shutil.disk_usage(".").free / (1 << 30)) < settings.free_gib:
        raise EndError(10, f"no space: {free:.1f} GiB are free on this node, {settings.free_gib} are needed")


def gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(out.decode("utf-8", "replace").split())[:200]


def watch(settings: Settings, progress: Progress, trainer: Trainer) -> None:
    """Until the trainer has ended. Raises EndError when it has to end before."""
    start, resend = time.monotonic(), Resend(settings)
    while trainer.process.poll() is None:
        check_stopped()
        progress.trainer_seconds = time.monotonic() - start
        progress.write()
        resend.look()
        progress.check_hours()
        if time.monotonic() - trainer.step_at > settings.stall_minutes * 60:
            raise EndError(7, f"no step for {settings.stall_minutes} minutes after step {progress.step}")
        time.sleep(0.1)


def train(settings: Settings, progress: Progress) -> str:
    """Runs the trainer to its end; returns how it ended when it gave no error, for the case that weights lack.

    Raises EndError when it failed or had to be stopped: it has ended in any case.
    """
    progress.gpu = gpu_name()
    progress.write("training", "")
    trainer = Trainer(settings, progress)
    try:
        watch(settings, progress, trainer)
    except (
        EndError
    ) as err:  # ai-toolkit saves on no signal, and an interrupted worker uploads nothing more: be quick
        canceled = err.code == -signal.SIGINT
        trainer.stop(signal.SIGINT if canceled else signal.SIGTERM, 30 if canceled else 2)
        raise
    finally:
        trainer.stop(signal.SIGKILL, 0)
    code, story = trainer.process.returncode, "\n".join([f"at step {progress.step}", *trainer.tail])
    if code < 0:
        guess = ", for lack of memory most likely" if -code == signal.SIGKILL else ""
        raise EndError(6, f"the trainer was killed by signal {-code}{guess}, {story}")
    if code > 0:
        full = shutil.disk_usage(".").free < 64 << 20
        raise EndError(10 if full else 5, f"the trainer ended with exit code {code} {story}")
    return f"the trainer ended without an error {story}"


# ---- the result


def final_fault(settings: Settings) -> str | None:
    path = settings.output_folder / settings.weights
    if not path.is_file():
        return f"there is no {path}"
    try:
        step = weights_step(path)
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
    step, finished = check_checkpoints(settings, progress)
    progress.resume(step)
    if not finished:
        progress.check_hours()
        check_dataset(settings, manifest, lambda story: progress.write("starting", story))
        try:
            story = train(settings, progress)
        except EndError as err:
            # After the final save, in the last samples for instance, a crash costs nothing: the weights are there.
            if err.code < 0 or final_fault(settings):
                raise
            say(f"launch: the weights are complete, although {err}")
        progress.write("verifying", "")
        if fault := final_fault(settings):
            raise EndError(9, f"{fault}: {story}")
    publish(settings)
    progress.step = settings.steps


def prepare(settings: Settings) -> None:
    """The worker makes the folders of ended jobs again, and an empty model/ would pass for a result."""
    for folder in filter(Path.exists, (settings.model_folder, ASIDE)):
        shutil.rmtree(folder)
    for folder in (settings.output_folder, settings.dataset_folder):
        folder.mkdir(parents=True, exist_ok=True)


def finish(progress: Progress, code: int, message: str) -> None:
    """The last word, twice unless it is urgent: the worker drops a change that comes while it uploads another."""
    states = {0: "finished", -signal.SIGINT: "canceled", -signal.SIGTERM: "interrupted"}
    progress.write(states.get(code, "failed"), message if code >= 0 else None, force=True)
    for _ in range(2 if code >= 0 else 0):
        pause(progress.settings.settle_seconds / 2)
        progress.write(force=True)


def launch() -> int:
    """The exit code; negative: the signal to die by."""
    progress: Progress | None = None
    code, message = 0, ""
    try:
        settings = read_settings(HERE / "launch.json")
        prepare(settings)
        progress = Progress(settings)
        run(settings, progress)
    except EndError as err:
        code, message = err.code, str(err)
    except OSError as err:
        code, message = NODE_FAULTS.get(err.errno or 0, 4), f"{err.filename or 'this node'}: {err.strerror}"
    except Exception as err:  # noqa: BLE001 - whatever it is, the queue must count it
        code, message = 70, f"fault of the launcher: {type(err).__name__}: {err}"
    say(f"launch: {'finished' if not code else f'failed ({code})' if code > 0 else 'stopped'}: {message}")
    try:
        if progress:
            finish(progress, code, message)
    except EndError as err:  # a failure stays one; results that the worker can no longer fetch are none
        return code or err.code
    return code


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
