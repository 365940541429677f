"""A fetched run as its folder tells it: outputs/<job>/<run id>/. Nothing in it is trusted; what is missing stays empty."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flux_training.commands.results.outputs import RECORD
from flux_training.training.errors import BadInput
from flux_training.training.runs.loss_curve import Point, parse_losses
from flux_training.training.runs.progress import Progress, read_progress
from flux_training.training.runs.samples import Sample, prompts_of, sample_grid
from flux_training.training.train_yml.document import first_process
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, document_of
from flux_training.training.words import nearest

# A folder of a run holds nothing of this size but weights and pictures.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ReportedRun:
    """One run's folder; everything is read when it is asked for."""

    job: str
    run_id: str
    folder: Path

    @cached_property
    def record(self) -> Mapping[str, Any]:
        return read_mapping(self.folder / RECORD)

    @cached_property
    def progress(self) -> Progress:
        return read_progress(read_mapping(self.folder / "progress.json"))

    @cached_property
    def done(self) -> Mapping[str, Any]:
        return read_mapping(self.folder / "done.json")

    @cached_property
    def losses(self) -> list[Point]:
        return parse_losses(read_text(self.folder / "loss.csv"))

    @cached_property
    def config_text(self) -> str:
        return read_text(self.folder / "train.yml")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """train.yml as the trainer reads it; empty when it cannot be read."""
        return document_of(self.config_text.encode())

    @cached_property
    def prompts(self) -> list[str]:
        return prompts_of(self.config)

    @cached_property
    def trigger(self) -> str:
        return str(first_process(self.config).get("trigger_word") or "")

    @cached_property
    def images(self) -> dict[str, Mapping[str, Any]]:
        """By name: size, sha256, caption, as the run's manifest has them."""
        images = read_mapping(self.folder / "manifest.json").get("images")
        entries = images.items() if isinstance(images, Mapping) else []
        return {str(name): entry for name, entry in entries if isinstance(entry, Mapping)}

    @cached_property
    def captions(self) -> dict[str, str]:
        return {name: str(entry.get("caption") or "") for name, entry in self.images.items()}

    @cached_property
    def samples(self) -> dict[int, dict[int, Sample]]:
        folder = self.folder / "samples"
        return sample_grid(path.name for path in folder.iterdir()) if folder.is_dir() else {}

    @property
    def created_at(self) -> str:
        return str(self.record.get("created_at") or "")


def runs_of(outputs: Path, job: str) -> list[ReportedRun]:
    """The fetched runs of a job, oldest first."""
    folder = outputs / job
    found = [
        ReportedRun(job, path.name, path)
        for path in (folder.iterdir() if folder.is_dir() else [])
        if (path / RECORD).is_file()
    ]
    return sorted(found, key=lambda run: (run.created_at, run.run_id))


def jobs_in(outputs: Path) -> list[str]:
    """The jobs of which a run was fetched."""
    folders = sorted(path.name for path in outputs.iterdir() if path.is_dir()) if outputs.is_dir() else []
    return [name for name in folders if runs_of(outputs, name)]


def newest_runs(outputs: Path, jobs: tuple[str, ...]) -> list[ReportedRun]:
    """The newest run of each of these jobs, of all for none. Raises BadInput."""
    known = jobs_in(outputs)
    strangers = [job for job in jobs if job not in known]
    if strangers:
        raise BadInput(
            [
                f"{job}: no run of it lies in {outputs}{nearest(job, known)}; `flux fetch {job}` brings it"
                for job in strangers
            ]
        )
    if not known:
        raise BadInput(
            [f"{outputs} holds no run yet; `make up` trains one, `flux fetch` brings those of the bucket"]
        )
    return [runs_of(outputs, job)[-1] for job in jobs or known]


def parent_of(run: ReportedRun, outputs: Path) -> tuple[ReportedRun | None, str]:
    """The run to compare with, and how it is called: the one it went on from, else the one before."""
    others = [other for other in runs_of(outputs, run.job) if other.run_id != run.run_id]
    parent = run.record.get("parent")
    if parent:
        return next((other for other in others if other.run_id == parent), None), f"its parent run {parent}"
    before = [other for other in others if other.created_at < run.created_at]
    return (before[-1], f"the run before it, {before[-1].run_id}") if before else (None, "")


def find_images(run: ReportedRun, jobs_folder: Path) -> dict[str, Path]:
    """The images this run was trained on, by name, where a job folder still holds the same bytes."""
    found: dict[str, Path] = {}
    for name, entry in run.images.items():
        for path in _candidates(name, run.job, jobs_folder):
            if path.stat().st_size == entry.get("size") and _sha256(path) == entry.get("sha256"):
                found[name] = path
                break
    return found


def read_text(path: Path) -> str:
    """Empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def read_mapping(path: Path) -> Mapping[str, Any]:
    """Empty when it is no JSON object."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _candidates(name: str, job: str, jobs_folder: Path) -> Iterator[Path]:
    if Path(name).name != name or not jobs_folder.is_dir():
        return
    for folder in (jobs_folder / job, *sorted(jobs_folder.iterdir())):
        path = folder / DATASET_FOLDER / name
        if path.is_file():
            yield path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
