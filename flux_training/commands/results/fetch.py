"""`flux fetch`: weights, samples and loss curves of the stack's runs, also of those before."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.clients.connection import Connection
from flux_training.clients.results import past_runs, queue_job, read_json
from flux_training.clients.storage import Storage
from flux_training.commands.cli import OUTPUTS, UserPath, say, screen, stack_option
from flux_training.commands.results.outputs import Fetched, Options, fetch
from flux_training.commands.stack.access import connection_of, deployed_outputs, read_only_engine
from flux_training.commands.stack.engine import project_root
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.watch.job_status import StackJob, look, stack_jobs
from flux_training.commands.watch.watcher import price_of
from flux_training.training.errors import BadInput
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.run import Layout
from flux_training.training.values import count
from flux_training.training.words import nearest


@click.command(name="fetch")
@click.argument("job", required=False)
@click.option(
    "--run",
    "run_id",
    metavar="ID",
    help="This run of JOB instead of the newest; a beginning of its id will do.",
)
@click.option("--all-runs", is_flag=True, help="Every run that the bucket holds, of JOB or of all jobs.")
@click.option("--checkpoints", is_flag=True, help="The checkpoints between as well, below checkpoints/.")
@click.option(
    "--to", "folder", type=UserPath(file_okay=False, path_type=Path), help="Where to. [default: outputs/]"
)
@click.option("--force", is_flag=True, help="Overwrite files that are not what is in the bucket.")
@stack_option
def fetch_command(
    job: str | None,
    run_id: str | None,
    all_runs: bool,
    checkpoints: bool,
    folder: Path | None,
    force: bool,
    stack: str,
) -> None:
    """Bring the results of JOB, or of all jobs, to outputs/<job>/<run id>/.

    Goes on where it was interrupted, skips what is there, checks the weights by their SHA-256, and leaves alone what you changed.
    """
    if run_id and (all_runs or not job):
        raise click.UsageError("--run names one run of one JOB")
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    connection = connection_of(engine, stack)
    bucket, prefix = results_place(outputs, stack)
    storage = connection.storage(bucket)
    wanted = _choose(storage, Layout(prefix), stack_jobs(outputs), job, run_id, all_runs)
    price = price_of(connection, outputs)
    results = [
        _fetch_one(one, connection, storage, folder or Path(OUTPUTS), price, checkpoints, force)
        for one in wanted
    ]
    if any(result.differing or result.failed for result in results):
        sys.exit(1)


def report_left(result: Fetched) -> None:
    """Say what was not fetched, and why."""
    for name in result.differing:
        say(
            f"  left alone: {result.place / name} is not what is in the bucket; move it away, or fetch with --force"
        )
    for fault in result.failed:
        say(f"  failed: {fault}")


def _fetch_one(
    job: StackJob,
    connection: Connection,
    storage: Storage,
    folder: Path,
    price: float | None,
    checkpoints: bool,
    force: bool,
) -> Fetched:
    sight = look(job, queue_job(connection.kelpie(), job.kelpie_id), storage)
    with _bar(f"{job.name} {job.run_id}") as (expect, told):
        result = fetch(sight, storage, folder, price, Options(force, checkpoints, expect, told))
    say(
        f"{job.name}: {result.place} ({sight.state}; files fetched: {result.new}, there already: {result.kept})"
    )
    report_left(result)
    return result


def results_place(outputs: Mapping[str, Any], stack: str) -> tuple[str, str]:
    """Bucket and prefix: as deployed, else as declared, since results outlive the stack."""
    if outputs.get("bucket"):
        return str(outputs["bucket"]), str(outputs.get("prefix") or "")
    storage = stack_settings(project_root(), stack).storage
    return storage.bucket, storage.key_prefix


def _choose(
    storage: Storage,
    layout: Layout,
    deployed: Sequence[StackJob],
    job: str | None,
    run_id: str | None,
    all_runs: bool,
) -> list[StackJob]:
    """The runs to fetch, older ones first. Raises BadInput when there is none such."""
    if not run_id and not all_runs:
        chosen = [one for one in deployed if job in (None, one.name)]
        if chosen:
            return chosen
    # Nodes may write below runs/: a name that is none of ours would choose a folder here.
    names = (
        [name for name in storage.list_folders(layout.runs) if JOB_NAME.fullmatch(name)]
        if storage.exists()
        else []
    )
    if job is not None and job not in names:
        raise BadInput([f"{job}: no run of this job is in bucket {storage.bucket}{nearest(job, names)}"])
    if not names:
        raise BadInput([f"bucket {storage.bucket} holds no run yet; `make up` trains the declared jobs"])
    found = []
    for name in [job] if job else names:
        known_runs = [run for run in past_runs(storage, layout, name) if RUN_ID.fullmatch(run.run_id)]
        runs = sorted(known_runs, key=lambda run: run.created_at)
        ids = [run.run_id for run in runs if not run_id or run.run_id.startswith(run_id)]
        if run_id and len(ids) != 1:
            known = ", ".join(run.run_id for run in runs)
            raise BadInput(
                [f"--run {run_id}: {'several runs begin so' if ids else 'no such run'}; {name} has {known}"]
            )
        found += [_past_job(storage, layout, name, one) for one in (ids if all_runs or run_id else ids[-1:])]
    return found


def newest_run(storage: Storage, layout: Layout, name: str) -> StackJob | None:
    """The run of a job that was queued last; None when the bucket knows of none."""
    if not storage.exists():
        return None
    runs = sorted(past_runs(storage, layout, name), key=lambda run: run.created_at)
    return _past_job(storage, layout, name, runs[-1].run_id) if runs else None


def _past_job(storage: Storage, layout: Layout, name: str, run_id: str) -> StackJob:
    keys = layout.run(name, run_id)
    record, posted = read_json(storage, keys.record) or {}, read_json(storage, keys.posted) or {}
    return StackJob(name, run_id, str(posted.get("kelpie_id") or ""), count(record.get("steps")) or 0, keys)


@contextmanager
def _bar(label: str) -> Iterator[tuple[Any, Any]]:
    """Two functions, for bytes to come and bytes come: a bar on a terminal, nothing elsewhere."""
    if not screen.is_terminal:
        yield (lambda _: None), (lambda _: None)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield (lambda size: progress.update(task, total=size)), (lambda size: progress.advance(task, size))
