"""`flux up`, `preview`, `refresh` and `destroy`; and `cloud` and `down` for the local cloud."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.clients import local_cloud
from flux_training.clients.connection import LOCAL_FILE, LOCAL_FILE_VARIABLE
from flux_training.clients.records import read_record
from flux_training.commands.cli import no_cache_option, outputs_folder, say_wrapped, stack_option
from flux_training.commands.report.command import images_folder, write_report
from flux_training.commands.report.runs import PAGE, ReportedRun
from flux_training.commands.results.fetch import default_fetch_options, print_fetch_problems
from flux_training.commands.results.outputs import FetchResult, fetch_results
from flux_training.commands.stack.access import prepare_engine, preview_engine, run_or_exit
from flux_training.commands.stack.declared import why_nothing_is_deployed
from flux_training.commands.stack.destroy import StackResources, describe_destroy, parse_stack_resources
from flux_training.commands.stack.engine import Engine
from flux_training.commands.stack.file import stack_settings, uses_local_cloud
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.deployed import watch_deployed_jobs
from flux_training.commands.watch.follow import follow_until_ended
from flux_training.commands.watch.job_status import JobStatus, stack_jobs
from flux_training.commands.watch.watcher import StackStatus
from flux_training.training.bill import FREE, cost_record_of_run, describe_actual_cost, show_dollars
from flux_training.training.errors import FluxError
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run_state import RunState, names_cause
from flux_training.training.settings import SINGLE_CLUSTER
from flux_training.training.words import counted, flux_command, make_command

yes_option = click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Do not ask. Stacks on the local cloud, where nothing costs money, never ask.",
)
# --run-program: otherwise Pulumi updates the resources but not the stack's outputs. --clear-pending-creates: after a killed
# `up`, the CLI would keep warning about resources that the next `up` has adopted.
REFRESH = ("refresh", "--run-program", "--clear-pending-creates", "--yes", "--skip-preview")


@click.command()
@stack_option
@no_cache_option
@yes_option
@click.option(
    "--no-wait", is_flag=True, help="Exit once the jobs are queued. A later `flux up` fetches their results."
)
def up(stack: str, yes: bool, no_wait: bool) -> None:
    """Deploy the configuration, wait for the jobs, fetch their results.

    First shows what changes and what it costs, and asks unless nothing changes.
    """
    if no_wait:
        _refuse_unwatched_replicas(stack)
    must_ask = _must_ask(stack, yes, "up")
    engine = prepare_engine(stack)
    if must_ask:
        _preview_and_confirm(engine, stack)
    if no_wait:
        run_or_exit(engine, "up", "--yes", "--skip-preview")
        return
    # Hide the stack outputs, about forty lines; the end of `up` summarises them.
    run_or_exit(engine, "up", "--yes", "--skip-preview", "--suppress-outputs")
    collected = _wait_and_fetch(engine, stack)
    _wait_for_other_updates(engine, stack)
    if fixed := describe_fixed_clusters(engine.outputs()):
        say_wrapped(
            f"\n{fixed} (autoscale: false). Updating again to stop its replicas, which now have no work:"
        )
        run_or_exit(engine, "up", "--yes", "--skip-preview", "--suppress-outputs")
    say_wrapped("\nRefreshing, to store in the state how each run ended:")
    while code := engine.run(*REFRESH, "--suppress-outputs"):
        # Another update may have begun since the last look.
        if not engine.is_updated_by_others:
            sys.exit(code)
        _wait_for_other_updates(engine, stack)
    # Another update may have canceled or replaced runs while this one waited, so read the outputs again.
    withdrawn = describe_withdrawn_runs(stack, collected.statuses, engine.outputs())
    for line in withdrawn.values():
        say_wrapped(line)
    if steps := _next_steps(stack, collected, images_folder(stack)):
        say_wrapped(steps)
    counted_in = [status for status in collected.statuses if status.job.name not in withdrawn]
    errors = errors_of_jobs(stack, counted_in, collected.unfetched)
    if errors:
        raise FluxError("\n".join(map(str, errors)))


@click.command()
@stack_option
@no_cache_option
def preview(stack: str) -> None:
    """Show what `up` would do. Changes nothing."""
    with preview_engine(stack) as engine:
        run_or_exit(engine, "preview", "--diff", "--suppress-outputs")


@click.command()
@stack_option
def refresh(stack: str) -> None:
    """Update the state to match what exists."""
    run_or_exit(prepare_engine(stack), *REFRESH)


@click.command()
@stack_option
@yes_option
def destroy(stack: str, yes: bool) -> None:
    """Delete all resources of the stack. Results stay in outputs/<stack>/, and in the bucket unless the stack has `results: delete`."""
    must_ask = _must_ask(stack, yes, "destroy")
    engine = prepare_engine(stack)
    resources = parse_stack_resources(engine.export() or {})
    if must_ask:
        say_wrapped(describe_destroy(stack, resources, _status_now(engine, stack, resources.outputs)))
        if resources.count:
            _ask_to_confirm(f"Destroy stack {stack}?")
    run_or_exit(engine, "destroy", "--yes", "--skip-preview")
    _print_where_results_are(stack, resources)


@click.command(name="cloud")
def start_cloud() -> None:
    """Start the local cloud."""
    local_cloud.start_local_cloud()


@click.command()
def down() -> None:
    """Stop the local cloud. Its files stay in .localcloud/."""
    local_cloud.stop_local_cloud()


def _must_ask(stack: str, yes: bool, command: str) -> bool:
    """Whether to ask before the command. Raises UsageError if nobody can answer."""
    if yes or uses_local_cloud(project_root(), stack):
        return False
    if not sys.stdin.isatty():
        # make sets MAKELEVEL for the commands that it runs.
        by_make = "MAKELEVEL" in os.environ
        again = (
            make_command(f"{command} YES=1", stack) if by_make else flux_command(f"{command} --yes", stack)
        )
        raise click.UsageError(f"this is not a terminal, so nobody can confirm; {again} does not ask")
    return True


def _preview_and_confirm(engine: Engine, stack: str) -> None:
    """Raises FluxError if the user declines. Does not ask if nothing would change. Exits if the preview fails."""
    code, has_changes = engine.show_preview()
    if code != 0:
        sys.exit(code)
    if has_changes:
        _ask_to_confirm(f"Update stack {stack} as shown above?")
    else:
        say_wrapped("Nothing changes, so there is nothing to confirm.")


def _refuse_unwatched_replicas(stack: str) -> None:
    """Raises FluxError if nobody would stop the replicas once the jobs have ended."""
    fixed = [
        name for name, one in stack_settings(project_root(), stack).all_clusters.items() if not one.autoscale
    ]
    if fixed:
        names = ", ".join(f"clusters.{name}" if name != SINGLE_CLUSTER else "cluster" for name in fixed)
        raise FluxError(
            f"--no-wait with {names}.autoscale: false",
            "after the jobs have ended, its replicas would keep running and costing money until the next `up`",
            f"{make_command('up', stack)} waits and stops them; or set autoscale: true",
        )


def _ask_to_confirm(question: str) -> None:
    """Raises FluxError if the user declines."""
    if not click.confirm(question):
        raise FluxError("declined: nothing was changed")


def describe_fixed_clusters(outputs: Mapping[str, Any]) -> str:
    """Which clusters do not scale, as the start of a sentence; empty if all do."""
    if (outputs.get("clusterSize") or {}).get("autoscale") is False:
        return "This cluster does not scale"
    clusters = outputs.get("clusters") or {}
    fixed = [name for name, one in clusters.items() if one["size"]["autoscale"] is False]
    return f"Cluster {', '.join(fixed)} does not scale" if fixed else ""


def _status_now(engine: Engine, stack: str, outputs: Mapping[str, Any]) -> StackStatus | None:
    """None if the services do not answer: what is known from the state must do."""
    if not outputs.get("jobs") or not outputs.get("bucket"):
        return None
    with suppress(FluxError):
        return watch_deployed_jobs(engine, stack, outputs).read()
    return None


def _wait_for_other_updates(engine: Engine, stack: str) -> None:
    engine.wait_for_other_updates(
        lambda process: say_wrapped(
            f"\nAnother update of stack {stack} is running (process {process}). Waiting for it, to refresh the state afterwards. "
            "The results are complete: Ctrl-C leaves the state to the next update."
        )
    )


@dataclass
class CollectedResults:
    """How each job ended. `unfetched` names those whose results could not all be fetched; `new` those that this `up` fetched."""

    statuses: list[JobStatus] = field(default_factory=list)
    unfetched: list[str] = field(default_factory=list)
    new: list[JobStatus] = field(default_factory=list)


def _wait_and_fetch(engine: Engine, stack: str) -> CollectedResults:
    """Wait for the jobs and fetch their results. Those that an earlier `up` fetched are not printed again."""
    outputs = engine.outputs()
    if not stack_jobs(outputs):
        say_wrapped(why_nothing_is_deployed(stack, is_updated=True))
        return CollectedResults()
    watcher = watch_deployed_jobs(engine, stack, outputs)
    say_wrapped(
        "\nWaiting for the jobs to end. Ctrl-C stops the waiting, not the training; run the same command to continue."
    )
    rows = follow_until_ended(watcher).rows
    say_wrapped("\nResults of the local cloud's stand-in trainer:" if watcher.local else "\nResults:")
    costs, images = {}, images_folder(stack)
    collected = CollectedResults([row.status for row in rows])
    folder, options = outputs_folder(stack), default_fetch_options(stack, local=watcher.local)
    for row in rows:
        status = row.status
        result = fetch_results(status, watcher.storage, folder, row.price, options)
        if _was_fetched_before(status, result):
            continue
        record = read_record(watcher.storage, status.job.keys.record, RunRecord).value or RunRecord()
        costs[row.name] = cost_record_of_run(record.estimate, status.progress.gpu_seconds)
        say_wrapped(f"  {row.name}: {_result_line(status, result.folder)}")
        print_fetch_problems(result)
        collected.unfetched += [row.name] if result.failed else []
        page = write_report(ReportedRun(row.name, result.folder.name, result.folder), folder, images, stack)
        say_wrapped(f"    {page}: the run on one page")
        collected.new.append(status)
    if before := len(rows) - len(collected.new):
        what = "The results of " + (
            "all deployed jobs were" if before == len(rows) else f"{counted(before, 'other job')} were"
        )
        say_wrapped(f"  {what} fetched before; {flux_command('list', stack)} names them")
    if table := cost_table(costs, local=watcher.local):
        say_wrapped(table)
    return collected


def _was_fetched_before(status: JobStatus, result: FetchResult) -> bool:
    is_up_to_date = not (result.new or result.adopted or result.differing or result.failed)
    return status.state == RunState.COMPLETED and is_up_to_date and (result.folder / PAGE).is_file()


def describe_withdrawn_runs(
    stack: str, statuses: Sequence[JobStatus], outputs: Mapping[str, Any]
) -> dict[str, str]:
    """By job name, what another update did to runs while this one waited for them. `outputs`: the stack's, as they are now."""
    declared = {job.name: job.run_id for job in stack_jobs(outputs)}
    found = {}
    for status in statuses:
        name, run = status.job.name, status.job.run_id
        if status.state == RunState.COMPLETED or declared.get(name) == run:
            continue
        if name in declared:
            newer = f"run {run} was replaced by a newer run, {declared[name]}"
            found[name] = f"{name}: {newer}; {make_command('up', stack)} waits for that one"
        elif status.state == RunState.CANCELED:
            found[name] = f"{name}: another update canceled it: it was not declared, or had `skip: true`"
    return found


