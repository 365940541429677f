"""`flux models`: the models that can be trained, and what that costs now."""

import json
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.table import Table

from flux_training.clients.stack.pricing import gpu_offer_of_class
from flux_training.commands.cli import say_wrapped, screen, stack_option
from flux_training.commands.stack.access import connect_to_services, read_only_engine
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.bill import FREE, show_dollars
from flux_training.training.errors import FluxError
from flux_training.training.estimates.model_offers import USUAL_STEPS, ModelOffer, offer_for
from flux_training.training.gpu import Offer, gpu_model_of
from flux_training.training.jobs.declare import is_model_in_an_image
from flux_training.training.models.table import MODELS

NOTHING = "-"


@click.command()
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(stack: str, as_json: bool) -> None:
    """List the models that can be trained: licence, GPU memory, the cheapest GPU class now, and the price of 2,000 steps.

    The settings are those that `flux new --model NAME` writes, without photos of your own. docs/models.md says more about each.
    """
    settings = stack_settings(project_root(), stack)
    priority = next(iter(settings.all_clusters.values())).priority
    offers, trouble = _offers(stack, priority)
    found = [
        offer_for(model, offers, priority, is_model_in_an_image(settings, model)) for model in MODELS.values()
    ]
    if as_json:
        click.echo(json.dumps(_models_as_json(found, stack, priority, trouble), indent=2))
        return
    screen.print(_table(found))
    say_wrapped(
        f"\nGB: of GPU memory, with the settings of `./flux new --model NAME`. Prices are for {USUAL_STEPS:,} steps at priority {priority}, "
        "with the download of weights that the image of the nodes lacks."
    )
    if not trouble and not all(one.gpu for one in found):
        say_wrapped(f"{NOTHING}: no GPU class on offer has so much memory.")
    if settings.cloud == "local":
        say_wrapped(FREE)
    if trouble:
        say_wrapped(f"No prices: {trouble}")


def _offers(stack: str, priority: str) -> tuple[list[Offer], str]:
    """The community GPU classes on offer now, or why they are not known."""
    try:
        connection = connect_to_services(read_only_engine(stack), stack)
        classes = connection.model_copy(update={"few_retries": True}).salad().gpu_classes()
    except FluxError as error:
        return [], str(error)
    return [gpu_offer_of_class(one, priority) for one in classes if one.gpu_class_type == "community"], ""


def _table(found: list[ModelOffer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("Model", "Licence", "GB", "Cheapest GPU", "2,000 steps"):
        table.add_column(title, justify="right" if title in ("GB", "2,000 steps") else "left")
    for one in found:
        licence = one.model.licence.removesuffix(" License")
        usd = one.line.usd if one.line else None
        table.add_row(
            one.model.name,
            licence,
            str(one.memory),
            gpu_model_of(one.gpu.name) if one.gpu else NOTHING,
            NOTHING if usd is None else show_dollars(usd),
        )
    return table


def _models_as_json(found: list[ModelOffer], stack: str, priority: str, trouble: str) -> dict[str, Any]:
    """Dollars are those of a run of `steps`, null if not known."""
    return {
        "version": 1,
        "stack": stack,
        "priority": priority,
        "steps": USUAL_STEPS,
        "trouble": trouble or None,
        "models": [_model(one) for one in found],
    }


def _model(one: ModelOffer) -> dict[str, Any]:
    model, line = one.model, one.line
    return {
        "name": model.name,
        "arch": model.arch,
        "weights": model.weights,
        "licence": model.licence,
        "commercial": model.commercial,
        "gated": model.gated,
        "controlImages": list(model.datasets.control_images),
        "videos": model.datasets.videos,
        "gpuMemoryGb": one.memory,
        "gpuClass": one.gpu.name if one.gpu else None,
        "usdAnHour": one.gpu.usd_an_hour if one.gpu else None,
        "usd": asdict(line.cost) if line and line.cost else None,
    }
