"""What state a run is in, from what the queue says and what lies in the bucket. A worker's word alone is not enough."""

from __future__ import annotations

from dataclasses import dataclass

PENDING = "pending"
RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
CANCELED = "canceled"
WITHOUT_WEIGHTS = "completed without weights"
LOST = "lost"

ENDED = frozenset({COMPLETED, FAILED, CANCELED, WITHOUT_WEIGHTS, LOST})


@dataclass(frozen=True)
class Evidence:
    """What lies below a run's model/ folder. `problems` speak against the weights; they are looked at only when done.json is there."""

    done: bool
    problems: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.done and not self.problems


def run_state(queue_status: str | None, evidence: Evidence) -> str:
    """`queue_status` is Kelpie's word, or None when the queue does not know the job.

    Verified weights outweigh everything else: the run is done whatever the queue says, and training it again would be paid for.
    """
    if evidence.finished:
        return COMPLETED
    if queue_status == COMPLETED:
        return WITHOUT_WEIGHTS
    return queue_status or LOST


def explain(state: str, evidence: Evidence, launchers_words: str = "") -> str:
    """Why a run counts as failed, for the person who has to act; empty for any other state.

    While a run lasts nothing is wrong yet: done.json can arrive before the weights that it tells of.

    `launchers_words` is the last message that the launcher on the node left in progress.json.
    """
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