def errors_of_jobs(stack: str, statuses: Sequence[JobStatus], unfetched: Sequence[str]) -> list[FluxError]:
    """Why `up` fails: one error for each kind of problem."""
    stalled = [status.job.name for status in statuses if status.state == RunState.STALLED]
    failed = [status for status in statuses if status.state not in (RunState.COMPLETED, RunState.STALLED)]
    up = make_command("up", stack)
    found = []
    if stalled:
        what = f"{len(stalled)} of the jobs make no progress ({', '.join(stalled)})"
        rule = "each is still queued, may cost money, and continues from its last checkpoint once a node trains it"
        cancel = flux_command(f"cancel {stalled[0]}", stack)
        fix = f"fix: do what is suggested above, then {up}, which does not queue it again; or {cancel}"
        found.append(FluxError(what, rule, fix))
    if failed:
        what = f"{len(failed)} of the jobs failed ({', '.join(status.job.name for status in failed)})"
        rule = "a failed job is not queued again automatically, because it would be paid for again"
        again = f"{flux_command(f'retry {failed[0].job.name}', stack)} and {up}"
        found.append(FluxError(what, rule, f"fix: {_remove_cause(stack, failed)}, then {again}"))
    if unfetched:
        what = f"results of {len(unfetched)} of the jobs were not fetched ({', '.join(unfetched)})"
        fix = f"fix: remove the cause shown above, then {flux_command('fetch', stack)}"
        found.append(FluxError(what, "they are in the bucket", fix))
    return found


