"""A fetched run in outputs/<stack>/<job>/<run id>/. Its files are not trusted; what is missing or invalid is left empty."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from flux_training.commands.results.download import sha256_of_file
from flux_training.commands.results.outputs import RECORD, read_mapping, read_text
from flux_training.training.errors import BadInput
from flux_training.training.models.choice import describe_model
from flux_training.training.names import JOB_NAME, dataset_path, folder_of
from flux_training.training.runs.loss_curve import Point, parse_losses
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run import NOISE_STAGES
from flux_training.training.runs.samples import Sample, prompts_of, sample_grid
from flux_training.training.train_yml.dataset_folders import folder_uses
from flux_training.training.train_yml.document import first_process
from flux_training.training.train_yml.trainer_config import parse_train_yml
from flux_training.training.untrusted import parse_record
from flux_training.training.values import mapping
from flux_training.training.words import flux_command, list_first, make_command, nearest

PAGE = "report.html"


@dataclass(frozen=True)
class ReportedRun:
    """One run's folder. Files are read when they are needed."""

    job: str
    run_id: str
    folder: Path

    @cached_property
    def record(self) -> Mapping[str, Any]:
        return read_mapping(self.folder / RECORD)

    @cached_property
    def progress(self) -> RunProgress:
        raw = read_text(self.folder / "progress.json").encode()
        return parse_record(raw, RunProgress).value or RunProgress()

    @cached_property
    def done(self) -> Mapping[str, Any]:
        return read_mapping(self.folder / "done.json")

    @property
    def stage_digests(self) -> Mapping[str, Any]:
        """The SHA-256 of the file of each noise stage; empty for a LoRA of one file."""
        return mapping(self.done.get("stages"))

    @property
    def weights(self) -> list[Path]:
        """The files of the finished LoRA, which need not be here: one, or one for each noise stage."""
        stages = [self.folder / f"{self.job}_{stage}.safetensors" for stage in NOISE_STAGES]
        return stages if self.stage_digests else [self.folder / f"{self.job}.safetensors"]

    @cached_property
    def losses(self) -> list[Point]:
        return parse_losses(read_text(self.folder / "loss.csv"))

    @cached_property
    def config_text(self) -> str:
        return read_text(self.folder / "train.yml")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """train.yml as the trainer reads it; empty if it cannot be read."""
        return parse_train_yml(self.config_text.encode())

    @property
    def weights_in_image(self) -> str:
        """The id of what the image's `/model` held; empty for the runs of earlier versions, whose records do not say it."""
        return str(self.record.get("weights_in_image") or "")

    @cached_property
    def base_model(self) -> str:
        """The model that was trained, with its licence where the table of models knows it."""
        return describe_model(first_process(self.config).get("model"), self.weights_in_image)

    @cached_property
    def prompts(self) -> list[str]:
        return prompts_of(self.config)

    @cached_property
    def trigger(self) -> str:
        return str(first_process(self.config).get("trigger_word") or "")

    @cached_property
    def images(self) -> dict[str, Mapping[str, Any]]:
        """Size, SHA-256 and caption by name, from the run's manifest."""
        images = mapping(read_mapping(self.folder / "manifest.json").get("images"))
        return {str(name): entry for name, entry in images.items() if isinstance(entry, Mapping)}

    @cached_property
    def captions(self) -> dict[str, str]:
        """Of the trained images: control images and masks have none."""
        return {
            name: str(entry.get("caption") or "") for name, entry in self.images.items() if "caption" in entry
        }

    @cached_property
    def partners(self) -> dict[str, list[str]]:
        """The control images and masks of each trained image, as its train.yml pairs them."""
        uses = folder_uses(first_process(self.config))
        names = {(folder_of(name), PurePath(name).stem): name for name in self.images}
        found: dict[str, list[str]] = {}
        for image in self.captions:
            folders = [use.folder for use in uses if use.is_paired and use.images == folder_of(image)]
            places = [(folder, PurePath(image).stem) for folder in dict.fromkeys(folders)]
            found[image] = [names[place] for place in places if place in names]
        return found

    @cached_property
    def samples(self) -> dict[int, dict[int, Sample]]:
        folder = self.folder / "samples"
        return sample_grid(path.name for path in folder.iterdir()) if folder.is_dir() else {}

    @property
    def is_stand_in(self) -> bool:
        """Whether the stand-in trainer of the local cloud made it, at example prices."""
        return self.record.get("stand_in") is True

    @property
    def created_at(self) -> str:
        return str(self.record.get("created_at") or "")


