"""The commands that change or look at a whole stack: up, preview, refresh, destroy; and the cloud on this machine: cloud, down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.clients.connection import LOCAL_FILE, LOCAL_FILE_VARIABLE
from flux_training.clients.results import read_json
from flux_training.commands.cli import OUTPUTS, no_cache_option, say, stack_option
from flux_training.commands.report.command import images_folder, write_report
from flux_training.commands.report.runs import ReportedRun
from flux_training.commands.results.fetch import report_left
from flux_training.commands.results.outputs import fetch
from flux_training.commands.stack import local_cloud
from flux_training.commands.stack.access import connection_of, prepare_engine, run_or_exit
from flux_training.commands.stack.engine import Engine, project_root
from flux_training.commands.stack.file import uses_local_cloud
from flux_training.commands.watch.follow import follow
from flux_training.commands.watch.job_status import Sight, stack_jobs
from flux_training.commands.watch.watcher import Watcher
from flux_training.training.bill import NOBODY_PAYS, beside, cost_of, dollars
from flux_training.training.errors import FluxError
from flux_training.training.runs.run_state import RunState


@click.command()
@stack_option
@no_cache_option
@click.option(
    "--no-wait", is_flag=True, help="End when the jobs are queued; `flux up` later fetches their results."
)
def up(stack: str, no_wait: bool) -> None:
    """Make everything agree with the configuration, wait for the jobs, fetch their results."""
    engine = prepare_engine(stack)
    if no_wait:
        run_or_exit(engine, "up", "--yes", "--skip-preview")
        return
    # Forty lines of outputs would come between what was done and the jobs, of which the end tells all.
    run_or_exit(engine, "up", "--yes", "--skip-preview", "--suppress-outputs")
    sights, unfetched = _collect(engine, stack)
    if engine.outputs().get("clusterSize", {}).get("autoscale") is False:
        say(
            "\nNothing scales this cluster (autoscale: false): once more, so that no replica is paid for without work:"
        )
        run_or_exit(engine, "up", "--yes", "--skip-preview", "--suppress-outputs")
    say("\nLooking once more, so that the stack knows how each run ended:")
    _refresh(engine, "--suppress-outputs")
    if sights:
        say(_next_steps(sights, images_folder(stack)))
    faults = unwell(sights, unfetched)
    if faults:
        raise FluxError("\n".join(map(str, faults)))


@click.command()
@stack_option
@no_cache_option
def preview(stack: str) -> None:
    """Show what `up` would do. Changes nothing."""
    run_or_exit(prepare_engine(stack), "preview", "--diff")


@click.command()
@stack_option
def refresh(stack: str) -> None:
    """Look how everything really is, and write it into the state."""
    _refresh(prepare_engine(stack))


@click.command()
@stack_option
def destroy(stack: str) -> None:
    """Take everything down. Trained results stay in the bucket, and in outputs/."""
    engine = prepare_engine(stack)
    before = engine.outputs()
    run_or_exit(engine, "destroy", "--yes", "--skip-preview")
    _tell_where_results_are(stack, before)


@click.command(name="cloud")
def start_cloud() -> None:
    """Start the cloud on this machine."""
    local_cloud.start()


@click.command()
def down() -> None:
    """Stop the cloud on this machine. Its files stay in .localcloud/."""
    local_cloud.stop()


def _refresh(engine: Engine, *more: str) -> None:
    # Without the program Pulumi looks at the resources only: the stack's outputs would go on telling what was.
    # What a killed run left as pending has been adopted by `up`; the CLI would warn of it for ever.
    run_or_exit(
        engine, "refresh", "--run-program", "--clear-pending-creates", "--yes", "--skip-preview", *more
    )


def _collect(engine: Engine, stack: str) -> tuple[list[Sight], list[str]]:
    """Wait for the jobs and fetch what they left: how each ended, and whose results were not all fetched."""
    outputs = engine.outputs()
    if not stack_jobs(outputs):
        say("The stack declares no job.")
        return [], []
    watcher = Watcher(connection_of(engine, stack), outputs)
    say(
        "\nFollowing the jobs until they end. Ctrl-C stops the watching, not the training; run it again to go on."
    )
    rows = follow(watcher).rows
    say("\nResults:")
    costs, unfetched, images = {}, [], images_folder(stack)
    for row in rows:
        result = fetch(row.sight, watcher.storage, Path(OUTPUTS), row.price)
        costs[row.name] = cost_of(
            read_json(watcher.storage, row.sight.job.keys.record) or {}, row.sight.progress
        )
        say(f"  {row.name}: {_result_line(row.sight, result.place)}")
        report_left(result)
        unfetched += [row.name] if result.failed else []
        page = write_report(ReportedRun(row.name, result.place.name, result.place), Path(OUTPUTS), images)
        say(f"    {page}: its samples, loss and dataset on one page")
    say(_cost_lines(costs, local=watcher.local))
    return [row.sight for row in rows], unfetched


def unwell(sights: Sequence[Sight], unfetched: Sequence[str]) -> list[FluxError]:
    """Why `up` does not end with 0: one error for each thing that can be done; none when all is well."""
    stalled = [sight.job.name for sight in sights if sight.state == RunState.STALLED]
    failed = [sight.job.name for sight in sights if sight.state not in (RunState.COMPLETED, RunState.STALLED)]
    found = []
    if stalled:
        found.append(
            FluxError(
                f"{len(stalled)} of the jobs do not get on ({', '.join(stalled)})",
                "each is in the queue still, may be paid for, and goes on from its last checkpoint once a node trains it",
                "do what is said above of it, then run it again: it is not queued anew; or `flux cancel` it",
            )
        )
    if failed:
        found.append(
            FluxError(
                f"{len(failed)} of the jobs did not end well ({', '.join(failed)})",
                "a failed job is not queued again by itself, because it would be paid for again",
                "mend what is said above, or set `attempt: 2` for the job in the stack's configuration; then run it again",
            )
        )
    if unfetched:
        found.append(
            FluxError(
                f"results of {len(unfetched)} of the jobs were not fetched ({', '.join(unfetched)})",
                "they lie in the bucket",
                "mend what is said above; then `flux fetch` brings them",
            )
        )
    return found


def _result_line(sight: Sight, place: Path) -> str:
    if sight.state != RunState.COMPLETED:
        return f"{sight.state}: {sight.reason}; what there is lies in {place}"
    told = sight.told
    learned = ""
    if told.loss_first is not None and told.loss_last is not None:
        learned = f" (loss {told.loss_first:.4f} at the start, {told.loss_last:.4f} at the end)"
    return f"{place / (sight.job.name + '.safetensors')}{learned}"


def _cost_lines(costs: Mapping[str, Mapping[str, Any]], local: bool) -> str:
    """What the runs have taken beside what was estimated: GPU time at the price there was; no bill, which only SaladCloud writes."""
    told = {name: text for name, cost in costs.items() if (text := beside(cost))}
    if not told:
        return ""
    width = max(map(len, told))
    lines = [f"  {name:<{width}}  {text}" for name, text in told.items()]
    if len(told) > 1:
        spent, guessed = (
            sum(cost.get(key, 0.0) for cost in costs.values()) for key in ("actualUsd", "estimateUsd")
        )
        lines.append(f"  {'in sum':<{width}}  about {dollars(spent)} (estimated {dollars(guessed)})")
    note = f" {NOBODY_PAYS}" if local else ""
    return f"\nCost by GPU time, without download and idle time of the replicas.{note}\n" + "\n".join(lines)


def _next_steps(sights: list[Sight], images: Path) -> str:
    done = [sight for sight in sights if sight.state == RunState.COMPLETED]
    if not done:
        return ""
    first = done[0].job
    return (
        f"\nOpen {OUTPUTS}/{first.name}/{first.run_id}/report.html in a browser: what the LoRA draws, step by step.\n"
        f"Then edit a caption under {images}/ and type `make preview`: it shows what would be trained again."
    )


def _tell_where_results_are(stack: str, outputs: dict[str, Any]) -> None:
    bucket, prefix = outputs.get("bucket"), outputs.get("prefix") or ""
    finished = [
        job for job in (outputs.get("jobs") or {}).values() if job.get("status") == RunState.COMPLETED
    ]
    if not bucket or not finished:
        return
    say(
        f"\nTrained results stay in the bucket: s3://{bucket}/{prefix}runs/ ; what was fetched lies in {OUTPUTS}/."
    )
    if uses_local_cloud(project_root(), stack):
        home = Path(os.environ.get(LOCAL_FILE_VARIABLE, LOCAL_FILE)).parent
        say(
            f"On this machine that is the folder {home}/s3/{bucket}/{prefix}runs/. `make up` takes them over again."
        )
