"""`flux status`: how the stack's jobs are."""

from __future__ import annotations

import json
import sys
from typing import Any

import rich_click as click
from rich.console import Console

from flux_training.commands.cli import say, screen, stack_option
from flux_training.commands.stack.access import connection_of, deployed_outputs, read_only_engine
from flux_training.commands.watch.table import render, state_word, steps_done
from flux_training.commands.watch.watcher import Row, View, Watcher

# Wide enough for any table: in a pipe nothing is cut off.
PIPE_WIDTH = 250


@click.command()
@stack_option
@click.option(
    "--watch", is_flag=True, help="Keep looking until all jobs have ended. Ctrl-C stops the looking only."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
def status(stack: str, watch: bool, as_json: bool) -> None:
    """Show how the jobs are: state, steps, loss, time left, cost, node.

    Exit code 0: all is well. 1: a job failed or nothing moves any more.
    """
    if watch and as_json:
        raise click.UsageError("--json is for one look; leave --watch out")
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    if not outputs.get("jobs"):
        _tell_nothing_is_there(stack, outputs, as_json)
        return
    watcher = Watcher(connection_of(engine, stack), outputs)
    view = _watched(watcher) if watch else watcher.look()
    if as_json:
        click.echo(json.dumps(_facts(stack, view), indent=2))
    elif not watch:
        _print(view, watcher.local)
    sys.exit(0 if view.well else 1)


def _watched(watcher: Watcher) -> View:
    from flux_training.commands.watch.follow import follow

    return follow(watcher)


def _print(view: View, local: bool) -> None:
    if screen.is_terminal:
        screen.print(render(view, screen.width, local))
    else:
        Console(width=PIPE_WIDTH).print(render(view, PIPE_WIDTH, local, bar=False))


def _tell_nothing_is_there(stack: str, outputs: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps({"version": 1, "stack": stack, "deployed": bool(outputs), "well": True, "jobs": []})
        )
    elif outputs:
        say(f"Stack {stack} declares no job: name one in Pulumi.{stack}.yaml.")
    else:
        say(
            f"Nothing is deployed in stack {stack}: `make up STACK={stack}` trains the jobs that it declares."
        )


def _facts(stack: str, view: View) -> dict[str, Any]:
    return {
        "version": 1,
        "stack": stack,
        "deployed": True,
        "well": view.well,
        "ended": view.ended,
        "spent_usd": None if view.spent is None else round(float(view.spent), 4),
        "jobs": [_job_facts(row) for row in view.rows],
    }


def _job_facts(row: Row) -> dict[str, Any]:
    job, told = row.sight.job, row.sight.told
    return {
        "name": job.name,
        "run_id": job.run_id,
        "kelpie_id": job.kelpie_id,
        "state": row.sight.state,
        "phase": state_word(row),
        "ended": row.sight.ended,
        "problem": row.problem or None,
        "step": steps_done(row),
        "steps": job.steps,
        "loss": told.loss,
        "eta_seconds": told.eta_seconds if not row.sight.ended else None,
        "gpu_seconds": told.gpu_seconds,
        "spent_usd": None if row.spent is None else round(float(row.spent), 4),
        "machine": row.machine or None,
        "instance": row.instance or None,
        "restarts": told.restarts,
    }
