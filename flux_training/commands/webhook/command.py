"""`flux webhook serve`: receives calls, reads the jobs' status and sends notices."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.clients.connection import Connection
from flux_training.clients.errors import NotFound
from flux_training.clients.http import RateLimiter
from flux_training.clients.kelpie import Job
from flux_training.clients.records import read_record
from flux_training.commands.cli import OUTPUTS, UserPath, say_wrapped, stack_option
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.engine import Engine
from flux_training.commands.watch.groups import prices_by_cluster, stack_groups
from flux_training.commands.watch.job_status import job_status
from flux_training.commands.webhook.history import NoticeHistory
from flux_training.commands.webhook.notice import (
    Notice,
    has_reported_end,
    is_unreported,
    notice_about_job,
    parse_stack_job,
)
from flux_training.commands.webhook.notifiers import (
    NOTIFY_URL_VARIABLE,
    check_notify_address,
    notify_slack,
    run_command,
    split_command,
)
from flux_training.commands.webhook.server import JobIdQueue, WebhookServer
from flux_training.training.errors import FluxError
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState

MAX_READS_PER_MINUTE = 120
# The seconds between readings of all jobs. Kelpie sends each call only once, so this finds the jobs whose call was missed.
ALL_JOBS_SECONDS = 300.0

Notify = Callable[[Notice], None]


@click.group()
def webhook() -> None:
    """Get a notice when a job starts, finishes or fails."""


@webhook.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", default=8787, show_default=True, type=click.IntRange(0, 65535), help="0: any free port."
)
@click.option(
    "--notify-url",
    envvar=NOTIFY_URL_VARIABLE,
    metavar="URL",
    help=f"Slack-compatible address to post to. Better set {NOTIFY_URL_VARIABLE}: others can see a command line.",
)
@click.option(
    "--command",
    metavar="CMD",
    help="Program to run, without a shell, with FLUX_NOTICE_JOB, _STATUS, _TEXT … in its environment.",
)
@click.option(
    "--state",
    type=UserPath(dir_okay=False, path_type=Path),
    help="File that stores which notices were sent. [default: outputs/.webhook-<stack>.json]",
)
@stack_option
def serve(
    host: str, port: int, notify_url: str | None, command: str | None, state: Path | None, stack: str
) -> None:
    """Receive Kelpie's calls, read the job's status, and send one notice for each change.

    A call is not signed, so its content is not trusted. Put the address at which this server can be reached from the
    internet into the stack's configuration as `webhook`, then run `make up`.
    """
    notifiers: list[Notify] = []
    if notify_url:
        check_notify_address(notify_url)
        notifiers.append(lambda notice: notify_slack(notify_url, notice))
    if command:
        words = split_command(command)
        notifiers.append(lambda notice: run_command(words, notice))
    engine = read_only_engine(stack)
    history = NoticeHistory(state or Path(OUTPUTS) / f".webhook-{stack}.json")
    monitor = JobMonitor(engine, connect_to_services(engine, stack), history, notifiers)
    inbox = JobIdQueue()
    try:
        receiver = WebhookServer(host, port, inbox)
    except OSError as error:
        what = f"cannot listen at {host}:{port}: {error.strerror}"
        raise FluxError(what, "", "choose another --port or --host") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    say_wrapped(
        f"Listening at http://{host}:{receiver.server_address[1]}/ for stack {stack}. Ctrl-C stops it."
    )
    try:
        monitor.run(inbox)
    finally:
        receiver.shutdown()
        receiver.server_close()


class JobMonitor:
    """Reads the jobs that calls name, and from time to time all of them; sends a notice for each change."""

    def __init__(
        self, engine: Engine, connection: Connection, history: NoticeHistory, notifiers: Sequence[Notify]
    ) -> None:
        self._engine, self._connection, self._history, self._notifiers = (
            engine,
            connection,
            history,
            notifiers,
        )
        self._limiter = RateLimiter(MAX_READS_PER_MINUTE)
        self._outputs: dict[str, Any] = {}
        self._price: float | None = None

    def run(self, inbox: JobIdQueue) -> None:
        """Until the process ends."""
        next_time = 0.0
        while True:
            if time.monotonic() >= next_time:
                self._attempt(self.check_all)
                next_time = time.monotonic() + ALL_JOBS_SECONDS
            job_id = inbox.get(next_time - time.monotonic())
            if job_id is not None:
                self._limiter.wait()
                self._attempt(self.check, job_id)

    def check(self, kelpie_id: str) -> None:
        """Read the job that a call named. Raises FluxError."""
        if not self._outputs.get("bucket"):
            self._read_outputs()
        if self._history.is_new:
            # No reading of all jobs has succeeded so far, so report only the job that the call named.
            self._start_history([job for job in self._jobs() if job.id != kelpie_id])
        try:
            self._report(self._connection.kelpie().get_job(kelpie_id))
        except NotFound:
            return

    def check_all(self) -> None:
        """Read all jobs of the stack's groups. Without a history, only record their status. Raises FluxError."""
        self._read_outputs()
        jobs = self._jobs()
        if self._history.is_new:
            self._start_history(jobs)
        for job in jobs:
            if not has_reported_end(self._history.statuses.get(job.id, [])):
                self._report(job)

    def _jobs(self) -> list[Job]:
        groups = [group.id for group in stack_groups(self._outputs).values() if group.id]
        return [job for group in groups for job in self._connection.kelpie().list_jobs(group)]

    def _start_history(self, jobs: Sequence[Job]) -> None:
        self._history.record_baseline({job.id: job.status for job in jobs if job.status != RunState.PENDING})

    def _report(self, job: Job) -> None:
        bucket = str(self._outputs.get("bucket") or "")
        known = parse_stack_job(job, bucket, Layout(str(self._outputs.get("prefix") or "")).runs)
        if known is None:
            return
        storage = self._connection.storage(bucket)
        record = read_record(storage, known.keys.record, RunRecord).value or RunRecord()
        status = job_status(replace(known, steps=record.steps), job, storage)
        notice = notice_about_job(status, bucket, self._prices.get(job.container_group_id))
        if notice is None or not is_unreported(notice, self._history.statuses):
            return
        self._history.add(notice.kelpie_id, notice.status)
        say_wrapped(notice.text())
        for notify in self._notifiers:
            try:
                notify(notice)
            except FluxError as error:
                say_wrapped(f"notice not sent: {error}")

    def _read_outputs(self) -> None:
        self._outputs = deployed_outputs(self._engine)
        prices = prices_by_cluster(self._connection, self._outputs)
        self._prices = {group.id: prices[name] for name, group in stack_groups(self._outputs).items()}

    def _attempt(self, check: Callable[..., None], *arguments: str) -> None:
        """Keep running if a service fails or the disk is full; the next check tries again."""
        try:
            check(*arguments)
        except FluxError as error:
            say_wrapped(f"{error}; trying again later")
        except OSError as error:
            say_wrapped(
                f"the history cannot be written ({error.strerror}), so no notice is sent; trying again later"
            )