def _remove_cause(stack: str, failed: Sequence[JobStatus]) -> str:
    unexplained = [status.job.name for status in failed if not names_cause(status.reason)]
    if not unexplained:
        return "remove the cause shown above"
    return (
        f"look for the cause in the output of {flux_command(f'logs {unexplained[0]}', stack)} and remove it"
    )


def _result_line(status: JobStatus, folder: Path) -> str:
    if status.state != RunState.COMPLETED:
        why = f": {status.reason}" if status.reason else ""
        return f"{status.state}{why}; its files are in {folder}"
    progress = status.progress
    loss = f"; {progress.loss_name} {progress.loss_change}" if progress.loss_change else ""
    faults = f"; {progress.faults}" if progress.faults else ""
    files = status.results.weights.files if status.results.weights else ()
    names = [file.key.rpartition("/")[2] for file in files] or [f"{status.job.name}.safetensors"]
    return f"{' and '.join(str(folder / name) for name in names)}{loss}{faults}"


def cost_table(costs: Mapping[str, Mapping[str, Any]], local: bool) -> str:
    """Actual GPU time at the price of the estimate, and the estimate. Only SaladCloud knows the bill."""
    rows = {name: text for name, cost in costs.items() if (text := describe_actual_cost(cost))}
    if not rows:
        return ""
    if len(rows) > 1:
        actual, estimated = (
            sum(costs[name].get(key, 0.0) for name in rows) for key in ("actualUsd", "estimateUsd")
        )
        rows["total"] = f"about {show_dollars(actual)} (estimated {show_dollars(estimated)})"
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    note = f" {FREE}" if local else ""
    return f"\nCost of GPU time, without downloads and idle replicas.{note}\n" + "\n".join(lines)


