"""What the launcher is told: the job's environment, launch.json and manifest.json.

Nodes can write the bucket but not the queue. So everything that decides what is trained comes from the job's environment,
or is checked against a digest in it; launch.json only holds limits, and each has a range.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from flux_training.node.launcher.errors import ExitCode, RunEndedError

# These paths are relative to the working directory, which is the trainer's folder.
CONFIG_FOLDER = Path("training-config")
DATASET_FOLDER = Path("dataset")
# The names of dataset folders, such as those with control images. None of the trainer's own folders has such a name.
DATASET_FOLDERS = re.compile("(dataset|control|mask|reg)[a-z0-9_-]{0,40}")
OUTPUT_FOLDER = Path("output")
UPLOAD_FOLDER = Path("upload")  # The worker uploads every change in this folder.
MODEL_FOLDER = Path("model")
TRAINER_SCRIPT = "run.py"
TRAINER = ("python", TRAINER_SCRIPT, f"{CONFIG_FOLDER}/train.yml")

WEIGHTS_SUFFIX = ".safetensors"
# Wan 2.2 14B has a transformer for each of these noise stages. Its LoRA consists of two files, named `<job>_high_noise` and
# `<job>_low_noise`.
NOISE_STAGES = ("high_noise", "low_noise")
# The suffixes of images and videos.
MEDIA_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".mp4", ".m4v", ".mov")
MAX_JSON_BYTES = 16 << 20
MAX_IMAGES = 20_000
MAX_IMAGE_BYTES = 1 << 30
MAX_STEPS = 100_000_000
MAX_DIGITS = 19
SHARE = r"0(\.[0-9]{1,6})?|1(\.0{1,6})?"
# Files in the output folder that are not checkpoints. ai-toolkit loads every file whose name begins with the job's name
# (get_latest_save_path), so none of these names may begin with the job's name.
OTHER_OUTPUTS = (
    "config.yaml",
    "samples",
    "optimizer.pt",
    "run.json",
    "progress.json",
    "loss.csv",
    "loss_log.db",
)


class AllowedRange(NamedTuple):
    lowest: float
    highest: float


@dataclass(frozen=True)
class LaunchLimits:
    """launch.json, key for key. The operator may change it while the job is queued."""

    max_hours: float | None = None
    stall_minutes: float = 30
    download_minutes: float = 60
    download_attempts: float = 8
    connect_seconds: float = 10
    read_seconds: float = 30
    # The seconds to wait before the job ends: the worker notices changes up to a second late.
    settle_seconds: float = 3
    # The maximum share of all steps that may be skipped. The container's environment variable MAX_SKIPPED_SHARE takes
    # precedence.
    max_skipped_share: float = 0.1
    scan_seconds: float = 1  # The seconds between two scans of the trainer's output folder.
    free_gib: float = 2


LIMIT_RANGES = {
    "max_hours": AllowedRange(0, 10_000),
    "stall_minutes": AllowedRange(0, 1440),
    "download_minutes": AllowedRange(0, 1440),
    "download_attempts": AllowedRange(1, 100),
    "connect_seconds": AllowedRange(0.05, 300),
    "read_seconds": AllowedRange(0.05, 300),
    "settle_seconds": AllowedRange(0, 60),
    "max_skipped_share": AllowedRange(0, 1),
    "scan_seconds": AllowedRange(0.02, 60),
    "free_gib": AllowedRange(0, 1_000_000),
}


@dataclass(frozen=True)
class RunSettings:
    """What the job's environment says about the run. Prefixes are keys in the bucket that end in a slash."""

    job: str
    run_id: str
    attempt: int
    steps: int
    save_every: int
    bucket: str
    run_prefix: str
    dataset_prefix: str
    config_sha256: str
    parent_prefix: str | None
    limits: LaunchLimits

    @property
    def output_folder(self) -> Path:
        """Where the trainer writes."""
        return OUTPUT_FOLDER / self.job

    @property
    def final_weights(self) -> list[Path]:
        """The files of the finished LoRA: one, unless the trainer wrote one for each noise stage."""
        one = self.output_folder / f"{self.job}{WEIGHTS_SUFFIX}"
        stages = [self.output_folder / f"{self.job}_{stage}{WEIGHTS_SUFFIX}" for stage in NOISE_STAGES]
        return stages if not one.is_file() and any(path.is_file() for path in stages) else [one]

    @property
    def output_prefix(self) -> str:
        return f"{self.run_prefix}output/"

    @property
    def parent_output_prefix(self) -> str | None:
        return f"{self.parent_prefix}output/" if self.parent_prefix else None


