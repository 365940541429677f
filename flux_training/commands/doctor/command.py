"""The command: one check after the other, each line as soon as it is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import rich_click as click
from rich.text import Text

from flux_training.clients.connection import Connection
from flux_training.commands.cli import console, say, stack_option
from flux_training.commands.doctor import services as look
from flux_training.commands.doctor import surroundings as here
from flux_training.commands.doctor.finding import Finding, ok, safely
from flux_training.commands.stack.access import connection_of, read_only_engine
from flux_training.commands.stack.engine import project_root
from flux_training.commands.stack.file import stack_settings, uses_local_cloud
from flux_training.training.gpu import memory_needed
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.trainer_config import accepted_document

STYLES = {"ok": "green", "note": "yellow", "bad": "bold red"}
WIDTH = 18

T = TypeVar("T")


class Rounds:
    """Runs checks, prints what they find, and counts what is bad."""

    def __init__(self) -> None:
        self.bad = 0

    def check(self, what: str, check: Callable[[], list[Finding]]) -> bool:
        """Whether nothing was bad."""
        found = safely(what, check)
        for finding in found:
            _print(finding)
        bad = sum(finding.verdict == "bad" for finding in found)
        self.bad += bad
        return bad == 0

    def obtain(self, what: str, act: Callable[[], T], words: Callable[[T], str]) -> T | None:
        """What `act` gives, and a line about it; None when it raised."""
        got: list[T] = []

        def found() -> list[Finding]:
            got.append(act())
            return [ok(what, words(got[0]))]

        return got[0] if self.check(what, found) else None


@click.command()
@stack_option
def doctor(stack: str) -> None:
    """Check all that a training needs: keys, services, bucket rights, GPU, quota, clock, versions.

    Says a line each, and below what is wrong how to mend it. Exit code 1 when something is bad.
    """
    rounds, root = Rounds(), project_root()
    rounds.check("Python", here.check_python)
    rounds.check("Disk", lambda: here.check_disk(root))
    local = rounds.obtain(
        "Stack file",
        lambda: uses_local_cloud(root, stack),
        lambda is_local: (
            f"Pulumi.{stack}.yaml, trains {'in the cloud on this machine' if is_local else 'on SaladCloud'}"
        ),
    )
    rounds.check("Packages", lambda: here.check_packages(root))
    if local is not None:
        _check_stack(rounds, stack)
    mended = "\nNothing speaks against `make up`."
    say(f"\n{rounds.bad} to mend; then `flux doctor` again." if rounds.bad else mended)
    sys.exit(1 if rounds.bad else 0)


def _check_stack(rounds: Rounds, stack: str) -> None:
    root = project_root()
    settings = rounds.obtain(
        "Settings", lambda: stack_settings(root, stack), lambda _: "every key is known and every value fits"
    )
    jobs = rounds.obtain("Jobs", lambda: declare_jobs(settings, root), here.in_number) if settings else None
    if settings:
        rounds.check("AWS package", lambda: here.check_aws_package(settings))
    engine = rounds.obtain("Passphrase", lambda: read_only_engine(stack), lambda _: "given, or not needed")
    if engine is None:
        return
    rounds.check("Engine", lambda: here.check_engine(engine))
    connection = rounds.obtain("Keys", lambda: connection_of(engine, stack), lambda _: "all are given")
    if connection and settings:
        needs = [memory_needed(accepted_document(job.folder.raw_config)) for job in jobs or ()]
        _check_services(rounds, connection, settings, max(needs, default=0))


def _check_services(rounds: Rounds, connection: Connection, settings: StackSettings, need: int) -> None:
    """`need`: GB of GPU memory that the declared jobs need."""
    services = look.Services(connection)
    reached = {
        what: rounds.check(what, partial(look.check_reach, what, url))
        for what, url in look.addresses(connection).items()
    }
    if reached["SaladCloud"]:
        classes = rounds.obtain(
            "SaladCloud's key",
            services.salad.gpu_classes,
            lambda found: f"is taken: {len(found)} GPU classes are offered",
        )
        if classes is not None:
            rounds.check("GPU", lambda: look.check_gpu(classes, settings.cluster, need))
            rounds.check("Quota", lambda: look.check_quota(services.salad, settings.cluster))
            if reached["Kelpie"]:
                rounds.check("Kelpie's key", lambda: look.check_kelpie(services, settings.cluster))
    if settings.storage.kind == "r2":
        rounds.check("Cloudflare's token", lambda: look.check_cloudflare(services, settings))
    if reached["Storage"]:
        storage = services.storage(settings.storage.bucket)
        rounds.check("Bucket", lambda: look.check_bucket(storage, settings))


def _print(finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.verdict:<5}", STYLES[finding.verdict]), f"{finding.what:<{WIDTH}}", finding.words
    )
    console.print(line, highlight=False)
    if finding.mend:
        console.print(Text(f"{'':<5}{'':<{WIDTH}}→ {finding.mend}", style="dim"), highlight=False)
