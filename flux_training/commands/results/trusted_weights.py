"""Which weights are fetched: those that were verified first, or others only if the user accepts them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flux_training.clients.pins import accept_weights, pin_weights
from flux_training.clients.queue.hand_outs import TOO_EARLY
from flux_training.clients.records import read_record
from flux_training.clients.results import problems_of_weights
from flux_training.clients.storage import Storage
from flux_training.commands.watch.job_status import JobStatus, accept_hint, doubt_about_weights
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.records import DoneRecord
from flux_training.training.runs.run_state import RunState

UNKNOWN_ORIGIN = "the queue has no job of this run, so it is unknown who wrote its weights"


@dataclass(frozen=True)
class TrustedWeights:
    """The keys of the weights with the SHA-256 that each must have, None if it is not known; or why they are not downloaded."""

    digests: Mapping[str, str | None] = field(default_factory=dict)
    problem: str = ""


def choose_weights(status: JobStatus, storage: Storage, accept_changed: bool, stack: str) -> TrustedWeights:
    """Records the weights if they have not been verified before, or if the user accepts others. Raises ServiceError."""
    found, pin, steps = status.results.weights, status.pin, status.job.steps
    # Do not verify the weights before the job has ended: until then the run's own node may still write them.
    may_change = status.queue_job is not None and status.queue_job.unfinished
    if accept_changed and found is not None and (pin is not None or not may_change):
        if problems := problems_of_weights(storage, found, steps):
            return TrustedWeights(problem=f"the weights in the bucket are not valid: {'; '.join(problems)}")
        pin = accept_weights(storage, status.job.keys, found, steps, pin)
    elif pin is not None and status.changed_weights:
        return TrustedWeights(problem=f"{status.changed_weights}; {accept_hint(status.job.name, stack)}")
    elif pin is None and status.results.finished and found is not None:
        pin = pin_weights(storage, status.job.keys, found, steps)
    keys = [file.key for file in found.files] if found else [status.job.keys.weights]
    done = read_record(storage, status.job.keys.done, DoneRecord).value
    digests: tuple[str | None, ...] | None = done.digests(len(keys)) if done else None
    if pin is not None:
        digests = _digests_of(pin, done, len(keys))
        if digests is None:
            problem = f"the record of the weights that were verified first ({pin}) is gone, and done.json does not describe them"
            return TrustedWeights(problem=f"{problem}; {accept_hint(status.job.name, stack)}")
    elif not status.results.finished and status.state is not RunState.COMPLETED:
        return TrustedWeights(problem=_why_unverified(status, stack))
    return TrustedWeights(dict(zip(keys, digests or (None,) * len(keys), strict=True)))


def _digests_of(pin: PinnedWeights, done: DoneRecord | None, files: int) -> tuple[str, ...] | None:
    """The SHA-256 of each file. A stack's state has only one for a LoRA of two files; done.json has those of both."""
    if len(pin.digests) == files:
        return pin.digests
    stages = done.stages if done else None
    return stages.in_order if stages and stages.sha256 == pin.sha256 else None


def wrong_digest_hint(job: str, stack: str) -> str:
    """What to do about weights without the SHA-256 that was recorded, perhaps from a done.json that somebody changed."""
    return f"or done.json named other weights: {accept_hint(job, stack)}"


def _why_unverified(status: JobStatus, stack: str) -> str:
    problems = status.results.evidence.problems
    if TOO_EARLY in problems and status.queue_job is None:
        return f"{UNKNOWN_ORIGIN}; {accept_hint(status.job.name, stack)}"
    if status.has_ended and (doubt := doubt_about_weights(problems)):
        return f"{doubt}; {accept_hint(status.job.name, stack)}"
    if problems:
        return f"the weights in the bucket are not valid: {'; '.join(problems)}"
    return "the run has not finished, so they are not verified and not fetched"
