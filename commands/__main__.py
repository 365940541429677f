"""`python -m commands COMMAND --stack NAME`: what the Makefile's targets do.

Exit codes: 0 all is well; 1 something failed and said why; 2 wrong usage; 130 stopped by Ctrl-C (run it again to go on).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from clients.connection import LOCAL_FILE, LOCAL_FILE_VARIABLE, VARIABLES, Connection, connect
from clients.storage import Storage
from commands import local_cloud
from commands.engine import Engine, find_engine, project_root
from commands.fetch import fetch
from commands.follow import follow
from commands.stack_file import uses_local_cloud
from commands.stack_jobs import Sight, StackJob, look, stack_jobs
from training.errors import FluxError
from training.run_state import COMPLETED

OUTPUTS = "outputs"
STOPPED = 130

console = Console(soft_wrap=True)
stack_option = click.option(
    "--stack", default="dev", show_default=True, help="The stack: Pulumi.<stack>.yaml."
)


@click.group(help=__doc__)
def main() -> None:
    os.chdir(project_root())


@main.command()
@stack_option
def up(stack: str) -> None:
    """Make everything agree with the configuration, wait for the jobs, fetch their results."""
    engine = _ready(stack)
    _run(engine, "up", "--yes", "--skip-preview")
    failed = _collect(engine, stack)
    if engine.outputs().get("clusterSize", {}).get("autoscale") is False:
        _say(
            "\nNothing scales this cluster (autoscale: false): once more, so that no replica is paid for without work:"
        )
        _run(engine, "up", "--yes", "--skip-preview")
    _say("\nLooking once more, so that the stack's outputs tell how each run ended:")
    _refresh(engine)
    if failed:
        raise FluxError(
            f"{len(failed)} of the jobs did not end well ({', '.join(failed)})",
            "a failed job is not queued again by itself, because it would be paid for again",
            "mend what is said above, or set `attempt: 2` for the job in the stack's configuration; then run it again",
        )


@main.command()
@stack_option
def preview(stack: str) -> None:
    """Show what `up` would do. Changes nothing."""
    _run(_ready(stack), "preview", "--diff")


@main.command()
@stack_option
def refresh(stack: str) -> None:
    """Look how everything really is, and write it into the state."""
    _refresh(_ready(stack))


@main.command()
@stack_option
def destroy(stack: str) -> None:
    """Take everything down. Trained results stay in the bucket, and in outputs/."""
    engine = _ready(stack)
    before = engine.outputs()
    _run(engine, "destroy", "--yes", "--skip-preview")
    _tell_where_results_are(stack, before)


@main.command(name="cloud")
def start_cloud() -> None:
    """Start the cloud on this machine."""
    local_cloud.start()


@main.command()
def down() -> None:
    """Stop the cloud on this machine. Its files stay in .localcloud/."""
    local_cloud.stop()


def _ready(stack: str) -> Engine:
    """The stack's engine, with its cloud running and the stack made."""
    local = uses_local_cloud(project_root(), stack)
    engine = find_engine(stack, local)
    if local:
        local_cloud.start()
    engine.select()
    engine.release(project_root())
    return engine


def _run(engine: Engine, *arguments: str) -> None:
    code = engine.run(*arguments)
    if code != 0:
        sys.exit(code)


def _refresh(engine: Engine) -> None:
    # Without the program Pulumi looks at the resources only: the stack's outputs would go on telling what was.
    # What a killed run left as pending has been adopted by `up`; the CLI would warn of it for ever.
    _run(engine, "refresh", "--run-program", "--clear-pending-creates", "--yes", "--skip-preview")


def _collect(engine: Engine, stack: str) -> list[str]:
    """Wait for the jobs and fetch what they left; the names of those that did not end well."""
    outputs = engine.outputs()
    jobs = stack_jobs(outputs)
    if not jobs:
        _say("The stack declares no job.")
        return []
    connection = _connection(engine, stack)
    storage = connection.storage(outputs["bucket"])
    _say(
        "\nFollowing the jobs until they end. Ctrl-C stops the watching, not the training; run it again to go on."
    )
    sights = follow(jobs, _looker(connection, storage), console)
    _say("\nResults:")
    for sight in sights:
        place = fetch(sight, storage, Path(OUTPUTS))
        _say(f"  {sight.job.name}: {_result_line(sight, place)}")
    _say(_next_steps(sights))
    return [sight.job.name for sight in sights if sight.state != COMPLETED]


def _looker(connection: Connection, storage: Storage) -> Callable[[StackJob], Sight]:
    return lambda job: look(job, connection.kelpie(), storage)


def _connection(engine: Engine, stack: str) -> Connection:
    if uses_local_cloud(project_root(), stack):
        return connect("local", {}, os.environ)
    settings = {key: engine.setting(key) for variable, key in VARIABLES.items() if variable not in os.environ}
    return connect("salad", settings, os.environ)


def _result_line(sight: Sight, place: Path) -> str:
    if sight.state != COMPLETED:
        return f"{sight.state}: {sight.reason}; what there is lies in {place}"
    progress = sight.progress
    learned = ""
    if isinstance(progress.get("loss_first"), float) and isinstance(progress.get("loss_last"), float):
        learned = f" (loss {progress['loss_first']:.4f} at the start, {progress['loss_last']:.4f} at the end)"
    return f"{place / (sight.job.name + '.safetensors')}{learned}"


def _next_steps(sights: list[Sight]) -> str:
    done = [sight for sight in sights if sight.state == COMPLETED]
    if not done:
        return ""
    first = done[0].job
    return (
        f"\nLook next at {OUTPUTS}/{first.name}/{first.run_id}/samples/: what the LoRA draws, step by step.\n"
        "Then edit a caption under jobs/ and type `make preview`: it shows what would be trained again."
    )


def _tell_where_results_are(stack: str, outputs: dict[str, Any]) -> None:
    bucket, prefix = outputs.get("bucket"), outputs.get("prefix") or ""
    finished = [job for job in (outputs.get("jobs") or {}).values() if job.get("status") == COMPLETED]
    if not bucket or not finished:
        return
    _say(
        f"\nTrained results stay in the bucket: s3://{bucket}/{prefix}runs/ ; what was fetched lies in {OUTPUTS}/."
    )
    if uses_local_cloud(project_root(), stack):
        home = Path(os.environ.get(LOCAL_FILE_VARIABLE, LOCAL_FILE)).parent
        _say(
            f"On this machine that is the folder {home}/s3/{bucket}/{prefix}runs/. `make up` takes them over again."
        )


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


def run() -> None:
    """Every error of ours is shown as its text; anything else is a fault of ours and keeps its traceback."""
    try:
        main(standalone_mode=False)
    except click.ClickException as wrong_usage:
        wrong_usage.show()
        sys.exit(wrong_usage.exit_code)
    except FluxError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped; nothing is lost: run it again to go on", err=True)
        sys.exit(STOPPED)


if __name__ == "__main__":
    run()
