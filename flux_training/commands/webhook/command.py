"""`flux webhook serve`: receive, look, tell."""

from __future__ import annotations

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
from flux_training.clients.errors import NotFound, ServiceError
from flux_training.clients.http import RateLimiter
from flux_training.clients.kelpie import Job
from flux_training.clients.results import read_json
from flux_training.commands.cli import OUTPUTS, UserPath, say, stack_option
from flux_training.commands.stack.access import connection_of, deployed_outputs, read_only_engine
from flux_training.commands.stack.engine import Engine
from flux_training.commands.watch.job_status import look
from flux_training.commands.watch.watcher import price_of
from flux_training.commands.webhook.memory import Memory
from flux_training.commands.webhook.notice import Notice, is_news, is_settled, notice_of, stack_job
from flux_training.commands.webhook.server import Inbox, Receiver
from flux_training.commands.webhook.tellers import (
    NOTIFY_URL_VARIABLE,
    check_address,
    command_words,
    tell_command,
    tell_slack,
)
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.values import count

LOOKS_A_MINUTE = 120
# Kelpie calls once and never again: what was missed is found by looking at all jobs now and then.
ROUND_SECONDS = 300.0

Tell = Callable[[Notice], None]


@click.group()
def webhook() -> None:
    """Be told when a job starts, finishes or fails."""


@webhook.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", default=8787, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option(
    "--notify-url",
    envvar=NOTIFY_URL_VARIABLE,
    metavar="URL",
    help=f"Slack-compatible address to post to. Give it as {NOTIFY_URL_VARIABLE}: others can see a command line.",
)
@click.option(
    "--command",
    metavar="CMD",
    help="Program to run, with FLUX_NOTICE_JOB, _STATUS, _TEXT … in its environment; no shell.",
)
@click.option(
    "--state",
    type=UserPath(dir_okay=False, path_type=Path),
    help="Where to remember what was told. [default: outputs/.webhook-<stack>.json]",
)
@stack_option
def serve(
    host: str, port: int, notify_url: str | None, command: str | None, state: Path | None, stack: str
) -> None:
    """Receive Kelpie's calls, look at the job itself, and tell each real change once.

    A call is not signed and so only a hint: what it says is not believed. Put the address at which this can be reached
    from the internet into the stack's configuration as `webhook`, then run `make up`.
    """
    tellers: list[Tell] = []
    if notify_url:
        check_address(notify_url)
        tellers.append(lambda notice: tell_slack(notify_url, notice))
    if command:
        words = command_words(command)
        tellers.append(lambda notice: tell_command(words, notice))
    engine = read_only_engine(stack)
    memory = Memory(state or Path(OUTPUTS) / f".webhook-{stack}.json")
    watch = Lookout(engine, connection_of(engine, stack), memory, tellers)
    inbox = Inbox()
    try:
        receiver = Receiver(host, port, inbox)
    except OSError as error:
        raise FluxError(
            f"cannot listen at {host}:{port}: {error.strerror}", "", "choose another --port or --host"
        ) from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    say(f"Listening at http://{host}:{receiver.server_address[1]}/ for stack {stack}. Ctrl-C stops it.")
    try:
        watch.go_on(inbox)
    finally:
        receiver.shutdown()
        receiver.server_close()


class Lookout:
    """Looks at the jobs that hints name, and at all of them now and then; tells what is new."""

    def __init__(
        self, engine: Engine, connection: Connection, memory: Memory, tellers: Sequence[Tell]
    ) -> None:
        self._engine, self._connection, self._memory, self._tellers = engine, connection, memory, tellers
        self._limiter = RateLimiter(LOOKS_A_MINUTE)
        self._outputs: dict[str, Any] = {}
        self._price: float | None = None

    def go_on(self, inbox: Inbox) -> None:
        """Until the process ends."""
        next_round = 0.0
        while True:
            if time.monotonic() >= next_round:
                self._safely(self.look_at_all)
                next_round = time.monotonic() + ROUND_SECONDS
            job_id = inbox.get(next_round - time.monotonic())
            if job_id is not None:
                self._limiter.wait()
                self._safely(lambda hint=job_id: self.look_at(hint))  # type: ignore[misc]

    def look_at(self, kelpie_id: str) -> None:
        """The job of a hint. Raises FluxError."""
        if not self._outputs.get("bucket"):
            self._renew()
        if self._memory.fresh:
            # The first look failed: what happened before is still to be remembered, and only the hint is news.
            self._begin([job for job in self._jobs() if job.id != kelpie_id])
        try:
            self._consider(self._connection.kelpie().get_job(kelpie_id))
        except NotFound:
            return

    def look_at_all(self) -> None:
        """All jobs of the stack's group. At the very first time what has happened before is remembered, not told. Raises FluxError."""
        self._renew()
        jobs = self._jobs()
        if self._memory.fresh:
            self._begin(jobs)
        for job in jobs:
            if not is_settled(self._memory.told.get(job.id, [])):
                self._consider(job)

    def _jobs(self) -> list[Job]:
        group = str((self._outputs.get("containerGroup") or {}).get("id") or "")
        return self._connection.kelpie().list_jobs(group) if group else []

    def _begin(self, jobs: Sequence[Job]) -> None:
        self._memory.begin_with({job.id: job.status for job in jobs if job.status != RunState.PENDING})

    def _consider(self, job: Job) -> None:
        bucket = str(self._outputs.get("bucket") or "")
        known = stack_job(job, bucket, Layout(str(self._outputs.get("prefix") or "")).runs)
        if known is None:
            return
        storage = self._connection.storage(bucket)
        launch = read_json(storage, f"{known.keys.config}launch.json") or {}
        sight = look(replace(known, steps=count(launch.get("steps")) or 0), job, storage)
        notice = notice_of(sight, bucket, self._price)
        if notice is None or not is_news(notice, self._memory.told):
            return
        self._memory.note(notice.kelpie_id, notice.status)
        say(notice.text())
        for tell in self._tellers:
            try:
                tell(notice)
            except FluxError as error:
                say(f"not told: {error}")

    def _renew(self) -> None:
        self._outputs = deployed_outputs(self._engine)
        self._price = price_of(self._connection, self._outputs)

    def _safely(self, act: Callable[[], None]) -> None:
        """A service that is away, or a full disk, ends nothing: the next round looks again."""
        try:
            act()
        except (ServiceError, FluxError) as error:
            say(f"{error}; looking again later")
        except OSError as error:
            say(
                f"what was told cannot be remembered ({error.strerror}), so nothing is told; looking again later"
            )
