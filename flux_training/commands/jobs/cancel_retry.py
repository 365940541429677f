"""`flux cancel` and `flux retry`: they edit the stack's configuration and say what to do with it, and nothing else."""

from __future__ import annotations

from typing import Any

import rich_click as click

from flux_training.clients.results import queue_job, read_json
from flux_training.commands.cli import console, say, stack_option
from flux_training.commands.results.fetch import newest_run, results_place
from flux_training.commands.stack.access import connection_of, deployed_outputs, read_only_engine
from flux_training.commands.stack.edit import diff, edit_job
from flux_training.commands.stack.engine import project_root
from flux_training.commands.stack.file import stack_path, stack_settings
from flux_training.commands.watch.job_status import Sight, describe, look, stack_jobs
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import write_atomically
from flux_training.training.jobs.declare import choose, folder_names
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import JobSettings
from flux_training.training.values import count
from flux_training.training.words import nearest

dry_run_option = click.option("--dry-run", is_flag=True, help="Show the change and leave the file alone.")


@click.command()
@click.argument("job")
@dry_run_option
@stack_option
def cancel(job: str, dry_run: bool, stack: str) -> None:
    """Take JOB out of the stack's configuration: the next `make up` cancels it if it waits or runs. Its results stay.

    Writes `skip: true` into the job's entry in Pulumi.<stack>.yaml, shows the change, and does nothing else.
    """
    if _declared(stack, job).skip:
        say(
            f"{job} is taken out already: it says `skip: true` in Pulumi.{stack}.yaml. `make up STACK={stack}` acts on it."
        )
        return
    _edit(stack, job, f"Cancel {job}", dry_run, skip=True)
    say("To have it back, take `skip: true` out again. A run that has finished is not trained again by that.")


@click.command()
@click.argument("job")
@click.option(
    "--force",
    is_flag=True,
    help="Also when the job runs, waits or has finished: it is trained, and paid for, again.",
)
@dry_run_option
@stack_option
def retry(job: str, force: bool, dry_run: bool, stack: str) -> None:
    """Raise JOB's `attempt` in the stack's configuration: the next `make up` trains it again from the start.

    Shows the change in Pulumi.<stack>.yaml and does nothing else. Refuses while the job's last run is not a failed one.
    """
    declared = _declared(stack, job)
    tried, sight = _last_run(stack, job)
    if not declared.skip and tried is not None and declared.attempt > tried and not force:
        say(
            f"{job}: attempt {declared.attempt} is declared already and attempt {tried} is the last that was queued; "
            f"`make up STACK={stack}` queues it."
        )
        return
    if not force:
        _refuse_unless_failed(job, sight)
    attempt = max(declared.attempt, tried or 0) + 1
    _edit(stack, job, f"Train {job} again", dry_run, attempt=attempt, skip=None)


def _declared(stack: str, job: str) -> JobSettings:
    """The job's settings, also when they say `skip`. Raises BadInput when the configuration does not mean such a job."""
    settings = stack_settings(project_root(), stack)
    folder = project_root() / settings.jobs_folder
    entries = {name: entry.model_copy(update={"skip": False}) for name, entry in settings.jobs.items()}
    chosen, _ = choose(entries, folder_names(folder), settings.jobs_folder)
    if job not in chosen:
        raise BadInput(
            [
                f"{job}: Pulumi.{stack}.yaml declares no such job{nearest(job, chosen)}; it has {', '.join(sorted(chosen))}"
            ]
        )
    return settings.jobs.get(job, chosen[job])


def _last_run(stack: str, job: str) -> tuple[int | None, Sight | None]:
    """The attempt that was last queued, and how it is; nothing when the job never was. Raises ServiceError."""
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    connection = connection_of(engine, stack)
    bucket, prefix = results_place(outputs, stack)
    storage = connection.storage(bucket)
    last = next((one for one in stack_jobs(outputs) if one.name == job), None)
    # One that was canceled is in no output any more; its run is known to the bucket.
    last = last or newest_run(storage, Layout(prefix), job)
    if last is None:
        return None, None
    sight = look(last, queue_job(connection.kelpie(), last.kelpie_id), storage)
    attempt = (read_json(storage, last.keys.record) or {}).get("attempt")
    return count(attempt), sight


def _refuse_unless_failed(job: str, sight: Sight | None) -> None:
    """Raises FluxError: what still runs or is done would be paid for a second time."""
    if sight is None:
        raise FluxError(
            f"{job} has not been queued yet", "there is nothing to try again", "`make up` trains it"
        )
    if not sight.ended:
        raise FluxError(
            f"{job} has not ended: {describe(sight)}",
            "another attempt would cancel it and begin from nothing",
            f"wait, or `flux retry {job} --force`",
        )
    if sight.state == RunState.COMPLETED:
        raise FluxError(
            f"{job} has finished, its weights are sound",
            "another attempt would be paid for and give the same",
            f"change a caption or train.yml, or `flux retry {job} --force`",
        )


def _edit(stack: str, job: str, message: str, dry_run: bool, **settings: Any) -> None:
    path = stack_path(project_root(), stack)
    with path.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = edit_job(before, job, **settings)
    _show(diff(before, after, path.name))
    if dry_run:
        say("\nNothing was written (--dry-run).")
        return
    write_atomically(path, after)
    say(
        f"\nWritten. `make preview STACK={stack}` shows what it does, `make up STACK={stack}` does it; and for the others:"
    )
    say(f'  git commit -m "{message}" {path.name}')


def _show(text: str) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in text.splitlines():
        console.print(line, style=colours.get(line[:1], ""), highlight=False, markup=False)