@dataclass(frozen=True)
class ImageEntry:
    """An image as manifest.json describes it. Images that are not trained themselves, such as control images, have no caption."""

    size: int
    sha256: str
    caption: str | None


def is_plain_name(name: object) -> bool:
    """True for the name of one visible file without any folder."""
    return isinstance(name, str) and name.isprintable() and bool(re.fullmatch(r"[^./\\][^/\\]{0,200}", name))


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9


# ---- JSON files


def _bounded_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number with {len(digits)} digits")
    return int(digits)


def parse_object(data: bytes) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object with numbers of a reasonable size."""
    try:
        value = json.loads(data, parse_int=_bounded_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it must hold an object, not {type(value).__name__}")
    return value


def read_config_file(name: str) -> bytes:
    path = CONFIG_FOLDER / name
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_JSON_BYTES:
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"{path} is larger than {MAX_JSON_BYTES} bytes")
    return data


def _read_object(name: str) -> dict[str, Any]:
    try:
        return parse_object(read_config_file(name))
    except ValueError as error:
        path = CONFIG_FOLDER / name
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"{path} cannot be read: {error!s:.200}") from None


# ---- limits


def read_limits(environ: Mapping[str, str] = os.environ) -> LaunchLimits:
    """The limits in launch.json. Nodes can write that file, but not the job's environment, whose FLUX_MAX_HOURS is the upper limit."""
    raw = _read_object("launch.json")
    values = {field.name: raw.get(field.name, field.default) for field in fields(LaunchLimits)}
    if share := environ.get("MAX_SKIPPED_SHARE"):
        values["max_skipped_share"] = float(_text({"MAX_SKIPPED_SHARE": share}, "MAX_SKIPPED_SHARE", SHARE))
    for name, value in values.items():
        lowest, highest = LIMIT_RANGES[name]
        if value is None and name == "max_hours":
            continue
        if not is_number(value) or not math.isfinite(value) or not lowest <= value <= highest:
            path = CONFIG_FOLDER / "launch.json"
            rule = f"it must be a number from {lowest:g} to {highest:g}"
            raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"{path}: {name} is {value!r:.100}; {rule}")
    queued_with = environ.get("FLUX_MAX_HOURS")
    if queued_with is not None:
        most = float(_text(environ, "FLUX_MAX_HOURS", r"[0-9]{1,5}(\.[0-9]{1,12})?"))
        values["max_hours"] = most if values["max_hours"] is None else min(most, values["max_hours"])
    return LaunchLimits(**values)


# ---- the job's environment


def read_settings(environ: Mapping[str, str] = os.environ) -> RunSettings:
    """Raises RunEndedError when the job's environment or launch.json cannot be used."""
    job = _text(environ, "FLUX_JOB", r"[^./\\][^/\\]{0,200}")
    for name in OTHER_OUTPUTS:
        if name.startswith(job):
            message = f"rename job {job!r}: ai-toolkit would load its {name} as a checkpoint"
            raise RunEndedError(ExitCode.CONFIG_UNUSABLE, message)
    return RunSettings(
        job=job,
        run_id=_text(environ, "FLUX_RUN_ID", r"[0-9a-f]{12}"),
        attempt=_count(environ, "FLUX_ATTEMPT"),
        steps=_count(environ, "FLUX_STEPS"),
        save_every=_count(environ, "FLUX_SAVE_EVERY"),
        bucket=_text(environ, "FLUX_BUCKET", r"[A-Za-z0-9._-]{1,255}"),
        run_prefix=_text(environ, "FLUX_RUN_PREFIX", r"[^/].{0,900}/"),
        dataset_prefix=_text(environ, "FLUX_DATASET_PREFIX", r"[^/].{0,900}/"),
        config_sha256=_text(environ, "FLUX_CONFIG_SHA256", r"[0-9a-f]{64}"),
        parent_prefix=_text(environ, "FLUX_PARENT_PREFIX", r"[^/].{0,900}/")
        if environ.get("FLUX_PARENT_PREFIX")
        else None,
        limits=read_limits(environ),
    )


