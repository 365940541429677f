"""What a job has written to the bucket so far, for the web page: progress, losses, samples."""

import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcloud.web.request_bodies import parse_json

MAX_POINTS = 160
MAX_SAMPLES = 6
MAX_PROGRESS_BYTES = 1 << 20
MAX_LOSS_BYTES = 4 << 20
MAX_TEXT_LENGTH = 1000
MAX_NUMBER = 1e9
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class JobOutputs:
    """`losses` are (step, loss), reduced to MAX_POINTS; `samples` are file names, oldest first."""

    progress: dict[str, Any] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def read_outputs(body: dict[str, Any], objects: Path) -> JobOutputs:
    """Read the job's output folder below `objects`."""
    folder = output_folder(body, objects)
    return JobOutputs(_progress(folder), _losses(folder), _samples(folder)) if folder else JobOutputs()


def output_folder(body: dict[str, Any], objects: Path) -> Path | None:
    """The folder of the job's first `during` sync, or None when it is not inside the bucket."""
    for entry in (body.get("sync") or {}).get("during") or []:
        bucket = objects / str(entry["bucket"])
        folder = (bucket / str(entry["prefix"])).resolve()
        if bucket.resolve() in folder.parents:
            return folder
    return None


def sample_path(body: dict[str, Any], objects: Path, name: str) -> Path | None:
    """The file of the sample `name`, or None when there is no such sample."""
    folder = output_folder(body, objects)
    if folder is None or Path(name).name != name or not name.endswith(IMAGE_SUFFIXES):
        return None
    path = folder / "samples" / name
    return path if path.is_file() else None


def _progress(folder: Path) -> dict[str, Any]:
    """Texts and numbers only. Jobs write the file, so long texts are cut off and huge numbers left out."""
    try:
        found = parse_json(_beginning(folder / "progress.json", MAX_PROGRESS_BYTES))
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    texts = {key: value[:MAX_TEXT_LENGTH] for key, value in entries if isinstance(value, str)}
    numbers = {key: value for key, value in entries if isinstance(value, int | float)}
    return texts | {key: value for key, value in numbers.items() if abs(value) <= MAX_NUMBER}


def _beginning(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _losses(folder: Path) -> list[tuple[int, float]]:
    """Read loss.csv (step,loss). Other lines and infinite losses are skipped."""
    try:
        lines = _beginning(folder / "loss.csv", MAX_LOSS_BYTES).decode("ascii", "replace").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        step, _, loss = line.partition(",")
        try:
            point = (int(step), float(loss))
        except ValueError:
            continue
        # NaN is left out too, because every comparison with it is false.
        if abs(point[0]) <= MAX_NUMBER and abs(point[1]) <= MAX_NUMBER:
            points.append(point)
    stride = -(-len(points) // MAX_POINTS) or 1
    # Take every n-th point counted from the end, so that the last point is always kept.
    return points[::-1][::stride][::-1]


def _samples(folder: Path) -> list[str]:
    try:
        names = (path.name for path in (folder / "samples").iterdir() if path.name.endswith(IMAGE_SUFFIXES))
        return sorted(heapq.nlargest(MAX_SAMPLES, names))
    except OSError:
        return []
