"""Which weights are fetched: those that were verified first, or others only if the user accepts them."""

from dataclasses import dataclass

from flux_training.clients.pins import accept_weights, pin_weights
from flux_training.clients.records import read_record
from flux_training.clients.results import weights_problems
from flux_training.clients.storage import Storage
from flux_training.commands.watch.job_status import JobStatus, accept_hint
from flux_training.training.runs.records import DoneRecord
from flux_training.training.runs.run_state import RunState


@dataclass(frozen=True)
class TrustedWeights:
    """The SHA-256 that the downloaded weights must have, None if it is not known; or why they are not downloaded."""

    sha256: str | None = None
    problem: str = ""


def choose_weights(status: JobStatus, storage: Storage, accept_changed: bool, stack: str) -> TrustedWeights:
    """Records the weights if they have not been verified before, or if the user accepts others. Raises ServiceError."""
    found, pin, steps = status.results.weights, status.pin, status.job.steps
    if pin is not None and found is not None and accept_changed:
        if problems := weights_problems(storage, found, steps):
            return TrustedWeights(problem=f"the weights in the bucket are not valid: {'; '.join(problems)}")
        pin = accept_weights(storage, status.job.keys, found, steps, pin)
    elif pin is not None and status.changed_weights:
        return TrustedWeights(problem=f"{status.changed_weights}; {accept_hint(status.job.name, stack)}")
    elif pin is None and status.results.finished and found is not None:
        pin = pin_weights(storage, status.job.keys, found, steps)
    if pin is not None:
        return TrustedWeights(pin.sha256)
    if not status.results.finished and status.state is not RunState.COMPLETED:
        return TrustedWeights(problem=_why_unverified(status))
    done = read_record(storage, status.job.keys.done, DoneRecord).value
    return TrustedWeights(done.sha256 if done else None)


def wrong_digest_hint(job: str, stack: str) -> str:
    """What to do about weights without the SHA-256 that was recorded, perhaps from a done.json that somebody changed."""
    return f"or done.json named other weights: {accept_hint(job, stack)}"


def _why_unverified(status: JobStatus) -> str:
    if problems := status.results.evidence.problems:
        return f"the weights in the bucket are not valid: {'; '.join(problems)}"
    return "the run has not finished, so they are not verified and not fetched"
