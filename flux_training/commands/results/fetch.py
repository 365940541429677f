"""`flux fetch`: copies weights, samples and losses of the stack's runs, current and earlier, to outputs/<stack>/."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.records import listed, read_record
from flux_training.clients.results import list_past_runs, posted_job_id
from flux_training.clients.storage import Storage
from flux_training.commands.cli import OUTPUTS, UserPath, outputs_folder, say_wrapped, screen, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.results.outputs import FetchOptions, FetchResult, fetch_results
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.declared import why_job_is_not_deployed
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_name, project_root
from flux_training.commands.watch.groups import prices_by_cluster
from flux_training.commands.watch.job_status import StackJob, job_status, stack_jobs
from flux_training.training.errors import BadInput
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import Layout
from flux_training.training.words import counted, make_command, nearest


@click.command(name="fetch")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option(
    "--run",
    "run_id",
    metavar="ID",
    help="Fetch this run of JOB instead of the newest. The first characters of its id are enough.",
)
@click.option("--all-runs", is_flag=True, help="Fetch every run in the bucket, of JOB or of all jobs.")
@click.option("--checkpoints", is_flag=True, help="Fetch the checkpoints too, to checkpoints/.")
@click.option(
    "--to",
    "folder",
    type=UserPath(file_okay=False, path_type=Path),
    help="Target folder. [default: outputs/<stack>/]",
)
@click.option("--force", is_flag=True, help="Overwrite files that differ from those in the bucket.")
@click.option(
    "--accept-changed-weights",
    "accept_changed",
    is_flag=True,
    help="Fetch the weights of JOB although they are not those that were verified first, and record these instead.",
)
@stack_option
def fetch_command(
    job: str | None,
    run_id: str | None,
    all_runs: bool,
    checkpoints: bool,
    folder: Path | None,
    force: bool,
    accept_changed: bool,
    stack: str,
) -> None:
    """Copy the results of JOB, or of all jobs, to outputs/<stack>/<job>/<run id>/.

    Continues an interrupted download, skips files that are up to date, verifies the weights, and keeps files that you changed.
    """
    if run_id and (all_runs or not job):
        raise click.UsageError("--run needs a JOB and cannot be combined with --all-runs")
    if accept_changed and (all_runs or not job):
        raise click.UsageError("--accept-changed-weights needs a JOB and cannot be combined with --all-runs")
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    connection = connect_to_services(engine, stack)
    bucket, prefix = results_location(outputs, stack)
    storage = connection.storage(bucket)
    deployed = stack_jobs(outputs, connection.nodes_reach_records)
    runs = run_with_id(storage, Layout(prefix), job, run_id) if accept_changed else []
    runs = runs or select_runs(storage, Layout(prefix), deployed, job, run_id, stack, all_runs=all_runs)
    prices = prices_by_cluster(connection, outputs)
    results = []
    for run in runs:
        with _progress_bar(f"{run.name} {run.run_id}") as (on_total, on_bytes):
            options = replace(
                default_fetch_options(stack, local=connection.cloud == "local"),
                force=force,
                accept_changed=accept_changed,
                checkpoints=checkpoints,
                on_total=on_total,
                on_bytes=on_bytes,
            )
            status = job_status(run, run.in_queue(connection.kelpie(), storage.bucket), storage)
            result = fetch_results(
                status, storage, folder or outputs_folder(stack), prices.get(run.cluster), options
            )
        say_wrapped(
            f"{run.name}: {result.folder} ({status.state}; files fetched: {result.new}, up to date: {result.kept})"
        )
        print_fetch_problems(result)
        results.append(result)
    if any(result.differing or result.failed for result in results):
        sys.exit(1)


def default_fetch_options(stack: str, *, local: bool) -> FetchOptions:
    """Those of `up`. `local`: the stack is on the local cloud. Raises BadInput if Pulumi.yaml cannot be read."""
    owner = f"{project_name(project_root())}/{stack}"
    return FetchOptions(stack=stack, owner=owner, local=local, adopt_from=Path(OUTPUTS))


def print_fetch_problems(result: FetchResult) -> None:
    """Print which files were not fetched, and why; and which were already here."""
    if result.adopted:
        old = Path(OUTPUTS) / result.folder.parent.name / result.folder.name
        say_wrapped(
            f"  taken from {old}, where earlier versions put results: {counted(result.adopted, 'file')}"
        )
    for name in result.differing:
        say_wrapped(
            f"  kept: {result.folder / name} differs from the file in the bucket; move it away, or fetch with --force"
        )
    for error in result.failed:
        say_wrapped(f"  failed: {error}")


def results_location(outputs: Mapping[str, Any], stack: str) -> tuple[str, str]:
    """Bucket and prefix: as deployed, or as declared after `destroy`, because results stay."""
    if outputs.get("bucket"):
        return str(outputs["bucket"]), str(outputs.get("prefix") or "")
    storage = stack_settings(project_root(), stack).storage
    return storage.bucket, storage.key_prefix


def run_with_id(storage: Storage, layout: Layout, job: str | None, run_id: str | None) -> list[StackJob]:
    """The run with this whole id if its weights are in the bucket, also without a record: the user says that it is one of the stack's."""
    if not (job and run_id and JOB_NAME.fullmatch(job) and RUN_ID.fullmatch(run_id)):
        return []
    is_there = storage.exists() and listed(storage, layout.run(job, run_id).done) is not None
    return [_past_run(storage, layout, job, run_id)] if is_there else []