def _text(environ: Mapping[str, str], name: str, pattern: str) -> str:
    value = environ.get(name)
    if value is None:
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"{name} is not set in the job's environment")
    if not value.isprintable() or not re.fullmatch(pattern, value):
        raise RunEndedError(
            ExitCode.CONFIG_UNUSABLE, f"{name} is {value!r:.100}, which this launcher cannot use"
        )
    return value


def _count(environ: Mapping[str, str], name: str) -> int:
    number = int(_text(environ, name, r"[0-9]{1,9}"))
    if not 0 < number <= MAX_STEPS:
        raise RunEndedError(
            ExitCode.CONFIG_UNUSABLE, f"{name} is {number}; it must be a number from 1 to {MAX_STEPS}"
        )
    return number


# ---- manifest.json


def config_digest(manifest: bytes, train_config: bytes) -> str:
    """The SHA-256 of what a run trains. Each part follows its length, so that no two pairs share a digest."""
    digest = hashlib.sha256()
    for part in (manifest, train_config):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def read_manifest(settings: RunSettings) -> dict[str, ImageEntry]:
    """The images by name. Raises RunEndedError unless manifest.json and train.yml are those the job was queued with."""
    manifest = read_config_file("manifest.json")
    found = config_digest(manifest, read_config_file("train.yml"))
    if found != settings.config_sha256:
        raise RunEndedError(
            ExitCode.CONFIG_UNUSABLE,
            f"manifest.json and train.yml are not those this job was queued with (SHA-256 {found}, expected "
            f"{settings.config_sha256}): somebody changed them in the bucket",
        )
    return parse_manifest(manifest)


def parse_manifest(data: bytes) -> dict[str, ImageEntry]:
    try:
        images = parse_object(data).get("images")
        if not isinstance(images, dict) or not 0 < len(images) <= MAX_IMAGES:
            raise ValueError(f"images must be an object with 1 to {MAX_IMAGES} images")
        entries = {name: _image_entry(name, raw) for name, raw in images.items()}
        _check_captions(entries)
    except ValueError as error:
        raise RunEndedError(ExitCode.CONFIG_UNUSABLE, f"manifest.json: {error!s:.300}") from None
    return entries


def _image_entry(name: str, raw: object) -> ImageEntry:
    folder, _, file = name.rpartition("/")
    is_in_dataset = not folder or DATASET_FOLDERS.fullmatch(folder)
    if not is_in_dataset or not is_plain_name(file) or Path(file).suffix.lower() not in MEDIA_SUFFIXES:
        raise ValueError(
            f"{name!r:.100} is not the name of a file of {', '.join(MEDIA_SUFFIXES)} in a dataset"
        )
    caption = raw.get("caption") if isinstance(raw, dict) else None
    match raw:
        case {"size": int(size), "sha256": str(digest)} if caption is None or isinstance(caption, str):
            is_size = not isinstance(size, bool) and 0 <= size <= MAX_IMAGE_BYTES
            if is_size and re.fullmatch("[0-9a-f]{64}", digest):
                return ImageEntry(size, digest, caption)
    raise ValueError(f"{name!r:.100} has no usable size, sha256 or caption")


def image_path(name: str) -> Path:
    """Where the trainer looks for an image: names of files in `dataset/` are without the folder."""
    return Path(name) if "/" in name else DATASET_FOLDER / name


def caption_path(image: str) -> Path:
    return image_path(image).with_suffix(".txt")


def _check_captions(entries: Mapping[str, ImageEntry]) -> None:
    captions: dict[Path, str | None] = {}
    for name, entry in entries.items():
        if captions.setdefault(caption_path(name), entry.caption) != entry.caption:
            raise ValueError(f"{name!r:.100} shares its caption file with an image that has another caption")
