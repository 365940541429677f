"""What state a run is in, from what the queue says and what lies in the bucket. A worker's word alone is not enough."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PENDING = "pending"
RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
CANCELED = "canceled"
WITHOUT_WEIGHTS = "completed without weights"
STALLED = "stalled"
LOST = "lost"

ENDED = frozenset({COMPLETED, FAILED, CANCELED, WITHOUT_WEIGHTS, LOST})
# Kelpie hands a job out again when two heartbeats have not come.
MISSED_HEARTBEATS = 3
# The launcher's own watchdog ends a trainer after `stallMinutes`; what it says has then as long to arrive.
SILENT_PARTS = 2


class Standing(StrEnum):
    """What a declared run still costs: NEW and CANCELED ones are trained by the next `up`, UNFINISHED ones already are."""

    NEW = "new"
    UNFINISHED = "queued"
    CANCELED = "canceled"
    FAILED = "failed"
    FINISHED = "finished"

    @property
    def is_paid_for(self) -> bool:
        """Whether it is, or will be, paid for. A canceled one may be: declared again (after a destroy, say) it is trained again."""
        return self in (Standing.NEW, Standing.UNFINISHED, Standing.CANCELED)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do. A canceled one that is declared is trained again: it wants a replica."""
        return self in (Standing.FAILED, Standing.FINISHED)


@dataclass(frozen=True)
class Evidence:
    """What lies below a run's model/ folder. `problems` speak against the weights; they are looked at only when done.json is there."""

    done: bool
    problems: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.done and not self.problems


@dataclass(frozen=True)
class Signs:
    """How many seconds ago a running job gave its last signs of life: its worker to the queue, its launcher in the bucket."""

    worker: float
    launcher: float
    heartbeat_interval: float = 30.0


def stall(signs: Signs, stall_minutes: float) -> str:
    """Why a job that the queue calls running is not being trained, and what helps; empty when there is no reason to think so.

    Kelpie has no time limit of its own, and gives a job that failed on a machine to another machine only: in a small group it can
    wait for ever, beside replicas that are paid for.
    """
    patience = stall_minutes * 60
    if signs.worker > max(patience, MISSED_HEARTBEATS * signs.heartbeat_interval):
        return (
            f"no node has reported it for {in_words(signs.worker)}: its node is gone, and no other takes it (none can be had, or it "
            "failed on each); reallocate the container group's instances, so that other machines come"
        )
    if signs.launcher > SILENT_PARTS * patience:
        return (
            f"its worker reports it, but nothing has come into the bucket for {in_words(signs.launcher)}: "
            "the launcher hangs, or the node cannot upload; reallocate its instance"
        )
    return ""


def in_words(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def run_state(queue_status: str | None, evidence: Evidence, stalled: str = "") -> str:
    """`queue_status` is Kelpie's word, or None when the queue does not know the job. `stalled` is what `stall` found.

    Verified weights outweigh everything else: the run is done whatever the queue says, and training it again would be paid for.
    """
    if evidence.finished:
        return COMPLETED
    if queue_status == COMPLETED:
        return WITHOUT_WEIGHTS
    if queue_status == RUNNING and stalled:
        return STALLED
    return queue_status or LOST


def explain(state: str, evidence: Evidence, launchers_words: str = "", stalled: str = "") -> str:
    """Why a run counts as failed, for the person who has to act; empty for any other state.

    While a run lasts nothing is wrong yet: done.json can arrive before the weights that it tells of.

    `launchers_words` is the last message that the launcher on the node left in progress.json.
    """
    if state == STALLED:
        return stalled
    reason = _reason(state, evidence) if state in ENDED else ""
    return f"{reason}: {launchers_words}" if reason and launchers_words else reason


def _reason(state: str, evidence: Evidence) -> str:
    if evidence.problems:
        return "the weights in the bucket are not sound: " + "; ".join(evidence.problems)
    return {
        WITHOUT_WEIGHTS: "the worker reported the job as completed, but no weights lie in the bucket",
        LOST: "the queue no longer knows the job and no weights lie in the bucket",
        FAILED: "the job failed as often as the queue allows",
        CANCELED: "the job was canceled in the queue",
    }.get(state, "")
