"""The status of a deployed stack: its jobs, their nodes, and the price of an hour."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

from flux_training.clients.connection import Connection
from flux_training.clients.errors import ServiceError
from flux_training.clients.kelpie import Job
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.requeue import SilentRun, job_of_run
from flux_training.clients.salad import Instance
from flux_training.clients.stack.spending import reserve_budget_again
from flux_training.commands.stack.declared import withdrawn_jobs
from flux_training.commands.watch.groups import StackGroup, stack_groups, usd_an_hour
from flux_training.commands.watch.job_status import (
    JobStatus,
    StackJob,
    describe_status,
    find_problems,
    job_status,
    stack_jobs,
)
from flux_training.commands.watch.sweeps import Groups, differing_settings_of
from flux_training.commands.watch.trainer import trainer_note
from flux_training.training.cost import usd_of
from flux_training.training.estimates.actuals import (
    Waste,
    expected_cost,
    paid_seconds_of,
    total_waste,
    waste_of,
)
from flux_training.training.estimates.ranges import Range
from flux_training.training.runs.handout import MAX_REQUEUES, count_requeues
from flux_training.training.runs.run import OWNER_VARIABLE, Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.words import DEFAULT_STACK, make_command

MAX_PARALLEL_REQUESTS = 8
# The seconds between requests for the nodes, which change over minutes. SaladCloud limits the rate of requests.
CLUSTER_SECONDS = 15.0
# Kelpie's value for the machine of a job that was canceled (docs/services.md).
CANCELED_BY_USER = "user"


@dataclass(frozen=True)
class ClusterInfo:
    """Instances by machine id, and the price of one in dollars an hour. Empty if SaladCloud does not answer."""

    instances: Mapping[str, Instance] = field(default_factory=dict)
    price: float | None = None


@dataclass(frozen=True)
class LastRead:
    """What was read of a cluster, and when by the monotonic clock."""

    info: ClusterInfo = field(default_factory=ClusterInfo)
    at: float = float("-inf")


@dataclass(frozen=True)
class JobRow:
    """One job of the table. `price` is in dollars an hour; `machine` and `instance` are ids, empty while no node has the job, and once it is canceled.

    `trainer_note`: how the node's ai-toolkit differs from the one that lint assumed; empty if it does not.
    `differs`: its values of the settings in which the jobs of its sweep differ, empty for other jobs.
    """

    status: JobStatus
    price: float | None
    spent: float | None
    machine: str
    instance: str
    problem: str
    trainer_note: str = ""
    differs: str = ""

    @property
    def name(self) -> str:
        return self.status.job.name

    @property
    def waste(self) -> Waste:
        return waste_of(self.status.progress, self.status.job.idle_seconds)

    @property
    def expected(self) -> Range | None:
        """What a run that is training will have cost in the end, in dollars."""
        return None if self.status.has_ended else expected_cost(self.status.progress, self.price)


@dataclass(frozen=True)
class StackStatus:
    """All jobs of the stack at one moment."""

    rows: Sequence[JobRow]

    @property
    def is_well(self) -> bool:
        return not any(row.problem for row in self.rows)

    @property
    def has_ended(self) -> bool:
        return all(row.status.has_ended for row in self.rows)

    @property
    def waste(self) -> Waste:
        return total_waste(row.waste for row in self.rows)

    @property
    def paid_seconds(self) -> float:
        """Without idle time."""
        return sum(paid_seconds_of(row.status.progress) for row in self.rows)

    @property
    def spent(self) -> float | None:
        """Dollars for all jobs; None if unknown for every job."""
        known = [row.spent for row in self.rows if row.spent is not None]
        return sum(known) if known else None


class Watcher:
    """Reads the status of a stack's jobs repeatedly. Jobs that have ended are not read again."""

    def __init__(
        self,
        connection: Connection,
        outputs: Mapping[str, Any],
        stack: str = DEFAULT_STACK,
        trainer_dates: Mapping[str, str] | None = None,
        sweeps: Groups = (),
    ) -> None:
        """`outputs` are the stack's, with at least one job. `stack` is named in messages.

        `trainer_dates`: the day of the ai-toolkit that lint assumes, by cluster. `sweeps`: jobs that differ in settings only.
        """
        self._stack = stack
        self._trainer_dates = trainer_dates or {}
        self.jobs = stack_jobs(outputs, connection.nodes_reach_records)
        self.storage = connection.storage(str(outputs["bucket"]))
        self.local = connection.cloud == "local"
        self._connection = connection
        self._layout = Layout(str(outputs.get("prefix") or ""))
        self._groups = stack_groups(outputs)
        self._ended: dict[str, JobStatus] = {}
        self._sweeps = sweeps
        self._clusters = {name: LastRead() for name in self._groups}

    def read(self, jobs: Sequence[StackJob] | None = None) -> StackStatus:
        """The status of `jobs`, by default of all. Raises ServiceError; if only SaladCloud fails, some fields are empty."""
        # Report a failing service soon: with all retries the user would wait for a minute without a message.
        self._connection.check_alive()
        statuses = self._statuses(self.jobs if jobs is None else jobs)
        busy = {status.job.cluster for status in statuses if not status.has_ended}
        clusters = {name: self._current_cluster(name, name in busy) for name in self._groups}
        canceled = [status.job.name for status in statuses if status.state == RunState.CANCELED]
        withdrawn = withdrawn_jobs(self._stack, canceled) if canceled else []
        problems = find_problems(statuses, datetime.now(UTC), self._stack, withdrawn)
        return StackStatus(
            [
                job_row(
                    status,
                    clusters.get(status.job.cluster, ClusterInfo()),
                    problems.get(status.job.name, ""),
                    self._trainer_note(status),
                    self._differing.get(status.job.name, ""),
                )
                for status in statuses
            ]
        )

    def _trainer_note(self, status: JobStatus) -> str:
        cluster = status.job.cluster
        return trainer_note(
            status.progress.trainer, self._trainer_dates.get(cluster, ""), cluster, self._stack
        )

    @property
    def clusters(self) -> Mapping[str, ClusterInfo]:
        """What was last read of each container group, by its name. Makes no request."""
        named = {group.name: self._clusters[name].info for name, group in self._groups.items()}
        return {name: info for name, info in named.items() if name}

    @cached_property
    def _differing(self) -> Mapping[str, str]:
        return differing_settings_of(self.storage, self.jobs, self._sweeps)

    def _statuses(self, jobs: Sequence[StackJob]) -> list[JobStatus]:
        unfinished = [job for job in jobs if job.name not in self._ended]
        queue = self._queue_jobs(unfinished)
        with ThreadPoolExecutor(MAX_PARALLEL_REQUESTS) as pool:
            read = list(pool.map(lambda job: job_status(job, queue.get(job.name), self.storage), unfinished))
        # A stalled job may continue, so it is read again.
        final = [status for status in read if status.has_ended and status.state != RunState.STALLED]
        self._ended |= {status.job.name: status for status in final}
        known = self._ended | {status.job.name: status for status in read}
        return [known[job.name] for job in jobs]

    def queue_again(self, status: JobStatus) -> str:
        """Queue the run of a job whose launcher is silent again, or finish what another watcher has begun.

        Returns what was done, empty if nothing. Raises ServiceError, FluxError.
        """
        # Read the job again: another watcher may have acted since, or the launcher may have reported.
        status = job_status(status.job, self._own(status.job, {}), self.storage)
        if not status.may_need_requeue:
            self._ended.pop(status.job.name, None)
            return f"{status.job.name}: {describe_status(status)}"
        job, salad = status.queue_job, self._connection.salad()
        known = self._groups.get(status.job.cluster)
        group = salad.get_group(known.name) if known else None
        place = self._place(status.job)
        if job is None or group is None or group.id != job.container_group_id or not place.is_own(job):
            return ""
        owner = group.environment_value(OWNER_VARIABLE) or ""
        queue = Queue(self._connection.kelpie(), group.id)
        run = SilentRun(
            queue, self.storage, status.job.keys, place, owner, partial(self._reserve, status.job)
        )
        # Replace the node, too: a worker that waits for a server that sends nothing hangs even after its job was canceled
        # (docs/services.md).
        replaced = self._replace_node(group.name, job) if status.is_silent else ""
        posted = run.queue_again(job) if status.is_silent else run.finish(job)
        if posted is None:
            return ""
        self._ended.pop(status.job.name, None)
        done = f"{replaced}the job is canceled"
        return (
            f"{status.job.name}: the launcher never reported from its node; {done}, and the run is queued again "
            f"({count_requeues(posted.environment)} of {MAX_REQUEUES})"
        )

    def _reserve(self, job: StackJob, replaced: Job) -> None:
        again = make_command("up", self._stack)
        reserve_budget_again(self.storage, self._layout.prefix, job.keys, replaced.id, again)

    def _replace_node(self, group: str, job: Job) -> str:
        """What to say of it. The run is queued again in any case: it may be given to another node."""
        try:
            is_replaced = self._connection.salad().reallocate_machine(group, job.machine_id or "")
        except ServiceError as error:
            return f"the node was not replaced ({error}), "
        return "the node is replaced, " if is_replaced else ""

    def _place(self, job: StackJob) -> RunPlace:
        return RunPlace.of(self.storage.bucket, self._layout, job.name, job.run_id)

    def _queue_jobs(self, jobs: Sequence[StackJob]) -> dict[str, Job]:
        """The runs' jobs by name: from one listing for each cluster with several."""
        wanted = {job.kelpie_id for job in jobs if job.kelpie_id}
        listed = [job for group in self._groups_with_several(jobs) for job in self._list(group)]
        # A canceled job may have a successor, and the queue of a new group does not list the jobs of the group it replaced. So
        # read these jobs one by one.
        by_id = {job.id: job for job in listed if job.id in wanted and job.status != "canceled"}
        found = {job.name: self._own(job, by_id) for job in jobs}
        return {name: job for name, job in found.items() if job is not None}

    def _groups_with_several(self, jobs: Sequence[StackJob]) -> list[StackGroup]:
        clusters = [job.cluster for job in jobs if job.kelpie_id]
        return [group for name, group in self._groups.items() if group.id and clusters.count(name) > 1]

    def _list(self, group: StackGroup) -> list[Job]:
        return self._connection.kelpie().list_jobs(group.id)

    def _own(self, job: StackJob, listed: Mapping[str, Job]) -> Job | None:
        """The job of the run; `listed` are jobs by id."""
        place, found = self._place(job), listed.get(job.kelpie_id)
        if found is not None and place.is_own(found):
            return found
        return job_of_run(self._connection.kelpie(), job.kelpie_id, place)

    def _current_cluster(self, name: str, is_busy: bool) -> ClusterInfo:
        """The price is read once; the nodes again after CLUSTER_SECONDS while a job may run on one of them."""
        last, group_name = self._clusters[name], self._groups[name].name
        age = time.monotonic() - last.at
        if age < CLUSTER_SECONDS or (last.info.price is not None and not is_busy):
            return last.info
        self._clusters[name] = replace(last, at=time.monotonic())
        with suppress(ServiceError):
            salad = self._connection.salad()
            group = salad.get_group(group_name) if group_name else None
            if group is None:
                return last.info
            price = last.info.price
            if price is None:
                price = usd_an_hour(group, salad.gpu_classes())
            nodes = salad.instances(group_name) if is_busy else []
            info = ClusterInfo({node.machine_id: node for node in nodes}, price)
            self._clusters[name] = LastRead(info, time.monotonic())
        return self._clusters[name].info


def job_row(status: JobStatus, cluster: ClusterInfo, problem: str, note: str, differs: str) -> JobRow:
    machine = (status.queue_job.machine_id or "") if status.queue_job else ""
    machine = "" if machine == CANCELED_BY_USER else machine
    node = cluster.instances.get(machine)
    spent = usd_of(status.progress.gpu_seconds, cluster.price)
    return JobRow(status, cluster.price, spent, machine, node.id if node else "", problem, note, differs)
