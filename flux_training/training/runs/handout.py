"""A job that the queue has handed to a node: whether its launcher has reported, and what to do if it never does."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from flux_training.training.runs.run_state import MISSED_HEARTBEATS, LastContact, show_duration, stall

# A launcher reports within seconds of its start. If it does not, a running watcher notices within ten
# minutes, and the scheduled workflow watch.yml, which runs every five minutes, within about 15.
SILENT_SECONDS = 300.0
MAX_REQUEUES = 3
# A launcher reports at least every 30 seconds. A job that is canceled anyway counts as hung after this
# time without a report.
HUNG_SECONDS = 120.0
# A canceled job whose launcher has never reported counts as hung after this time: its worker may be stuck
# in the first download.
UNREPORTED_SECONDS = 45.0
# If an attempt fails on the only machine, the idle worker asks for another machine within 5 minutes
# (docs/services.md), which then has to start.
MIN_RETRY_MINUTES = 10.0
# States in progress.json: WORKING while the launcher runs, FINISHED while the worker uploads the results.
WORKING, FINISHED = ("starting", "training", "verifying"), "finished"
# How often a job has been queued again: an environment variable of the job, which nodes cannot change.
REQUEUES_VARIABLE = "FLUX_REQUEUES"


class HandOutState(StrEnum):
    """RETRYING is shown to users; the others only decide."""

    STARTING = "starting"  # the job has just started, and its launcher has not reported yet
    REPORTED = "reported"
    SILENT = "silent"  # Kelpie gets heartbeats, but the launcher has never reported
    RETRYING = "retrying, waiting for another machine"


@dataclass(frozen=True)
class HandOut:
    """A running job. Times are UTC by the services' clocks.

    `reported`: when progress.json was last written, in this hand-out or before; None if never. `has_failed`: whether it says
    that the launcher failed. `failures`: failed attempts that the queue has counted. `heartbeat_interval` in seconds. `queued`:
    when the job was posted. `completed`: when a worker reported it as completed.
    """

    started: datetime
    heartbeat: datetime
    reported: datetime | None = None
    has_failed: bool = False
    failures: int = 0
    heartbeat_interval: float = 30.0
    queued: datetime | None = None
    completed: datetime | None = None

    @property
    def has_reported(self) -> bool:
        return self.reported is not None and self.reported >= self.started


def hand_out_state(job: HandOut, now: datetime, stall_minutes: float) -> HandOutState:
    """The state of a running job. A launcher is silent after SILENT_SECONDS, or after `stall_minutes` if that is shorter."""
    patience = timedelta(seconds=MISSED_HEARTBEATS * job.heartbeat_interval)
    is_abandoned = now - job.heartbeat > patience
    if (job.has_reported and job.has_failed) or (job.failures and is_abandoned):
        return HandOutState.RETRYING
    if job.has_reported:
        return HandOutState.REPORTED
    # Both times come from Kelpie's clock, so a difference between clocks cannot make
    # a launcher look silent.
    waited = job.heartbeat - job.started
    limit = timedelta(seconds=min(SILENT_SECONDS, stall_minutes * 60))
    return HandOutState.SILENT if waited > limit else HandOutState.STARTING


def is_hung(job: HandOut, stall_minutes: float) -> bool:
    """Whether the worker has sent heartbeats for HUNG_SECONDS since the launcher's last report, or for UNREPORTED_SECONDS without any.

    Or for `stall_minutes` if that is shorter.
    """
    last_report = max(job.started, job.reported or job.started)
    patience = HUNG_SECONDS if job.has_reported else UNREPORTED_SECONDS
    return job.heartbeat - last_report > timedelta(seconds=min(patience, stall_minutes * 60))


def is_trained_elsewhere(job: HandOut, launcher_state: str, now: datetime, stall_minutes: float) -> bool:
    """Whether a node still trains a job that another one has reported as completed, without weights.

    Kelpie gives a job to a second node when no heartbeat arrives, during an outage for instance. The first one may have trained to
    the end meanwhile. Its report ends the job for the queue, and the second node trains on. `launcher_state` is that of progress.json.
    """
    if job.reported is None or job.completed is None:
        return False
    is_uploading = launcher_state == FINISHED and job.reported > job.completed
    if job.has_reported and launcher_state not in WORKING and not is_uploading:
        return False
    patience = timedelta(seconds=min(HUNG_SECONDS, stall_minutes * 60))
    return now - max(job.started, job.reported) < patience


def judge(
    job: HandOut, environment: Mapping[str, str], now: datetime, stall_minutes: float
) -> tuple[HandOutState, str]:
    """The state of a running job, and why it is stalled: empty if it is not. `environment` is the job's."""
    state = hand_out_state(job, now, stall_minutes)
    if state is HandOutState.SILENT:
        count = count_requeues(environment, job.queued, job.reported)
        return state, "" if count < MAX_REQUEUES else describe_silent_launcher(job)
    if state is HandOutState.RETRYING:
        stall_minutes = max(stall_minutes, MIN_RETRY_MINUTES)
    last_report = max(job.started, job.reported or job.started)
    worker, launcher = (now - job.heartbeat).total_seconds(), (now - last_report).total_seconds()
    return state, stall(LastContact(worker, launcher, job.heartbeat_interval), stall_minutes)


def describe_silent_launcher(job: HandOut) -> str:
    """What to say about a job whose launcher is silent and that is not queued again any more."""
    waited = show_duration((job.heartbeat - job.started).total_seconds())
    said = f"the node has sent heartbeats for {waited}, but its launcher has never reported"
    return f"{said}, and neither did those of the {MAX_REQUEUES} nodes before it: the nodes' keys for the bucket may not work"


def count_requeues(
    environment: Mapping[str, str], queued: datetime | None = None, reported: datetime | None = None
) -> int:
    """How many times in a row a run was queued again because its launcher was silent. `environment` is that of its job.

    0 if the job's launcher has `reported` since the job was `queued`: a node that hangs later is the first of a new series.
    """
    if queued and reported and reported >= queued:
        return 0
    text = environment.get(REQUEUES_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
