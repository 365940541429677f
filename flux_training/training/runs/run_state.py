"""The state of a run, from the queue's status and the objects in the bucket. The queue's status alone is not trusted."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import StrEnum

# Kelpie gives a job to another node after two missed heartbeats; allow one more.
MISSED_HEARTBEATS = 3
# If the trainer is silent for `stallMinutes`, the launcher's watchdog stops it. Its report may take the
# same time again to arrive.
STALL_PERIODS = 2

# Shown for a failed run without a readable progress.json. If that file cannot be read, the launcher does
# not write it, because that would reset the used hours.
NO_REPORT = (
    "there is no readable progress.json from its launcher, which refuses to start if files in config/ were changed, if "
    "progress.json or the bucket cannot be read, or if the node's disk is full"
)


class RunState(StrEnum):
    """PENDING to CANCELED are also the names of Kelpie's job statuses. The values are stored in states and shown to users."""

    # Declared, but neither queued nor in the bucket.
    NEW = "new"
    PENDING = "pending"
    RUNNING = "running"
    # Finished, with verified weights in the bucket.
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    WITHOUT_WEIGHTS = "completed without weights"
    # Running according to Kelpie, but without a recent report or heartbeat.
    STALLED = "stalled"
    # Queued once, but Kelpie no longer knows the job, and there are no weights.
    LOST = "lost"
    # Kelpie returned a status that this version does not know.
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, _value: object) -> RunState:
        return cls.UNKNOWN

    @property
    def has_ended(self) -> bool:
        return self in ENDED

    @property
    def is_queued(self) -> bool:
        return self in (RunState.PENDING, RunState.RUNNING, RunState.STALLED)

    @property
    def needs_gpu(self) -> bool:
        """Whether a declared run in this state is still to be paid for. A canceled run that is declared is queued again."""
        return self.is_queued or self in (RunState.NEW, RunState.CANCELED)


ENDED = frozenset(
    {RunState.COMPLETED, RunState.FAILED, RunState.CANCELED, RunState.WITHOUT_WEIGHTS, RunState.LOST}
)
# What is known of a run that failed without a message from its launcher.
UNEXPLAINED = {
    RunState.WITHOUT_WEIGHTS: "the worker reported the job as completed, but there are no weights in the bucket",
    RunState.LOST: "Kelpie no longer knows the job, and there are no weights in the bucket",
    RunState.FAILED: "the job has reached the maximum number of failed attempts",
}
CANCELED_IN_QUEUE = "the job was canceled in the queue"


@dataclass(frozen=True)
class ModelFolderContents:
    """The contents of a run's model/ folder. The weights are checked, and `problems` found, only once done.json exists.

    `changed`: how the weights differ from those that were verified first. Such a run stays finished: it is not paid for again.
    """

    done: bool
    problems: tuple[str, ...] = ()
    changed: str = ""

    @property
    def finished(self) -> bool:
        return self.done and not self.problems


@dataclass(frozen=True)
class LastContact:
    """Seconds since a running job's worker last reported to the queue, and since its launcher last wrote to the bucket."""

    worker_seconds: float
    launcher_seconds: float
    heartbeat_interval: float = 30.0


def stall(contact: LastContact, stall_minutes: float) -> str:
    """Why a job that the queue calls running is probably not being trained, and what to do; empty if it seems fine.

    Kelpie has no time limit, and retries a job that failed on one machine only on another machine: in a small group
    it can wait forever beside replicas that are paid for.
    """
    limit = stall_minutes * 60
    if contact.worker_seconds > max(limit, MISSED_HEARTBEATS * contact.heartbeat_interval):
        return (
            f"no node has reported it for {show_duration(contact.worker_seconds)}: its node is gone and no other node takes it (none is "
            "available, or it failed on each)"
        )
    if contact.launcher_seconds > STALL_PERIODS * limit:
        return (
            f"its worker reports it, but nothing has been written to the bucket for {show_duration(contact.launcher_seconds)}: "
            "the launcher hangs or the node cannot upload"
        )
    return ""


def show_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def describe_unqueued_runs(states: Mapping[str, RunState], up: str, unaffordable: Container[str] = ()) -> str:
    """What a refresh says about the declared runs that it does not queue; empty if there are none. `up`: the command that queues them.

    `unaffordable`: jobs that wait for the budget.
    """
    left = {job for job, state in states.items() if state in (RunState.NEW, RunState.CANCELED)}
    queued = sorted(job for job in left if job not in unaffordable)
    return f"A refresh queues nothing: {up} trains {', '.join(queued)}." if queued else ""


def run_state(queue_status: str | None, evidence: ModelFolderContents, stalled: str = "") -> RunState:
    """`queue_status` is Kelpie's status, None if the queue does not know the job; `stalled` is the result of `stall`.

    Verified weights take precedence: the run is done whatever the queue says, and training it again would cost money.
    """
    if evidence.finished:
        return RunState.COMPLETED
    if queue_status is None:
        return RunState.LOST
    if queue_status == RunState.COMPLETED:
        return RunState.WITHOUT_WEIGHTS
    if queue_status == RunState.RUNNING and stalled:
        return RunState.STALLED
    return RunState(queue_status)


def explain_failure(
    state: RunState, evidence: ModelFolderContents, launcher_message: str = "", stalled: str = ""
) -> str:
    """Why a run failed or is stalled; empty for any other state.

    Not asked of a running job: its done.json may arrive before the weights. `launcher_message` is the last message in progress.json.
    """
    if state is RunState.STALLED:
        return stalled
    reason = _reason(state, evidence) if state.has_ended else ""
    return f"{reason}: {launcher_message}" if reason and launcher_message else reason


def _reason(state: RunState, evidence: ModelFolderContents) -> str:
    if evidence.problems:
        return "the weights in the bucket are not valid: " + "; ".join(evidence.problems)
    return CANCELED_IN_QUEUE if state is RunState.CANCELED else UNEXPLAINED.get(state, "")


def names_cause(reason: str) -> bool:
    """Whether a result of `explain` says why the run failed, and not only that it did."""
    return bool(reason) and reason not in UNEXPLAINED.values() and NO_REPORT not in reason
