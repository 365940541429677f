"""`flux ui`: serves the live page of a stack."""

import threading
from typing import Any

import rich_click as click

from flux_training.commands.cli import say, stack_option
from flux_training.commands.jobs.offers import COLUMNS, TOO_SMALL, offer_row, offers_heading, read_offers
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.commands.ui.live import DeployedStack, LiveStack
from flux_training.commands.ui.server import UiServer
from flux_training.commands.watch.sweeps import sweeps_among_jobs
from flux_training.commands.watch.watcher import Watcher
from flux_training.training.errors import BadInput
from flux_training.training.runs.run import Layout

# The lowest port allowed. Lower ports need special rights, and browsers omit port 80 from the Host header, which the server
# checks.
MIN_PORT, MAX_PORT = 1024, 65535


@click.command()
@click.option(
    "--port",
    type=click.IntRange(MIN_PORT, MAX_PORT),
    help="Serve on this port, for example to forward it with SSH. [default: any free port]",
)
@stack_option
def ui(port: int | None, stack: str) -> None:
    """Serve a live page of the jobs on this machine: states, losses, samples, costs.

    The page only reads, and only this machine can open it. Requests to the services are made while the page is open.
    """
    read_only_engine(stack)
    live = LiveStack(stack, lambda: find_deployed(stack))
    try:
        server = UiServer(live, lambda: offers_document(stack), port or 0)
    except OSError as error:
        raise BadInput([f"--port {port}: {error.strerror}; without --port any free port is used"]) from None
    with server:
        threading.Thread(target=live.run, daemon=True).start()
        say(f"Open {server.address}\nCtrl-C stops the page, not the jobs.")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say("\nstopped")
        finally:
            live.close()


def offers_document(stack: str) -> dict[str, Any]:
    """The GPU classes for each cluster of the stack as rows of texts. Raises FluxError."""
    settings = stack_settings(project_root(), stack)
    clusters = [
        {"heading": offers_heading(settings, name), "rows": [offer_row(offer) for offer in found]}
        for name, found in read_offers(stack).items()
    ]
    return {"columns": COLUMNS, "clusters": clusters, "note": f"* {TOO_SMALL}."}


def find_deployed(stack: str) -> DeployedStack | None:
    """What the last `up` deployed; None without a job. Raises FluxError."""
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    if not outputs.get("jobs"):
        return None
    connection = connect_to_services(engine, stack)
    layout = Layout(str(outputs.get("prefix") or ""))
    sweeps = sweeps_among_jobs(project_root(), stack, outputs["jobs"])
    return DeployedStack(Watcher(connection, outputs, stack, sweeps=sweeps), connection, layout)
