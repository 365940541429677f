"""Waits until jobs end: a live table on a terminal; elsewhere a line for each change. Queues runs again whose launcher is silent."""

import time
from collections.abc import Callable

from rich.live import Live

from flux_training.clients.errors import ServiceError
from flux_training.commands.cli import say_wrapped, screen
from flux_training.commands.watch.job_status import describe_status
from flux_training.commands.watch.table import render_status_table
from flux_training.commands.watch.watcher import JobRow, StackStatus, Watcher
from flux_training.training.errors import FluxError

LOCAL_POLL_SECONDS = 1.0
# The seconds between polls. Each request to Kelpie causes one to SaladCloud, where statuses change within minutes.
POLL_SECONDS = 5.0
# The approximate number of progress lines that are printed for each job if the output is not a terminal.
PROGRESS_LINES = 5


def poll_seconds(watcher: Watcher) -> float:
    return LOCAL_POLL_SECONDS if watcher.local else POLL_SECONDS


def follow_until_ended(watcher: Watcher) -> StackStatus:
    """The status once all jobs have ended. If a service does not answer, says so once and keeps waiting."""
    if screen.is_terminal:
        with Live(console=screen, refresh_per_second=4) as live:
            return _wait(
                watcher, lambda stack: live.update(render_status_table(stack, screen.width, watcher.local))
            )
    printed: dict[str, object] = {}

    def print_changes(stack: StackStatus) -> None:
        for row in stack.rows:
            if printed.get(row.name) != _progress_milestone(row):
                printed[row.name] = _progress_milestone(row)
                say_wrapped(f"{row.name}: {row.problem or describe_status(row.status)}")

    return _wait(watcher, print_changes)


def _wait(watcher: Watcher, on_status: Callable[[StackStatus], None]) -> StackStatus:
    is_failing, refused = False, set[str]()
    while True:
        try:
            stack = watcher.read()
        except ServiceError as error:
            if not is_failing:
                # Print on the live table's console, so that the table stays below the message.
                screen.print(f"{error}; still waiting", highlight=False, markup=False, soft_wrap=True)
            is_failing = True
        else:
            if is_failing:
                screen.print("The services answer again.", highlight=False, markup=False)
            is_failing = False
            on_status(stack)
            # An error that lasts is reported once, and is no reason to keep waiting.
            new = queue_silent_again(watcher, stack, refused)
            for line in new:
                # Print on the live table's console, so that the table stays below the message.
                screen.print(line, highlight=False, markup=False, soft_wrap=True)
            if stack.has_ended and not new:
                return stack
        time.sleep(poll_seconds(watcher))


def queue_silent_again(watcher: Watcher, stack: StackStatus, refused: set[str] | None = None) -> list[str]:
    """Queue each run again whose launcher never reported. Returns what to say about it.

    `refused`: jobs for which that failed before, which is not said again, even if the error's text has changed; updated here.
    """
    said, refused = [], set() if refused is None else refused
    for status in [row.status for row in stack.rows if row.status.may_need_requeue]:
        job = status.job.name
        try:
            said.append(watcher.queue_again(status))
            refused.discard(job)
        except FluxError as error:
            said += [] if job in refused else [f"{job} could not be queued again: {error}"]
            refused.add(job)
    return [line for line in said if line]


def _progress_milestone(row: JobRow) -> object:
    """Changes when a line is to be printed."""
    status = row.status
    if status.has_ended:
        return status.state, bool(row.problem)
    step = status.progress.step
    part = None if step is None else step * PROGRESS_LINES // status.job.steps
    return status.state, bool(row.problem), status.phase, part
