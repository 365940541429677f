"""`flux offers`: the GPU classes that SaladCloud offers now, and what the declared jobs would cost on each."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.table import Table

from flux_training.clients.stack.pricing import ClassOffer, gpu_class_offers
from flux_training.clients.stack.services import StackServices
from flux_training.commands.cli import say_wrapped, screen, stack_option
from flux_training.commands.stack.access import connect_to_services, read_only_engine
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.bill import FREE, show_dollar_range, show_dollars, show_time_range
from flux_training.training.cost import Bill
from flux_training.training.estimates.ranges import Range, total
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.settings import StackSettings

COLUMNS = ("GPU class", "$/hour", "Free", "Time", "Dollars")
TOO_SMALL = "has less memory than the jobs need"


@click.command()
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def offers(stack: str, as_json: bool) -> None:
    """List SaladCloud's GPU classes: price, how many are free now, and the estimate for the declared jobs.

    The estimate is for all jobs from the start, also those that are trained already. `cluster.gpu` chooses the class: a name, several
    names, or a condition.
    """
    found = read_offers(stack)
    if as_json:
        clusters = {name: [_offers_as_json(offer) for offer in own] for name, own in found.items()}
        click.echo(json.dumps({"version": 1, "stack": stack, "clusters": clusters}, indent=2))
        return
    settings = stack_settings(project_root(), stack)
    for name, own in found.items():
        say_wrapped(offers_heading(settings, name))
        screen.print(_table(own))
    if any(not offer.fits for own in found.values() for offer in own):
        say_wrapped(f"* {TOO_SMALL}")
    if settings.cloud == "local":
        say_wrapped(FREE)


def read_offers(stack: str) -> dict[str, list[ClassOffer]]:
    """By cluster, those first that fit and cost least. Raises FluxError."""
    settings = stack_settings(project_root(), stack)
    services = StackServices(connect_to_services(read_only_engine(stack), stack), settings)
    return gpu_class_offers(services, declare_jobs(settings))


def offers_heading(settings: StackSettings, cluster: str) -> str:
    """`RTX 5090 at priority high`: what the cluster asks for."""
    own = settings.all_clusters[cluster]
    return f"{f'Cluster {cluster}: ' if cluster else ''}{own.gpu} at priority {own.priority}"


def total_gpu_seconds(bill: Bill) -> Range | None:
    """The hours of all replicas together, in seconds; None if a job's time is unknown."""
    known = [line.time for line in bill.lines if line.time is not None]
    return total([*known, bill.idle]) if len(known) == len(bill.lines) else None


def _table(found: Sequence[ClassOffer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in COLUMNS:
        # In a narrow terminal, the names of GPU classes wrap, but not ranges of times or dollars.
        is_name = title == COLUMNS[0]
        table.add_column(title, justify="left" if is_name else "right", no_wrap=not is_name)
    for offer in found:
        table.add_row(*offer_row(offer))
    return table


def offer_row(offer: ClassOffer) -> tuple[str, ...]:
    """The values of COLUMNS."""
    time, price = total_gpu_seconds(offer.bill), offer.gpu.usd_an_hour
    return (
        f"{offer.gpu.name}{'' if offer.fits else ' *'}",
        "-" if price is None else f"{price:.3f}",
        "-" if offer.available is None else str(offer.available),
        "-" if time is None else show_time_range(time),
        show_dollar_range(offer.bill.cost) or show_dollars(offer.bill.usd),
    )


def _offers_as_json(offer: ClassOffer) -> dict[str, Any]:
    """Seconds and dollars are those of all jobs, null if not known."""
    time, cost = total_gpu_seconds(offer.bill), offer.bill.cost
    return {
        "id": offer.gpu.id,
        "name": offer.gpu.name,
        "memoryGb": offer.gpu.memory,
        "fits": offer.fits,
        "usdAnHour": offer.gpu.usd_an_hour,
        "available": offer.available,
        "seconds": asdict(time) if time else None,
        "usd": asdict(cost) if cost else None,
    }
