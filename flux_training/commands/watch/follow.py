"""Watching jobs until they end: a live table on a terminal, a line for what changed elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.live import Live

from flux_training.clients.errors import ServiceError
from flux_training.commands.cli import say, screen
from flux_training.commands.watch.job_status import Sight, describe
from flux_training.commands.watch.table import render
from flux_training.commands.watch.watcher import Row, View, Watcher

# Kelpie asks SaladCloud at each request: what changes within minutes there is not asked for every second.
POLL_SECONDS = {True: 1.0, False: 5.0}
# In plain output a running job gets a line for each such part of its steps.
PLAIN_PARTS = 5


def follow(watcher: Watcher) -> View:
    """The jobs as they ended. A service that does not answer for a while is waited for, and said so once."""
    if screen.is_terminal:
        with Live(console=screen, refresh_per_second=4) as live:
            return _until_ended(
                watcher, lambda view: live.update(render(view, screen.width, watcher.local)), _say_above
            )
    told: dict[str, object] = {}

    def tell(view: View) -> None:
        for row in view.rows:
            if told.get(row.name) != _milestone(row):
                told[row.name] = _milestone(row)
                say(f"{row.name}: {row.problem or describe(row.sight)}")

    return _until_ended(watcher, tell, say)


def _until_ended(watcher: Watcher, show: Callable[[View], None], tell: Callable[[str], None]) -> View:
    silent = False
    while True:
        try:
            view = watcher.look()
        except ServiceError as error:
            if not silent:
                tell(f"{error}; waiting for it")
            silent = True
        else:
            silent = False
            show(view)
            if view.ended:
                return view
        time.sleep(POLL_SECONDS[watcher.local])


def _say_above(text: str) -> None:
    """Above the live table, on the console that it is on."""
    screen.print(text, highlight=False, markup=False)


def _milestone(row: Row) -> object:
    sight: Sight = row.sight
    step, ended = sight.told.step, sight.ended
    part = step * PLAIN_PARTS // sight.job.steps if step is not None and not ended else None
    return sight.state, ended, bool(row.problem), None if ended else sight.told.state, part
