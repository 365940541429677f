"""`flux costs`: estimates and actual costs of all runs in the stack's bucket, and the paid time that trained nothing."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.table import Table
from rich.text import Text

from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.records import read_record
from flux_training.clients.stack.services import StackServices
from flux_training.clients.waiting import in_parallel
from flux_training.commands.cli import say, say_wrapped, screen, stack_option
from flux_training.commands.stack.access import connect_to_services, read_only_engine
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.bill import FREE, show_dollar_range, show_dollars, show_hours
from flux_training.training.estimates.actuals import (
    WASTE_WORDS,
    CostGroup,
    RunCost,
    advice,
    group_run_costs,
    run_cost,
    total_waste,
)
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.words import counted, one_line

# Spreadsheets run a cell that begins with one of these as a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@click.command()
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one line for each run.")
def costs(stack: str, as_json: bool, as_csv: bool) -> None:
    """Compare what runs cost with their estimates, by run, month and GPU class, and show the time that trained nothing.

    Costs are GPU seconds that nodes reported, times the price when the run was queued: SaladCloud has no bill per job.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be combined")
    settings = stack_settings(project_root(), stack)
    services = StackServices(connect_to_services(read_only_engine(stack), stack), settings)
    runs = read_costs(services)
    if as_json:
        click.echo(json.dumps(_costs_as_json(stack, runs), indent=2))
    elif as_csv:
        _write_csv(runs)
    else:
        _print(runs, local=settings.cloud == "local")


def read_costs(stack: StackServices) -> list[RunCost]:
    """All runs of the stack that have begun, by month and job. Raises ServiceError."""
    if not stack.bucket_exists:
        return []
    storage, layout = stack.storage, stack.layout

    def read(place: tuple[str, str]) -> RunCost:
        keys = layout.run(*place)
        record = read_record(storage, keys.record, RunRecord).value or RunRecord()
        progress = read_record(storage, keys.progress, RunProgress).value or RunProgress()
        return run_cost(*place, record, progress)

    begun = [run for run in in_parallel(read, recorded_runs(storage, layout)) if run.paid_seconds]
    return sorted(begun, key=lambda run: (run.month, run.job, run.run_id))


def _print(runs: Sequence[RunCost], *, local: bool) -> None:
    if not runs:
        say_wrapped("No run in the bucket has started.")
        return
    table = _table("Job", "Run", "Month", "Estimate", "Cost", "Error")
    for run in runs:
        likely = run.estimate.likely if run.estimate else None
        estimate = show_dollar_range(run.estimate) or show_dollars(likely)
        table.add_row(run.job, run.run_id, run.month, estimate, show_dollars(run.usd), _error(run))
    screen.print(table)
    if any(run.is_within_estimate is False for run in runs):
        say_wrapped("* outside the estimated range")
    for title, found in (("Month", runs_by_month(runs)), ("GPU class", runs_by_gpu_class(runs))):
        _print_groups(title, found)
    if note := note_about_uncounted_runs(runs):
        say_wrapped(note)
    paid, waste = sum(run.paid_seconds for run in runs), total_waste(run.waste for run in runs)
    say_wrapped(
        f"\nPaid time that trained nothing: {show_hours(waste.total)} of {show_hours(paid + waste.idle)}"
    )
    for cause, words in WASTE_WORDS.items():
        say_wrapped(f"  {words}: {show_hours(getattr(waste, cause))}")
    for line in advice(waste, paid):
        say_wrapped(f"- {line}")
    if local:
        say_wrapped(FREE)


def _print_groups(title: str, groups: Sequence[CostGroup]) -> None:
    if not groups:
        return
    table = _table(title, "Runs", "Estimate", "Cost", "Inside")
    for one in groups:
        inside = f"{one.inside} of {one.runs}"
        table.add_row(
            Text(one_line(one.name)), str(one.runs), show_dollars(one.estimate), show_dollars(one.usd), inside
        )
    say("")
    screen.print(table)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right" if title in ("Estimate", "Cost", "Error", "Runs") else "left")
    return table


def _error(run: RunCost) -> str:
    return "-" if run.error is None else f"{run.error:+.0%}{'' if run.is_within_estimate else ' *'}"


def runs_by_month(runs: Sequence[RunCost]) -> list[CostGroup]:
    return group_run_costs(runs, lambda run: run.month)


def runs_by_gpu_class(runs: Sequence[RunCost]) -> list[CostGroup]:
    return group_run_costs(runs, lambda run: run.gpu)


def note_about_uncounted_runs(runs: Sequence[RunCost]) -> str:
    """What the months and GPU classes leave out; empty if nothing."""
    left = [run for run in runs if run.error is None]
    if not left:
        return ""
    known = [run.usd for run in left if run.usd is not None]
    what = f"{counted(len(left), 'run')} that did not finish (yet), or without an estimate: {show_dollars(sum(known))}"
    return f"\nMonths and GPU classes compare finished runs with their estimates. They leave out {what}."


def _costs_as_json(stack: str, runs: Sequence[RunCost]) -> dict[str, Any]:
    """Dollars and seconds; null if not known. `error`: 0.1 if the run cost a tenth more than its likely estimate."""
    return {
        "version": 1,
        "stack": stack,
        "runs": [{**asdict(run), "error": run.error, "inside": run.is_within_estimate} for run in runs],
        "months": [asdict(one) for one in runs_by_month(runs)],
        "gpus": [asdict(one) for one in runs_by_gpu_class(runs)],
        "waste": asdict(total_waste(run.waste for run in runs)),
    }


def _write_csv(runs: Sequence[RunCost]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    titles = ("job", "run_id", "month", "gpu", "state", "usd_low", "usd_likely", "usd_high", "usd", "error")
    writer.writerow((*titles, "paid_seconds", *WASTE_WORDS))
    for run in runs:
        estimate = run.estimate
        amounts = (estimate.low, estimate.likely, estimate.high) if estimate else (None, None, None)
        waste = asdict(run.waste).values()
        facts = (run.job, run.run_id, run.month, *map(_cell, (run.gpu, run.state)))
        writer.writerow((*facts, *amounts, run.usd, run.error, run.paid_seconds, *waste))


def _cell(text: str) -> str:
    """The text of a CSV cell.

    A node wrote it, and a text that begins like a formula would be run by spreadsheets, so it is escaped.
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
