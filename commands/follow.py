"""Watching jobs until they end: a live table on a terminal, a line for what changed elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from clients.errors import ServiceError
from commands.stack_jobs import Sight, StackJob, describe
from training.run_state import COMPLETED

POLL_SECONDS = 1.0
# In plain output a running job gets a line for each such part of its steps.
PLAIN_PARTS = 5

Look = Callable[[StackJob], Sight]


def follow(jobs: Sequence[StackJob], look: Look, console: Console) -> list[Sight]:
    """The jobs as they ended. A service that does not answer for a while is waited for, and said so once."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            return _until_ended(jobs, look, console, lambda sights: live.update(_table(sights)))
    told: dict[str, object] = {}

    def tell(sights: Sequence[Sight]) -> None:
        for sight in sights:
            if told.get(sight.job.name) != _milestone(sight):
                told[sight.job.name] = _milestone(sight)
                console.print(f"{sight.job.name}: {describe(sight)}", highlight=False, markup=False)

    return _until_ended(jobs, look, console, tell)


def _until_ended(
    jobs: Sequence[StackJob], look: Look, console: Console, show: Callable[[Sequence[Sight]], None]
) -> list[Sight]:
    seen: dict[str, Sight] = {}
    silent = False
    while True:
        try:
            for job in jobs:
                if job.name not in seen or not seen[job.name].ended:
                    seen[job.name] = look(job)
            silent = False
        except ServiceError as error:
            if not silent:
                console.print(f"{error}; waiting for it", highlight=False, markup=False)
            silent = True
        sights = [seen[job.name] for job in jobs if job.name in seen]
        show(sights)
        if len(sights) == len(jobs) and all(sight.ended for sight in sights):
            return sights
        time.sleep(POLL_SECONDS)


def _milestone(sight: Sight) -> object:
    step = sight.progress.get("step")
    part = step * PLAIN_PARTS // sight.job.steps if isinstance(step, int) and not sight.ended else None
    return sight.state, sight.progress.get("state") if not sight.ended else None, part


def _table(sights: Sequence[Sight]) -> Group:
    table = Table.grid(padding=(0, 2))
    for sight in sights:
        step = sight.progress.get("step") or 0
        done = sight.job.steps if sight.state == COMPLETED else min(int(step), sight.job.steps)
        table.add_row(
            sight.job.name, ProgressBar(total=sight.job.steps, completed=done, width=30), describe(sight)
        )
    return Group(table)