def select_runs(
    storage: Storage,
    layout: Layout,
    deployed: Sequence[StackJob],
    job: str | None,
    run_id: str | None,
    stack: str,
    *,
    all_runs: bool,
) -> list[StackJob]:
    """The runs to fetch, oldest first; by default the deployed run of each job, or its newest. Raises BadInput if there is none."""
    if not run_id and not all_runs:
        chosen = [run for run in deployed if job in (None, run.name)]
        if chosen:
            return chosen
    names = sorted({name for name, _ in recorded_runs(storage, layout)}) if storage.exists() else []
    if job is not None and job not in names:
        why = why_job_is_not_deployed(job, stack) or f"it has runs of: {', '.join(names) or 'no job'}"
        raise BadInput(
            [f"{job}: no run of this job is in bucket {storage.bucket}{nearest(job, names)}; {why}"]
        )
    if not names:
        up = make_command("up", stack)
        raise BadInput([f"bucket {storage.bucket} contains no run; {up} trains the declared jobs"])
    found = []
    for name in [job] if job else names:
        ids = _run_ids(storage, layout, name)
        matching = [one for one in ids if not run_id or one.startswith(run_id)]
        if run_id and len(matching) != 1:
            problem = "several runs begin with this" if matching else "no such run"
            raise BadInput([f"--run {run_id}: {problem}; {name} has {', '.join(ids)}"])
        chosen_ids = matching if all_runs or run_id else matching[-1:]
        found += [_past_run(storage, layout, name, one) for one in chosen_ids]
    return found


def newest_run(storage: Storage, layout: Layout, name: str) -> StackJob | None:
    """The run of a job that was queued last; None if the bucket has none."""
    ids = _run_ids(storage, layout, name) if storage.exists() else []
    return _past_run(storage, layout, name, ids[-1]) if ids else None


def _run_ids(storage: Storage, layout: Layout, name: str) -> list[str]:
    """Oldest first."""
    return [
        run.run_id for run in sorted(list_past_runs(storage, layout, name), key=lambda run: run.created_at)
    ]


def _past_run(storage: Storage, layout: Layout, name: str, run_id: str) -> StackJob:
    keys = layout.run(name, run_id)
    record = read_record(storage, keys.record, RunRecord).value or RunRecord()
    return StackJob(name, run_id, posted_job_id(storage, keys), record.steps, keys)


@contextmanager
def _progress_bar(label: str) -> Iterator[tuple[Any, Any]]:
    """The callbacks of FetchOptions."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield (lambda size: progress.update(task, total=size)), (lambda size: progress.advance(task, size))
