"""`flux cancel` and `flux retry`: edit the stack file and print the next step. They do not change anything else."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rich_click as click

from flux_training.clients.results import inputs_of_run
from flux_training.commands.cli import console, say, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.results.fetch import newest_run, results_location
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.edit import edit_job, jobs_key, unified_diff
from flux_training.commands.stack.file import stack_path, stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.job_status import JobStatus, describe_status, job_status, stack_jobs
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import write_atomically
from flux_training.training.jobs.cap import cap_steps
from flux_training.training.jobs.declare import choose_jobs, job_folder_names
from flux_training.training.jobs.folder import read_config, read_images
from flux_training.training.runs.changes import Inputs, find_changes
from flux_training.training.runs.run import ATTEMPT_VARIABLE, Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import JobSettings
from flux_training.training.values import MAX_ATTEMPT
from flux_training.training.words import flux_command, make_command, nearest

dry_run_option = click.option("--dry-run", is_flag=True, help="Show the change without writing it.")


@dataclass(frozen=True)
class LastRun:
    """The attempt of a job that was last queued, its status, and what it was made from; each None if unknown."""

    attempt: int | None = None
    status: JobStatus | None = None
    inputs: Inputs | None = None


@click.command()
@click.argument("job", shell_complete=complete_job)
@dry_run_option
@stack_option
def cancel(job: str, dry_run: bool, stack: str) -> None:
    """Cancel JOB with the next `make up`. Its results stay.

    Adds `skip: true` to the job's entry in Pulumi.<stack>.yaml and shows the change. Changes nothing else.
    """
    if _declared_settings(stack, job).skip:
        say_wrapped(
            f"{job} has `skip: true` in Pulumi.{stack}.yaml already. Next: {make_command('up', stack)} cancels it."
        )
        return
    _edit(stack, job, f"Cancel {job}", dry_run, skip=True)
    say_wrapped("To train it again, remove `skip: true`. A run that has finished is not repeated by that.")


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--force",
    is_flag=True,
    help="Also if the job is queued, running or finished: it is trained, and paid for, again.",
)
@dry_run_option
@stack_option
def retry(job: str, force: bool, dry_run: bool, stack: str) -> None:
    """Train JOB again from the start with the next `make up`.

    Increases the job's `attempt` in Pulumi.<stack>.yaml, removes its `skip: true`, and shows the change. Changes nothing
    else. Refuses unless the job's last run failed.
    """
    declared = _declared_settings(stack, job)
    last = _last_run(stack, job)
    attempted, status = last.attempt, last.status
    is_declared = attempted is not None and declared.attempt > attempted
    if is_declared and not declared.skip:
        say_wrapped(
            f"{job}: attempt {declared.attempt} is declared already, attempt {attempted} was the last one queued. "
            f"Next: {make_command('up', stack)} queues it."
        )
        return
    if not force or status is None:
        changes = _changes_since(stack, job, declared, last.inputs)
        refuse_unless_failed(stack, job, status, changes, is_skipped=declared.skip)
    attempt = (
        declared.attempt if is_declared else next_attempt(stack, job, max(declared.attempt, attempted or 0))
    )
    if declared.skip:
        say_wrapped(
            f"{job} has `skip: true`, which keeps it canceled; this removes it, so that the job is trained again:\n"
        )
    _edit(stack, job, f"Train {job} again", dry_run, attempt=attempt, skip=None)


def _declared_settings(stack: str, job: str) -> JobSettings:
    """The job's settings, even if it has `skip`. Raises BadInput if the stack file does not declare it."""
    settings = stack_settings(project_root(), stack)
    folder = project_root() / settings.jobs_folder
    entries = {name: entry.model_copy(update={"skip": False}) for name, entry in settings.jobs.items()}
    declared, _ = choose_jobs(entries, job_folder_names(folder), settings.jobs_folder)
    if job not in declared:
        known = f"{nearest(job, declared)}; it has {', '.join(sorted(declared))}"
        raise BadInput([f"{job}: Pulumi.{stack}.yaml declares no such job{known}"])
    return settings.jobs.get(job, declared[job])