def fetched_runs(outputs: Path, job: str) -> list[ReportedRun]:
    """The fetched runs of a job, oldest first."""
    runs = [ReportedRun(job, path.parent.name, path.parent) for path in (outputs / job).glob(f"*/{RECORD}")]
    return sorted(runs, key=lambda run: (run.created_at, run.run_id))


def newest_runs(outputs: Path, jobs: tuple[str, ...], stack: str) -> list[ReportedRun]:
    """The newest run of each of these jobs, or of all jobs. Raises BadInput."""
    known = sorted({path.parent.parent.name for path in outputs.glob(f"*/*/{RECORD}")})
    unknown = [job for job in jobs if job not in known]
    if unknown:
        raise BadInput(
            [f"{job}: {outputs} has no run of it{_where_to_look(job, known, stack)}" for job in unknown]
        )
    if not known:
        raise BadInput(
            [
                f"{outputs} has no run; {make_command('up', stack)} trains the jobs, "
                f"{flux_command('fetch', stack)} gets runs from the bucket"
            ]
        )
    return [fetched_runs(outputs, job)[-1] for job in jobs or known]


def _where_to_look(job: str, known: Sequence[str], stack: str) -> str:
    """What to type in place of a job without fetched runs. Nothing is fetched for a misspelling or a pattern."""
    if matching := fnmatch.filter(known, job):
        return f"; write the names of the jobs: {' '.join(matching)}"
    if similar := nearest(job, known):
        return similar
    if not JOB_NAME.fullmatch(job):
        return f", and this is no name of a job; it has runs of {list_first(known)}" if known else ""
    return f"; {flux_command(f'fetch {job}', stack)} gets it if the stack has trained such a job"


def select_run(outputs: Path, job: str, run_id: str | None, stack: str) -> ReportedRun:
    """The fetched run of a job whose id begins with `run_id`, or its newest. Raises BadInput."""
    newest = newest_runs(outputs, (job,), stack)[0]
    if run_id is None:
        return newest
    runs = fetched_runs(outputs, job)
    matching = [run for run in runs if run.run_id.startswith(run_id)]
    if len(matching) != 1:
        problem = "several runs begin with this" if matching else "no such run"
        raise BadInput(
            [f"--run {run_id}: {problem}; {outputs} has {', '.join(run.run_id for run in runs)} of {job}"]
        )
    return matching[0]


def run_label(run: ReportedRun, runs: Sequence[ReportedRun]) -> str:
    """The job's name, with the run id if the job occurs twice."""
    is_unique = sum(other.job == run.job for other in runs) == 1
    return run.job if is_unique else f"{run.job} {run.run_id[:6]}"


def run_to_compare_with(run: ReportedRun, outputs: Path) -> tuple[ReportedRun | None, str]:
    """The run to compare with, and a description: the run that it resumed, otherwise the one before it."""
    others = [other for other in fetched_runs(outputs, run.job) if other.run_id != run.run_id]
    parent = run.record.get("parent")
    if parent:
        return next((other for other in others if other.run_id == parent), None), f"its parent run {parent}"
    before = [other for other in others if other.created_at < run.created_at]
    return (before[-1], f"the run before it, {before[-1].run_id}") if before else (None, "")


def find_images(run: ReportedRun, jobs_folder: Path) -> dict[str, Path]:
    """The images that this run was trained on, if a job folder still has the same bytes."""
    found: dict[str, Path] = {}
    for name, entry in run.images.items():
        for path in _candidate_images(name, run.job, jobs_folder):
            if path.stat().st_size == entry.get("size") and sha256_of_file(path) == entry.get("sha256"):
                found[name] = path
                break
    return found


def _candidate_images(name: str, job: str, jobs_folder: Path) -> Iterator[Path]:
    folders = sorted(jobs_folder.iterdir()) if jobs_folder.is_dir() else []
    for folder in (jobs_folder / job, *folders):
        path = dataset_path(folder, name)
        if path is not None and path.is_file():
            yield path
