"""A deployed stack, looked at: its jobs in queue and bucket, its nodes, the price of an hour."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.gpu_classes import GpuClass
from flux_training.clients.kelpie import Job
from flux_training.clients.results import queue_job
from flux_training.clients.salad import ContainerGroup, Instance
from flux_training.commands.watch.health import problems
from flux_training.commands.watch.job_status import Sight, StackJob, look, stack_jobs
from flux_training.training.cost import usd_of

LOOKS_AT_ONCE = 8
# Nodes change within minutes, and SaladCloud counts requests.
CLUSTER_SECONDS = 15.0


@dataclass(frozen=True)
class Cluster:
    """The nodes by the machine they run on, and dollars an hour of one; empty and None when SaladCloud did not tell."""

    instances: Mapping[str, Instance] = field(default_factory=dict)
    price: float | None = None


@dataclass(frozen=True)
class Row:
    """One job as a person wants to see it. `price` is dollars an hour; `machine` and `instance` are ids, empty while it is on none."""

    sight: Sight
    price: float | None
    spent: float | None
    machine: str
    instance: str
    problem: str

    @property
    def name(self) -> str:
        return self.sight.job.name


@dataclass(frozen=True)
class View:
    """All jobs of the stack at one moment."""

    rows: Sequence[Row]

    @property
    def well(self) -> bool:
        return not any(row.problem for row in self.rows)

    @property
    def ended(self) -> bool:
        return all(row.sight.ended for row in self.rows)

    @property
    def spent(self) -> float | None:
        """Dollars for all jobs; None when no one's are known."""
        known = [row.spent for row in self.rows if row.spent is not None]
        return sum(known) if known else None


def price_of(connection: Connection, outputs: Mapping[str, Any]) -> float | None:
    """Dollars an hour of one of the stack's nodes; None when SaladCloud does not tell or there is no group."""
    name = str((outputs.get("containerGroup") or {}).get("name") or "")
    with suppress(ServiceError):
        group = connection.salad().get_group(name) if name else None
        return usd_an_hour(group, connection.salad().gpu_classes()) if group else None
    return None


def usd_an_hour(group: ContainerGroup, classes: Sequence[GpuClass]) -> float | None:
    """The price of one replica; of several classes the dearest counts. None when the class or its price is not known."""
    wanted = group.container.resources.gpu_classes
    prices = [gpu.price(group.priority or "high") for gpu in classes if gpu.id in wanted]
    return max((float(price) for price in prices if price is not None), default=None)


class Watcher:
    """Looks at a stack's jobs again and again; what has ended is not asked for twice."""

    def __init__(self, connection: Connection, outputs: Mapping[str, Any]) -> None:
        """`outputs` are the stack's, with at least one job."""
        self.jobs: list[StackJob] = stack_jobs(outputs)
        self.storage = connection.storage(str(outputs["bucket"]))
        self.local = connection.cloud == "local"
        self._connection = connection
        group = outputs.get("containerGroup") or {}
        self._group_id, self._group_name = str(group.get("id") or ""), str(group.get("name") or "")
        self._ended: dict[str, Sight] = {}
        self._cluster, self._cluster_at = Cluster(), float("-inf")

    def look(self, jobs: Sequence[StackJob] | None = None) -> View:
        """How all jobs (or those given) are now. Raises ServiceError; SaladCloud's silence only leaves fields empty."""
        sights = self._sights(self.jobs if jobs is None else jobs)
        cluster = self._renewed_cluster(any(not sight.ended for sight in sights))
        wrong = problems(sights, datetime.now(UTC))
        return View([_row(sight, cluster, wrong.get(sight.job.name, "")) for sight in sights])

    def _sights(self, jobs: Sequence[StackJob]) -> list[Sight]:
        still_open = [job for job in jobs if job.name not in self._ended]
        queue = self._queue(still_open)
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            seen = list(pool.map(lambda job: look(job, queue.get(job.kelpie_id), self.storage), still_open))
        self._ended |= {sight.job.name: sight for sight in seen if sight.ended}
        found = self._ended | {sight.job.name: sight for sight in seen}
        return [found[job.name] for job in jobs]

    def _queue(self, jobs: Sequence[StackJob]) -> dict[str, Job]:
        """What the queue knows of these jobs, by their ids: one listing where that is less than asking for each."""
        wanted = {job.kelpie_id for job in jobs if job.kelpie_id}
        found: dict[str, Job] = {}
        kelpie = self._connection.kelpie()
        if len(wanted) > 1 and self._group_id:
            found = {job.id: job for job in kelpie.list_jobs(self._group_id) if job.id in wanted}
        # A job of a group that was replaced is in no listing of the new one.
        for kelpie_id in wanted - found.keys():
            job = queue_job(kelpie, kelpie_id)
            if job is not None:
                found[kelpie_id] = job
        return found

    def _renewed_cluster(self, busy: bool) -> Cluster:
        """The price once; the nodes again after a while, as long as a job may be on one of them."""
        age = time.monotonic() - self._cluster_at
        if age < CLUSTER_SECONDS or (self._cluster.price is not None and not busy):
            return self._cluster
        self._cluster_at = time.monotonic()
        with suppress(ServiceError):
            salad = self._connection.salad()
            group = salad.get_group(self._group_name) if self._group_name else None
            if group is None:
                return self._cluster
            price = self._cluster.price
            if price is None:
                price = usd_an_hour(group, salad.gpu_classes())
            nodes = salad.instances(self._group_name) if busy else []
            self._cluster = Cluster({node.machine_id: node for node in nodes}, price)
        return self._cluster


def _row(sight: Sight, cluster: Cluster, problem: str) -> Row:
    machine = (sight.queue_job.machine_id or "") if sight.queue_job else ""
    node = cluster.instances.get(machine)
    spent = usd_of(sight.told.gpu_seconds, cluster.price)
    return Row(sight, cluster.price, spent, machine, node.id if node else "", problem)
