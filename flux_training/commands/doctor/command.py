"""Runs the checks one after the other and prints each result at once."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TypeVar

import rich_click as click
from rich.table import Table
from rich.text import Text

from flux_training.clients.connection import Connection
from flux_training.clients.reachability import probe_services, service_addresses
from flux_training.clients.stack.services import StackServices
from flux_training.commands.cli import console, say_wrapped, screen, stack_option
from flux_training.commands.doctor import machine, services
from flux_training.commands.doctor.result import CheckResult, check_cluster, ok, run_check
from flux_training.commands.stack.access import connect_to_services, deployed_outputs, read_only_engine
from flux_training.commands.stack.file import stack_settings, uses_local_cloud
from flux_training.commands.stack.project import project_name, project_root
from flux_training.commands.watch.job_status import stack_jobs
from flux_training.training.cluster_settings import ClusterSettings
from flux_training.training.gpu import memory_needed
from flux_training.training.jobs.declare import DeclaredJob, weights_in_image
from flux_training.training.settings import StackSettings
from flux_training.training.words import flux_command, make_command

STYLES = {"ok": "green", "note": "yellow", "bad": "bold red"}
TITLE_WIDTH = 20

T = TypeVar("T")


class DoctorChecks:
    """Runs checks and keeps their results. `on_result` gets each at once."""

    def __init__(self, on_result: Callable[[CheckResult], None]) -> None:
        self.results: list[CheckResult] = []
        self._on_result = on_result

    @property
    def bad(self) -> int:
        return sum(result.verdict == "bad" for result in self.results)

    def check(self, title: str, check: Callable[[], list[CheckResult]]) -> bool:
        """Whether no result is bad."""
        results = run_check(title, check)
        for result in results:
            self._on_result(result)
        self.results += results
        return all(result.verdict != "bad" for result in results)

    def obtain(self, title: str, get: Callable[[], T], describe: Callable[[T], str]) -> T | None:
        """What `get` returns, described in a line; None if it raised."""
        values: list[T] = []

        def check() -> list[CheckResult]:
            values.append(get())
            return [ok(title, describe(values[0]))]

        return values[0] if self.check(title, check) else None


@click.command()
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(stack: str, as_json: bool) -> None:
    """Check everything that a training needs: keys, services, bucket rights, GPU, quota, clock, versions.

    Prints one line for each check, and how to fix a problem. Exit code 1: there is a problem.
    """
    checkup = DoctorChecks(on_result=(lambda _: None) if as_json else print_result)
    _check_all(checkup, stack)
    if as_json:
        checks = [asdict(result) for result in checkup.results]
        click.echo(
            json.dumps({"version": 1, "stack": stack, "well": not checkup.bad, "checks": checks}, indent=2)
        )
    elif checkup.bad:
        say_wrapped(f"\n{checkup.bad} to fix; then run {flux_command('doctor', stack)} again.")
    else:
        say_wrapped(f"\nAll checks passed. Next: {make_command('up', stack)}.")
    sys.exit(1 if checkup.bad else 0)


def _check_all(checkup: DoctorChecks, stack: str) -> None:
    root = project_root()
    checkup.check("Python", lambda: machine.check_python(root))
    checkup.check("Disk", lambda: machine.check_disk(root))
    local = checkup.obtain(
        "Stack file",
        lambda: uses_local_cloud(root, stack),
        lambda is_local: f"Pulumi.{stack}.yaml, uses {'the local cloud' if is_local else 'SaladCloud'}",
    )
    checkup.check("Packages", lambda: machine.check_packages(root))
    if local is not None:
        _check_stack(checkup, stack)


def _check_stack(checkup: DoctorChecks, stack: str) -> None:
    root = project_root()
    settings = checkup.obtain("Settings", lambda: stack_settings(root, stack), lambda _: "all are valid")
    jobs = None
    if settings:
        jobs = checkup.obtain("Jobs", lambda: machine.declared_jobs(settings, stack), machine.summarise_jobs)
        checkup.check("AWS package", lambda: machine.check_aws_package(settings))
    engine = checkup.obtain("Passphrase", lambda: read_only_engine(stack), lambda _: "set, or not needed")
    if engine is None:
        return
    checkup.check("Engine", lambda: machine.check_engine(engine))
    connection = checkup.obtain("Keys", lambda: connect_to_services(engine, stack), lambda _: "all are set")
    if connection and settings:
        needs = {
            name: _memory_needed(
                (job for job in jobs or () if job.cluster == name), weights_in_image(settings, name)
            )
            for name in settings.all_clusters
        }
        if _check_services(checkup, connection, settings, needs, stack):
            storage = connection.storage(settings.storage.bucket)
            checkup.check(
                "Results",
                lambda: services.check_finished_weights(
                    storage, stack_jobs(deployed_outputs(engine), connection.nodes_reach_records), stack
                ),
            )


def _memory_needed(jobs: Iterable[DeclaredJob], weights: str) -> int:
    """GB of GPU memory that all of these jobs need. `weights`: what their image holds."""
    return max((memory_needed(job.folder.document, weights) for job in jobs), default=0)


def _check_services(
    checkup: DoctorChecks,
    connection: Connection,
    settings: StackSettings,
    memory_gb: Mapping[str, int],
    stack: str,
) -> bool:
    """Whether the bucket can be used. `memory_gb`: GPU memory that the declared jobs of each cluster need."""
    up, owner = make_command("up", stack), f"{project_name(project_root())}/{stack}"
    connection = connection.model_copy(update={"few_retries": True})
    urls = service_addresses(connection)
    if settings.storage.kind == "r2":
        urls["Cloudflare"] = connection.cloudflare_url
    if not checkup.check("Proxy", lambda: services.check_proxies(urls.values())):
        return False
    is_reachable = {
        title: checkup.check(title, partial(services.check_reachable, title, probe))
        for title, probe in probe_services(urls).items()
    }
    if is_reachable["SaladCloud"]:
        classes = checkup.obtain(
            "SaladCloud's key",
            connection.salad().gpu_classes,
            lambda found: f"is accepted: {len(found)} GPU classes are offered",
        )
        if classes is not None:
            clusters = settings.all_clusters
            for name, cluster in clusters.items():
                check = partial(services.check_gpu, classes, cluster, memory_gb[name])
                checkup.check("GPU", partial(check_cluster, name, "GPU", check))
                check = partial(_check_group, connection, cluster, owner, settings.adopt)
                checkup.check("Group", partial(check_cluster, name, "Group", check))
            checkup.check("Quota", lambda: services.check_quota(connection.salad(), clusters.values()))
            for name, cluster in clusters.items() if is_reachable["Kelpie"] else ():
                check = partial(services.check_kelpie, connection, cluster, up)
                checkup.check("Kelpie's key", partial(check_cluster, name, "Kelpie's key", check))
    if is_reachable.get("Cloudflare"):
        checkup.check("Cloudflare's token", lambda: services.check_cloudflare(connection, settings, up))
    stack_services = StackServices(connection, settings)
    checkup.check("Nodes' keys", lambda: services.check_node_keys(stack_services))
    if not is_reachable["Storage"]:
        return False
    storage = connection.storage(settings.storage.bucket)
    return checkup.check("Bucket", lambda: services.check_bucket(storage, settings, up))


def _check_group(
    connection: Connection, cluster: ClusterSettings, owner: str, adopt: bool
) -> list[CheckResult]:
    return services.check_group(connection.salad().get_group(cluster.name), owner, adopt)


def print_result(result: CheckResult) -> None:
    """In columns on a terminal; elsewhere each text stays on one line."""
    fix = Text(f"fix: {result.fix}" if result.fix else "", style="dim")
    verdict = Text(result.verdict, style=STYLES[result.verdict])
    if not console.is_terminal:
        console.print(
            f"{result.verdict:<5}{result.title:<{TITLE_WIDTH}}{result.message}", highlight=False, markup=False
        )
        if fix:
            console.print(" " * (5 + TITLE_WIDTH) + fix.plain, highlight=False, markup=False)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=4)
    table.add_column(width=TITLE_WIDTH - 1)
    table.add_column()
    table.add_row(verdict, result.title, Text(result.message))
    if fix:
        table.add_row("", "", fix)
    screen.print(table)