def _last_run(stack: str, job: str) -> LastRun:
    """Raises ServiceError."""
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    connection = connect_to_services(engine, stack)
    bucket, prefix = results_location(outputs, stack)
    storage = connection.storage(bucket)
    last = next((deployed for deployed in stack_jobs(outputs) if deployed.name == job), None)
    # A canceled job is no longer in the outputs, but its runs are in the bucket.
    last = last or newest_run(storage, Layout(prefix), job)
    if last is None:
        return LastRun()
    status = job_status(last, last.in_queue(connection.kelpie(), bucket), storage)
    inputs = inputs_of_run(storage, last.keys)
    return LastRun(attempt_of(status, inputs), status, inputs)


def _changes_since(stack: str, job: str, declared: JobSettings, before: Inputs | None) -> Sequence[str]:
    """What was changed in the job's folder since a run, in words; nothing if the folder has mistakes, which lint reports."""
    if before is None:
        return ()
    with suppress(FluxError, OSError):
        settings = stack_settings(project_root(), stack)
        jobs = project_root() / settings.jobs_folder
        manifest = read_images(jobs / (declared.dataset or job), jobs / job).manifest
        config = cap_steps(read_config(jobs / job), settings.max_steps).raw_config
        return find_changes(before, Inputs(manifest, config, before.attempt, before.parent)).details
    return ()


def attempt_of(status: JobStatus, inputs: Inputs | None) -> int | None:
    """The attempt of a run, by its job in the queue, which nodes cannot write, or by what its id was made from."""
    queued = status.queue_job.environment.get(ATTEMPT_VARIABLE, "") if status.queue_job else ""
    if queued.isdecimal():
        return int(queued)
    return inputs.attempt if inputs else None


def next_attempt(stack: str, job: str, last: int) -> int:
    """Raises BadInput if there is none."""
    if last >= MAX_ATTEMPT:
        raise BadInput(
            [
                f"{job}: attempt {last} is the highest; set a lower `attempt` that was not used yet in Pulumi.{stack}.yaml"
            ]
        )
    return last + 1


def refuse_unless_failed(
    stack: str,
    job: str,
    status: JobStatus | None,
    changes: Sequence[str] = (),
    *,
    is_skipped: bool = False,
) -> None:
    """Raises FluxError unless the run failed: anything else would be paid for twice.

    `changes`: those in the job's folder since the run. `is_skipped`: whether the stack file has the job with `skip: true`.
    """
    if status is None:
        raise FluxError(
            f"{job} has not been queued yet",
            "there is nothing to retry",
            f"{make_command('up', stack)} trains it",
        )
    force = flux_command(f"retry {job} --force", stack)
    if not status.has_ended:
        rule = "another attempt would cancel it and start from the beginning"
        raise FluxError(f"{job} has not ended: {describe_status(status)}", rule, f"wait, or {force}")
    if status.state == RunState.COMPLETED:
        up = make_command("up", stack)
        remove = (
            f"remove `skip: true` from `{job}` in Pulumi.{stack}.yaml, which keeps the job from being trained"
        )
        if changes:
            step = f"{remove}, then {up} trains it with that" if is_skipped else f"{up} trains it with that"
            raise FluxError(f"{job} has finished, and was changed since: {', '.join(changes)}", "", step)
        rule = "another attempt would cost money and give the same weights"
        change = (
            f"change a caption or train.yml and {remove}" if is_skipped else "change a caption or train.yml"
        )
        raise FluxError(f"{job} has finished, its weights are sound", rule, f"{change}, or {force}")


def _edit(stack: str, job: str, message: str, dry_run: bool, **settings: Any) -> None:
    path = stack_path(project_root(), stack)
    with path.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = edit_job(before, jobs_key(project_root()), job, **settings)
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in unified_diff(before, after, path.name).splitlines():
        console.print(line, style=colours.get(line[:1], ""), highlight=False, markup=False)
    if dry_run:
        say_wrapped("\nNothing was written (--dry-run).")
        return
    write_atomically(path, after)
    say_wrapped(
        f"\nWritten. Next: {make_command('preview', stack)} shows the effect, {make_command('up', stack)} applies it. To share the change:"
    )
    say(f'  git commit -m "{message}" {path.name}')
