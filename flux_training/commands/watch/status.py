"""`flux status`: the status of the stack's jobs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.console import Console

from flux_training.commands.cli import say_wrapped, screen, stack_option
from flux_training.commands.stack.access import deployed_outputs, read_only_engine
from flux_training.commands.stack.declared import undeployed_jobs, why_nothing_is_deployed
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.deployed import watch_deployed_jobs
from flux_training.commands.watch.follow import follow_until_ended, queue_silent_again
from flux_training.commands.watch.table import render_status_table, steps_done
from flux_training.commands.watch.watcher import JobRow, StackStatus
from flux_training.training.errors import FluxError
from flux_training.training.words import flux_command, make_command

# The width of tables in a pipe: wide enough that nothing is cut off.
PIPE_WIDTH = 250


@click.command()
@stack_option
@click.option(
    "--watch", is_flag=True, help="Keep updating until all jobs have ended. Ctrl-C does not stop the jobs."
)
@click.option(
    "--requeue",
    is_flag=True,
    help="Queue runs again whose launcher never reported from its node, as `--watch` and `up` do. For a scheduled workflow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(stack: str, watch: bool, requeue: bool, as_json: bool) -> None:
    """Show the status of the jobs: state, steps, loss, time left, cost, node.

    Exit code 0: no problem. 1: a job failed or makes no progress.
    """
    if watch and as_json:
        raise click.UsageError("--json and --watch cannot be combined")
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    if not outputs.get("jobs"):
        _print_no_jobs(stack, outputs, as_json)
        return
    watcher = watch_deployed_jobs(engine, stack, outputs)
    found = follow_until_ended(watcher) if watch else watcher.read()
    if requeue and (said := queue_silent_again(watcher, found)):
        click.echo("\n".join(said), err=as_json)
        found = watcher.read()
    if as_json:
        click.echo(json.dumps(_stack_document(stack, found), indent=2))
    elif not watch:
        _print(found, watcher.local)
        if note := undeployed_jobs_note(undeployed_jobs(stack, outputs["jobs"]), stack):
            say_wrapped(f"\n{note}")
    sys.exit(0 if found.is_well else 1)


def _print(found: StackStatus, local: bool) -> None:
    if screen.is_terminal:
        screen.print(render_status_table(found, screen.width, local))
    else:
        Console(width=PIPE_WIDTH, emoji=False).print(render_status_table(found, PIPE_WIDTH, local, bar=False))


def undeployed_jobs_note(jobs: Sequence[str], stack: str) -> str:
    """What to say about declared jobs that the table lacks; empty if it lacks none."""
    if not jobs:
        return ""
    up, plan = make_command("up", stack), flux_command("plan", stack)
    known = f"Declared, but not deployed: {', '.join(jobs)}."
    if not stack_settings(project_root(), stack).budget.has_spending_limits:
        return f"{known} {up} trains {'it' if len(jobs) == 1 else 'them'}."
    return f"{known} {up} queues what the budget allows; {plan} says which jobs wait for it."


def _print_no_jobs(stack: str, outputs: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document = {"version": 1, "stack": stack, "deployed": bool(outputs), "well": True, "jobs": []}
        click.echo(json.dumps(document))
    elif outputs:
        say_wrapped(_why_no_job(stack))
    else:
        say_wrapped(
            f"Nothing is deployed in stack {stack}: {make_command('up', stack)} trains the jobs that it declares."
        )


def _why_no_job(stack: str) -> str:
    """A stack file with mistakes does not keep the status from being shown."""
    try:
        return why_nothing_is_deployed(stack, is_updated=False)
    except (FluxError, OSError):
        doctor = flux_command("doctor", stack)
        return f"No job is deployed, and Pulumi.{stack}.yaml has mistakes; {doctor} names them."


def _stack_document(stack: str, found: StackStatus) -> dict[str, Any]:
    return {
        "version": 1,
        "stack": stack,
        "deployed": True,
        "well": found.is_well,
        "ended": found.has_ended,
        "spent_usd": rounded_usd(found.spent),
        "jobs": [job_document(row) for row in found.rows],
    }


def job_document(row: JobRow) -> dict[str, Any]:
    job, progress = row.status.job, row.status.progress
    return {
        "name": job.name,
        "run_id": job.run_id,
        "kelpie_id": row.status.queue_job.id if row.status.queue_job else job.kelpie_id,
        "state": row.status.state,
        "phase": row.status.phase,
        "ended": row.status.has_ended,
        "problem": row.problem or None,
        "differs": row.differs or None,
        "step": steps_done(row),
        "steps": job.steps,
        "loss": progress.loss,
        "loss_first": progress.loss_first,
        "loss_steps": progress.loss_steps,
        "eta_seconds": progress.eta_seconds if not row.status.has_ended else None,
        "gpu_seconds": progress.gpu_seconds,
        "spent_usd": rounded_usd(row.spent),
        "expected_usd": asdict(row.expected) if row.expected else None,
        "waste_seconds": asdict(row.waste),
        "machine": row.machine or None,
        "instance": row.instance or None,
        "restarts": progress.restarts,
        "trainer": progress.trainer or None,
        "skipped_batches": progress.skipped_batches,
        "nan_losses": progress.nan_losses,
    }


def rounded_usd(amount: float | None) -> float | None:
    return None if amount is None else round(float(amount), 4)
