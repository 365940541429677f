"""`flux list`: the job folders of a stack, and the runs in outputs/<stack>/."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from rich.table import Table

from flux_training.commands.cli import outputs_folder, say_wrapped, screen, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.jobs.folders import HERE, find_job_folder, jobs_folder
from flux_training.commands.report.runs import ReportedRun, fetched_runs
from flux_training.commands.results.outputs import RECORD
from flux_training.commands.stack.edit import declared_jobs, job_entry
from flux_training.commands.stack.file import steps_limit
from flux_training.training.bill import show_dollars
from flux_training.training.jobs.declare import job_folder_names
from flux_training.training.names import CAPTION_SUFFIX, DATASET_FOLDER, MEDIA_SUFFIXES
from flux_training.training.runs.progress import loss_note
from flux_training.training.train_yml.diff import setting_changes
from flux_training.training.train_yml.trainer_config import TrainerFile, read_trainer_file
from flux_training.training.values import mapping, number
from flux_training.training.words import flux_command, make_command

NOTHING = "-"


@dataclass(frozen=True)
class ListedJob:
    """A job folder. `dataset` names the job whose images it uses, if not its own; `steps` are those that the stack would train, None if train.yml has no valid number.

    `changes`: the settings that differ from those of the job whose images it uses, as of a sweep.
    """

    name: str
    is_declared: bool
    dataset: str
    images: int
    captions: int
    steps: int | None
    runs: list[ReportedRun]
    changes: list[str]


@click.command(name="list")
@click.argument("job", required=False, shell_complete=complete_job)
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(job: str | None, stack: str, as_json: bool) -> None:
    """List the job folders and their runs in outputs/<stack>/; with JOB, its runs. Asks no service.

    `flux status` shows what the deployed jobs are doing.
    """
    folder = jobs_folder(HERE, stack)
    former = _former_jobs(outputs_folder(stack), job_folder_names(folder))
    names = [job if job in former else find_job_folder(folder, job).name] if job else job_folder_names(folder)
    entries = declared_jobs(HERE, stack)
    limit = steps_limit(HERE, stack)
    jobs = [_read(folder / name, job_entry(entries, name), stack, limit) for name in names]
    if as_json:
        click.echo(
            json.dumps({"version": 1, "stack": stack, "jobs": [_jobs_as_json(one) for one in jobs]}, indent=2)
        )
    elif not jobs and not former:
        say_wrapped(
            f"{folder} has no job folder: {flux_command('new NAME --from FOLDER', stack)} makes one from photos"
        )
    elif job:
        _print_runs(jobs[0], stack)
    else:
        _print_jobs(jobs)
        if limit is not None:
            say_wrapped(f"maxSteps in Pulumi.{stack}.yaml limits each training to {limit:,} steps")
        if former:
            runs = flux_command(f"list {former[0]}", stack)
            say_wrapped(
                f"{outputs_folder(stack)}/ also has runs of jobs without a folder: {', '.join(former)}; {runs} lists them"
            )


def _former_jobs(outputs: Path, folders: Sequence[str]) -> list[str]:
    """The jobs that have fetched runs, but whose folder was deleted."""
    return sorted({path.parent.parent.name for path in outputs.glob(f"*/*/{RECORD}")} - set(folders))


def _read(path: Path, entry: dict[str, Any] | None, stack: str, limit: int | None) -> ListedJob:
    shared = str((entry or {}).get("dataset") or "")
    dataset = (path.parent / shared if shared else path) / DATASET_FOLDER
    files = list(dataset.iterdir()) if dataset.is_dir() else []
    images = [file for file in files if file.suffix.lower() in MEDIA_SUFFIXES]
    captions = sum(file.with_suffix(CAPTION_SUFFIX) in files for file in images)
    is_declared = entry is not None and not entry.get("skip")
    file, runs = read_trainer_file(path), fetched_runs(outputs_folder(stack), path.name)
    changes = _changed_settings(read_trainer_file(path.parent / shared), file) if shared else []
    steps = file.steps if file.steps is None or limit is None else min(file.steps, limit)
    return ListedJob(path.name, is_declared, shared, len(images), captions, steps, runs, changes)


def _changed_settings(base: TrainerFile, file: TrainerFile) -> list[str]:
    """`learning rate 1e-4 → 2e-4` for each setting of the training that differs."""
    before, after = ({"config": {"process": [one.process]}} for one in (base, file))
    return [f"{change.key} {change.before} → {change.after}" for change in setting_changes(before, after)]


def _print_jobs(jobs: list[ListedJob]) -> None:
    table = _table("Job", "Declared", "Images", "Captions", "Steps", "Runs", "Newest run")
    for job in jobs:
        images = f"{job.images} of {job.dataset}" if job.dataset else str(job.images)
        newest = job.runs[-1] if job.runs else None
        table.add_row(
            job.name,
            "yes" if job.is_declared else "no",
            images,
            str(job.captions),
            NOTHING if job.steps is None else str(job.steps),
            str(len(job.runs)),
            f"{newest.run_id} {_state(newest)}" if newest else NOTHING,
        )
    screen.print(table)
    for job in jobs:
        if job.changes:
            say_wrapped(f"{job.name}: {job.dataset} with {', '.join(job.changes)}")


def _print_runs(job: ListedJob, stack: str) -> None:
    if not job.runs:
        fetch, up = flux_command(f"fetch {job.name}", stack), make_command("up", stack)
        say_wrapped(
            f"{job.name}: {outputs_folder(stack)}/ has no run of it; {fetch} gets it if the stack has trained it already; "
            + (
                f"otherwise {up} trains it"
                if job.is_declared
                else f"{up} does not train it: it is not declared, or has `skip: true`"
            )
        )
        return
    table = _table("Run", "Queued", "State", "Steps", "Loss", "Cost")
    for run in job.runs:
        loss, cost = run.progress.loss, _cost(run)
        table.add_row(
            run.run_id,
            run.created_at[:16].replace("T", " "),
            _state(run),
            f"{run.progress.step or 0}/{run.progress.steps or 0}",
            NOTHING if loss is None else f"{loss:.4f}",
            NOTHING if cost is None else show_dollars(cost) + (" (example)" if run.is_stand_in else ""),
        )
    screen.print(table)
    if note := loss_note(run.progress for run in job.runs):
        say_wrapped(note)
    say_wrapped(f"\n{flux_command(f'open {job.name}', stack)} opens the page of the newest run")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index, title in enumerate(titles):
        # In a narrow terminal, other columns wrap so that job names stay whole.
        table.add_column(title, no_wrap=index == 0)
    return table


def _state(run: ReportedRun) -> str:
    return str(run.record.get("state") or NOTHING)


def _cost(run: ReportedRun) -> float | None:
    return number(mapping(run.record.get("cost")).get("actualUsd"))


def _jobs_as_json(job: ListedJob) -> dict[str, Any]:
    return {
        "name": job.name,
        "declared": job.is_declared,
        "dataset": job.dataset or job.name,
        "images": job.images,
        "captions": job.captions,
        "steps": job.steps,
        "changes": job.changes,
        "runs": [
            {
                "run_id": run.run_id,
                "created_at": run.created_at,
                "state": _state(run),
                "step": run.progress.step,
                "loss": run.progress.loss,
                "cost_usd": _cost(run),
                "stand_in": run.is_stand_in,
                "folder": str(run.folder),
            }
            for run in job.runs
        ],
    }