def _next_steps(stack: str, collected: CollectedResults, images: Path) -> str:
    job = next((status.job for status in collected.new if status.state == RunState.COMPLETED), None)
    if job is None:
        return ""
    return (
        f"\nNext: open {outputs_folder(stack)}/{job.name}/{job.run_id}/{PAGE} in a browser to see the samples of each step.\n"
        f"{flux_command(f'export {job.name} --to ~/loras/{job.name}', stack)} makes a folder to use or publish.\n"
        f"Or edit a caption under {images}/ and run {make_command('preview', stack)}: it shows what would be trained again."
    )


def _print_where_results_are(stack: str, resources: StackResources) -> None:
    bucket, prefix = resources.bucket, resources.outputs.get("prefix") or ""
    if not bucket or not resources.has_results:
        return
    if resources.deletes_results:
        say_wrapped(
            f"\nResults in the bucket are deleted (`results: delete`); those fetched are in {outputs_folder(stack)}/."
        )
        return
    say_wrapped(
        f"\nResults stay in the bucket, s3://{bucket}/{prefix}runs/ ; those fetched are in {outputs_folder(stack)}/."
    )
    if uses_local_cloud(project_root(), stack):
        home = Path(os.environ.get(LOCAL_FILE_VARIABLE, LOCAL_FILE)).parent
        say_wrapped(
            f"On this machine the bucket is the folder {home}/s3/{bucket}/{prefix}runs/. {make_command('up', stack)} uses it again."
        )
