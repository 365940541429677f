"""`flux logs JOB`: the launcher's last message from the bucket, and the log of the node."""

import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from flux_training.clients.connection import LOCAL_FILE, LOCAL_FILE_VARIABLE, Connection
from flux_training.clients.errors import NotFound, ServiceError
from flux_training.clients.kelpie import Job
from flux_training.commands.cli import say, say_wrapped, stack_option
from flux_training.commands.completion import complete_job
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.declared import why_job_is_not_deployed
from flux_training.commands.watch.follow import poll_seconds
from flux_training.commands.watch.job_status import describe_status
from flux_training.commands.watch.watcher import JobRow, Watcher
from flux_training.training.errors import BadInput
from flux_training.training.words import flux_command, make_command, nearest, printable

LOCAL_NODE_LOGS = "log/node-*.log"
# Nodes of the local cloud log this line when they start a job.
JOB_START = "received job "
# Nodes of the local cloud also log each transfer: hundreds of lines between those of the trainer.
TRANSFER = re.compile(r"\S+ \S+ localcloud\.node\.transfers (uploaded|deleted|\d+ files to) ")
MAX_LINES = 10_000


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "-n",
    "--lines",
    default=50,
    show_default=True,
    type=click.IntRange(0, MAX_LINES),
    help="How many of the node's last lines to print.",
)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines until the job has ended.")
@stack_option
def logs(job: str, lines: int, follow: bool, stack: str) -> None:
    """Show JOB's status, the launcher's last message and the last lines of the node's log."""
    engine = read_only_engine(stack)
    outputs = deployed_outputs(engine)
    names = list(outputs.get("jobs") or {})
    if job not in names:
        if why := why_job_is_not_deployed(job, stack):
            raise BadInput([f"{job}: stack {stack} has no such job deployed: {why}"])
        known = f"it has {', '.join(names)}" if names else f"{make_command('up', stack)} deploys its jobs"
        raise BadInput([f"{job}: stack {stack} has no such job{nearest(job, names)}; {known}"])
    connection = connect_to_services(engine, stack)
    watcher = Watcher(connection, outputs, stack)
    wanted = [candidate for candidate in watcher.jobs if candidate.name == job]
    row = watcher.read(wanted).rows[0]
    print_summary(row, stack)
    reader = LogReader(connection)
    for line in reader.new_lines(row)[-lines:] if lines else []:
        say(line)
    if reader.missing:
        say_wrapped(reader.missing)
    while follow and not row.status.has_ended:
        time.sleep(poll_seconds(watcher))
        try:
            row = watcher.read(wanted).rows[0]
        except ServiceError:
            continue
        for line in reader.new_lines(row):
            say(line)
    if follow:
        say_wrapped(f"{job}: {describe_status(row.status)}")


def print_summary(row: JobRow, stack: str) -> None:
    status, progress = row.status, row.status.progress
    # Leave out the advice to run this very command.
    problem = row.problem.removesuffix(f"; {flux_command(f'logs {row.name}', stack)} shows its output")
    say_wrapped(f"{row.name}, run {status.job.run_id}: {problem or describe_status(status)}")
    queue = status.queue_job
    if queue:
        events = ("created", "started", "completed", "failed", "canceled")
        times = [f"{event} {time:%Y-%m-%d %H:%M:%S}" for event in events if (time := getattr(queue, event))]
        say_wrapped(f"queue: {', '.join(times)} UTC; failures {queue.num_failures} of {queue.max_failures}")
    if row.machine:
        instance = f"instance {row.instance}" if row.instance else "the instance is gone"
        say_wrapped(f"node: {instance}, machine {row.machine}, restarts {progress.restarts or 0}")
    if progress.message and progress.message not in (row.problem or status.reason):
        say_wrapped(f"launcher's last message: {progress.message}")


class LogReader:
    """Reads each line of the node's log once. `missing` says why there is none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._printed = 0
        self._since: datetime | None = None
        self.missing = ""

    def new_lines(self, row: JobRow) -> list[str]:
        """The lines that were not returned before, oldest first."""
        queue = row.status.queue_job
        if queue is None or queue.started is None:
            self.missing = "No node has started the job yet, so there is no log."
            return []
        self.missing = ""
        lines = (
            self._from_files(queue)
            if self._connection.cloud == "local"
            else self._from_salad(queue.started, row)
        )
        return [printable(line, 2000) for line in lines]

    def _from_files(self, queue: Job) -> list[str]:
        home = Path(os.environ.get(LOCAL_FILE_VARIABLE) or LOCAL_FILE).parent
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in home.glob(LOCAL_NODE_LOGS)]
        # Sort the lines by time, with which each line begins.
        parts = sorted(log_lines_of_job(text.splitlines(), queue.id) for text in texts)
        lines = [line for part in parts for line in part]
        new, self._printed = lines[self._printed :], max(self._printed, len(lines))
        return new

    def _from_salad(self, started: datetime, row: JobRow) -> list[str]:
        now, start = datetime.now(UTC), self._since or started
        names = {name for name in (row.instance, row.machine) if name}
        try:
            entries = self._connection.salad().log_entries(start, now, names, MAX_LINES)
        except NotFound:
            self.missing = "SaladCloud offers no logs for this organization."
            return []
        except ServiceError as error:
            self.missing = f"SaladCloud's logs cannot be read: {error}"
            return []
        if entries:
            self._since = entries[-1].time + timedelta(microseconds=1)
        elif self._since is None:
            self.missing = "SaladCloud's logs contain no line of this node."
        return [f"{entry.time:%H:%M:%S} {entry.text_log or entry.json_log}" for entry in entries]


def log_lines_of_job(lines: Sequence[str], kelpie_id: str) -> list[str]:
    """The lines that a node logged while it ran this job, without those about transfers that succeeded."""
    found: list[str] = []
    is_ours = False
    for line in lines:
        if JOB_START in line:
            is_ours = line.rstrip().endswith(JOB_START + kelpie_id)
        if is_ours and not TRANSFER.match(line):
            found.append(line)
    return found
