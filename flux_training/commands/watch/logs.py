"""`flux logs JOB`: what can be had of what a run said, from the launcher's story in the bucket and from the node itself."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from flux_training.clients.connection import LOCAL_FILE, LOCAL_FILE_VARIABLE, Connection
from flux_training.clients.errors import NotFound, ServiceError
from flux_training.clients.kelpie import Job
from flux_training.commands.cli import say, stack_option
from flux_training.commands.stack.access import connection_of, deployed_outputs, read_only_engine
from flux_training.commands.watch.follow import POLL_SECONDS
from flux_training.commands.watch.job_status import describe
from flux_training.commands.watch.watcher import Row, Watcher
from flux_training.training.errors import BadInput
from flux_training.training.words import nearest, printable

NODE_LOGS = "log/node-*.log"
RECEIVED = "received job "
# SaladCloud keeps no lines of longer ago than the run itself; a run may be asked for long after it.
LONGEST_RUN = timedelta(days=30)
MOST_LINES = 10_000


@click.command()
@click.argument("job")
@click.option(
    "-n",
    "--lines",
    default=50,
    show_default=True,
    type=click.IntRange(0, MOST_LINES),
    help="The node's last lines.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@stack_option
def logs(job: str, lines: int, follow: bool, stack: str) -> None:
    """Show what JOB's run has said: how it stands, the launcher's last words, the node's last lines."""
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    names = list(outputs.get("jobs") or {})
    if job not in names:
        known = f"; it has {', '.join(names)}" if names else f"; `make up STACK={stack}` deploys it"
        raise BadInput([f"{job}: stack {stack} has no such job deployed{nearest(job, names)}{known}"])
    connection = connection_of(engine, stack)
    watcher = Watcher(connection, outputs)
    one = [candidate for candidate in watcher.jobs if candidate.name == job]
    row = watcher.look(one).rows[0]
    _tell_story(row)
    reader = _Reader(connection, str((outputs.get("containerGroup") or {}).get("name") or ""))
    for line in reader.new_lines(row)[-lines:] if lines else []:
        say(line)
    if reader.missing:
        say(reader.missing)
    while follow and not row.sight.ended:
        time.sleep(POLL_SECONDS[watcher.local])
        try:
            row = watcher.look(one).rows[0]
        except ServiceError:
            continue
        for line in reader.new_lines(row):
            say(line)
    if follow:
        say(f"{job}: {describe(row.sight)}")


def _tell_story(row: Row) -> None:
    sight, told = row.sight, row.sight.told
    say(f"{row.name}, run {sight.job.run_id}: {row.problem or describe(sight)}")
    queue = sight.queue_job
    if queue:
        moments = [
            (word, getattr(queue, word)) for word in ("created", "started", "completed", "failed", "canceled")
        ]
        story = ", ".join(f"{word} {moment:%Y-%m-%d %H:%M:%S}" for word, moment in moments if moment)
        say(f"in the queue: {story} UTC; failures {queue.num_failures} of {queue.max_failures}")
    if row.machine:
        say(f"node: {row.instance or 'gone'} on machine {row.machine}, restarts {told.restarts or 0}")
    if told.message and told.message not in (row.problem or sight.reason):
        say(f"the launcher's last words: {told.message}")


class _Reader:
    """The node's lines, each once. `missing` says why there are none to be had."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection, self._group = connection, group
        self._shown = 0
        self._since: datetime | None = None
        self.missing = ""

    def new_lines(self, row: Row) -> list[str]:
        """Those that were not given before, oldest first; none while no node has the job."""
        queue = row.sight.queue_job
        if queue is None or queue.started is None:
            self.missing = "No node has had it yet, so there are no lines of one."
            return []
        self.missing = ""
        lines = self._of_files(queue) if self._connection.cloud == "local" else self._of_salad(queue, row)
        return [printable(line, 2000) for line in lines]

    def _of_files(self, queue: Job) -> list[str]:
        home = Path(os.environ.get(LOCAL_FILE_VARIABLE) or LOCAL_FILE).parent
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in home.glob(NODE_LOGS)]
        # Each begins with the time at which that node got the job.
        parts = sorted(lines_of_job(text.splitlines(), queue.id) for text in texts)
        lines = [line for part in parts for line in part]
        fresh, self._shown = lines[self._shown :], max(self._shown, len(lines))
        return fresh

    def _of_salad(self, queue: Job, row: Row) -> list[str]:
        now = datetime.now(UTC)
        start = self._since or queue.started or now - LONGEST_RUN
        names = {name for name in (row.instance, row.machine) if name}
        try:
            entries = self._connection.salad().log_entries(start, now, names, MOST_LINES)
        except NotFound:
            self.missing = "SaladCloud offers no logs for this organization."
            return []
        except ServiceError as error:
            self.missing = f"SaladCloud's logs cannot be read: {error}"
            return []
        if entries:
            self._since = entries[-1].time + timedelta(microseconds=1)
        elif self._since is None:
            self.missing = "SaladCloud's logs name no line of this node."
        return [f"{entry.time:%H:%M:%S} {entry.text_log or entry.json_log}" for entry in entries]


def lines_of_job(lines: Sequence[str], kelpie_id: str) -> list[str]:
    """Of a node's log what it wrote while it had this job: from `received job <id>` to the next job."""
    found: list[str] = []
    mine = False
    for line in lines:
        if RECEIVED in line:
            mine = line.rstrip().endswith(RECEIVED + kelpie_id)
        if mine:
            found.append(line)
    return found
