"""The deployed jobs of a stack, the status of each, and what is wrong with it."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.queue.hand_outs import TOO_EARLY, TOO_LATE
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.requeue import job_of_run
from flux_training.clients.results import NO_RESULTS, RunResults, inspect_run, run_status
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.cost import HOUR_SECONDS
from flux_training.training.runs.handout import FINISHED, HandOutState
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.run import RunKeys
from flux_training.training.runs.run_state import RunState, names_cause, show_duration
from flux_training.training.settings import SINGLE_CLUSTER
from flux_training.training.values import mapping, number
from flux_training.training.words import DEFAULT_STACK, counted, flux_command, make_command, printable

# A job that has been pending longer than this has a problem. Allocating a node and downloading the image takes minutes.
MAX_PENDING_SECONDS = 900.0
PENDING_HINT = (
    "is Kelpie's user invited to the SaladCloud organization, is a GPU of this class available, does the container "
    "group still exist? {doctor} checks this"
)
RETRY_RULE = (
    "Kelpie never gives a job back to a machine that failed it, so with `maxReplicas: 1` the next attempt waits until the idle "
    "machine has been replaced"
)
SILENT = (
    "its node sends heartbeats, but its launcher has not reported since it got the job: {watch} and {up} "
    "cancel it and queue it again"
)
NO_PROGRESS = RunProgress()
TRAINING = "training"  # The state in progress.json while the trainer runs.


@dataclass(frozen=True)
class StackJob:
    """One entry of the stack output `jobs`. `nodes_reach_records`: whether nodes can write the records below .flux/.

    `cluster`: the name of its cluster, SINGLE_CLUSTER if the stack has a single one. `idle_seconds`: its share of the replicas' idle time, None if not
    known.
    """

    name: str
    run_id: str
    kelpie_id: str
    steps: int
    keys: RunKeys
    stall_minutes: float = 30.0
    weights: PinnedWeights | None = None
    nodes_reach_records: bool = False
    cluster: str = SINGLE_CLUSTER
    idle_seconds: float | None = None

    def in_queue(self, kelpie: Kelpie, bucket: str) -> Job | None:
        """Its job in the queue, if it is really this run's. Raises ServiceError."""
        return job_of_run(kelpie, self.kelpie_id, RunPlace.at(bucket, self.keys))


@dataclass(frozen=True)
class JobStatus:
    """`reason` is empty unless the job failed or stalled. `findings`: what is wrong with what its node wrote.

    `hand_out` is None unless the queue says that the job is running. `planted`: objects that no node of the run can have written.
    """

    job: StackJob
    state: RunState
    reason: str = ""
    progress: RunProgress = NO_PROGRESS
    queue_job: Job | None = None
    findings: tuple[str, ...] = ()
    hand_out: HandOutState | None = None
    results: RunResults = NO_RESULTS
    planted: int = 0

    @property
    def pin(self) -> PinnedWeights | None:
        """The weights that were verified first. What the stack's state says counts more than what is in the bucket."""
        return self.job.weights if self.is_record_changed else self.results.pin or self.job.weights

    @property
    def is_record_changed(self) -> bool:
        """Whether the record in the bucket contradicts the stack's state."""
        stored, recorded = self.job.weights, self.results.pin
        return bool(stored and recorded and recorded.contradicts(stored, self.job.nodes_reach_records))

    @property
    def changed_weights(self) -> str:
        """How the weights in the bucket differ from those that were verified first; empty if they do not."""
        if self.pin is None:
            return ""
        found = self.results.weights
        if changed := self.pin.difference(found.size if found else None, found.etag if found else ""):
            return changed
        if self.is_record_changed:
            # The stack's state has no ETag, so it cannot show whether weights of the same length were replaced.
            return (
                f"somebody changed the record of the weights that were verified first ({self.job.weights}); "
                f"it now says {self.results.pin}"
            )
        return ""

    @property
    def phase(self) -> str:
        """One or two words. For a running job they come from the launcher, which knows more than the queue."""
        if self.state == RunState.COMPLETED and not self.has_ended:
            return "finishing"
        if self.state != RunState.RUNNING:
            return self.state
        if self.hand_out == HandOutState.RETRYING:
            return self.hand_out
        if self.hand_out == HandOutState.REPORTED or self.hand_out is None:
            # The launcher has finished, but the worker still uploads the results.
            return "uploading" if self.progress.state == FINISHED else self.progress.state or self.state
        # The running node has not reported yet: progress.json is still that of an earlier node.
        return HandOutState.STARTING

    @property
    def activity(self) -> str:
        """What the trainer does instead of a step: `Caching latents 12/40`. Empty during steps."""
        is_training = self.state == RunState.RUNNING and self.phase == TRAINING
        return self.progress.message if is_training else ""

    @property
    def is_silent(self) -> bool:
        """Whether its launcher never reported, and the run is to be queued again."""
        return self.state == RunState.RUNNING and self.hand_out == HandOutState.SILENT

    @property
    def may_need_requeue(self) -> bool:
        """Whether its launcher is silent, or another watcher may have canceled it for that."""
        return self.is_silent or (self.state == RunState.CANCELED and self.queue_job is not None)

    @property
    def has_untrained_weights(self) -> bool:
        """Whether its node found final weights in the bucket, and no node says that it has trained."""
        return self.state == RunState.COMPLETED and (self.progress.state, self.progress.gpu_seconds) == (
            "finished",
            0,
        )

    @property
    def has_ended(self) -> bool:
        """A stalled job counts as ended: it may never change. Verified weights do not: the worker still has to report."""
        if self.state == RunState.STALLED:
            return True
        return self.state.has_ended and not (self.queue_job and self.queue_job.unfinished)


def stack_jobs(outputs: Mapping[str, Any], nodes_reach_records: bool = False) -> list[StackJob]:
    """The jobs in a stack's outputs, sorted by name. `nodes_reach_records`: see StackJob."""
    costs = mapping(mapping(outputs.get("cost")).get("jobs"))
    return [
        StackJob(
            name,
            entry["runId"],
            entry.get("kelpieId") or "",
            int(entry["steps"]),
            RunKeys(entry["folder"], name),
            float(entry.get("stallMinutes") or StackJob.stall_minutes),
            stored_weights(entry.get("weights")),
            nodes_reach_records,
            str(entry.get("cluster") or SINGLE_CLUSTER),
            _idle_seconds(costs.get(name)),
        )
        for name, entry in sorted((outputs.get("jobs") or {}).items())
    ]


def _idle_seconds(cost: object) -> float | None:
    hours = number(mapping(cost).get("idleHours"))
    return None if hours is None else hours * HOUR_SECONDS


def stored_weights(value: object) -> PinnedWeights | None:
    """What the stack's state has of a run's weights: nothing before they were verified."""
    return PinnedWeights.model_validate(value) if value and isinstance(value, Mapping) else None


def job_status(job: StackJob, queue_job: Job | None, storage: Storage) -> JobStatus:
    """`queue_job` is the job as just read from the queue. Raises ServiceError."""
    found = run_status(storage, job.keys, job.steps, queue_job, job.stall_minutes)
    return JobStatus(
        job,
        found.state,
        printable(found.reason),
        found.progress,
        queue_job,
        found.findings,
        found.hand_out,
        found.results,
        found.planted,
    )


def replaced_weights(jobs: Sequence[StackJob], storage: Storage, stack: str) -> list[str]:
    """A sentence for each finished job whose weights are not those that were verified first. Two requests a job. Raises ServiceError."""

    def check(job: StackJob) -> str:
        results = inspect_run(storage, job.keys, job.steps)
        changed = JobStatus(job, RunState.COMPLETED, results=results).changed_weights
        return f"{job.name}: {changed}; {accept_hint(job.name, stack)}" if changed else ""

    return [found for found in in_parallel(check, jobs) if found]


def doubt_about_weights(problems: Iterable[str]) -> str:
    """Why no node of the run can have written its weights, which are sound; empty if that is not among the problems."""
    return next((problem for problem in problems if problem in (TOO_EARLY, TOO_LATE)), "")


def accept_hint(job: str, stack: str) -> str:
    """What to do about weights that are not those that were verified first."""
    accept = flux_command(f"fetch {job} --accept-changed-weights", stack)
    retry = flux_command(f"retry {job} --force", stack)
    return f"if you trust them, {accept} verifies and accepts what is there now; {retry} trains it again"


def describe_status(status: JobStatus) -> str:
    """One line such as `training, step 120 of 300, loss 0.412, about 1 min left`."""
    if status.reason:
        return f"{status.state}: {status.reason}"
    if status.state == RunState.COMPLETED and not status.has_ended:
        return "the weights are in the bucket; the worker is finishing"
    if status.state != RunState.RUNNING:
        return status.state
    progress = status.progress
    parts = [status.phase]
    if status.phase == progress.state == "starting" and progress.download_seconds is not None:
        parts.append(f"downloading for {show_duration(progress.download_seconds)}")
    if status.activity:
        parts.append(status.activity)
    if progress.step:
        parts.append(f"step {min(progress.step, status.job.steps)} of {status.job.steps}")
    if progress.loss is not None:
        parts.append(f"{progress.loss_name} {progress.loss:.4f}")
    if progress.eta_seconds is not None:
        parts.append(f"about {show_duration(progress.eta_seconds)} left")
    return ", ".join(parts)


def find_problems(
    statuses: Sequence[JobStatus],
    now: datetime,
    stack: str = DEFAULT_STACK,
    withdrawn: Container[str] = (),
) -> dict[str, str]:
    """By job name, what is wrong with the jobs that failed or make no progress.

    `withdrawn`: jobs that the stack file no longer declares, or has with `skip: true`. They were canceled on purpose.
    """
    # Ignore waiting jobs of a queue in which a job is running: they may have to wait for hours.
    is_busy = any(status.state == RunState.RUNNING for status in statuses)
    found = {
        status.job.name: _problem_of_job(status, now, is_busy, stack)
        for status in statuses
        if status.state != RunState.CANCELED or status.job.name not in withdrawn
    }
    return {name: problem for name, problem in found.items() if problem}


def _problem_of_job(status: JobStatus, now: datetime, is_busy: bool, stack: str) -> str:
    if status.changed_weights:
        return f"{status.changed_weights}; {accept_hint(status.job.name, stack)}"
    if status.has_ended and (doubt := doubt_about_weights(status.results.evidence.problems)):
        return f"{status.state}: {doubt}; {accept_hint(status.job.name, stack)}"
    if status.has_ended and status.state != RunState.COMPLETED:
        return _failure_problem(status, stack)
    if status.planted or status.has_untrained_weights:
        return _planted_objects_problem(status, stack)
    if status.hand_out == HandOutState.RETRYING:
        return _describe_retry(status)
    if status.is_silent:
        watch, up = flux_command("status --watch", stack), make_command("up", stack)
        return SILENT.format(watch=watch, up=up)
    if status.state == RunState.PENDING and not is_busy:
        waited = seconds_since(status.queue_job.created if status.queue_job else None, now)
        if waited > MAX_PENDING_SECONDS:
            hint = PENDING_HINT.format(doctor=flux_command("doctor", stack))
            return f"pending for {show_duration(waited)} and no node takes it: {hint}"
    return _first_finding(status)


def _failure_problem(status: JobStatus, stack: str) -> str:
    job, failure = status.job.name, f"{status.state}: {status.reason}" if status.reason else status.state
    logs = flux_command(f"logs {job}", stack)
    if status.state == RunState.CANCELED:
        return f"{failure}; {make_command('up', stack)} queues it again"
    if status.state != RunState.STALLED and not names_cause(status.reason):
        return f"{failure}; {logs} shows its output"
    if status.state == RunState.STALLED:
        cancel = f"{flux_command(f'cancel {job}', stack)} and {make_command('up', stack)}"
        return (
            f"{failure}; {flux_command('doctor', stack)} checks the nodes' keys, {logs} shows the node's output; {cancel} "
            "cancel the job and replace a node that hangs, which may cost money until then"
        )
    return failure


def _first_finding(status: JobStatus) -> str:
    """What the run's node wrote in its place in the bucket is not what a launcher writes."""
    first, *others = status.findings or ("",)
    more = f" (and {len(others)} more)" if others else ""
    return f"{first}{more}; a node wrote this, so it is ignored" if first else ""


def _planted_objects_problem(status: JobStatus, stack: str) -> str:
    place = status.job.keys.output
    retry, up = flux_command(f"retry {status.job.name} --force", stack), make_command("up", stack)
    if status.has_untrained_weights:
        return f"its node found the weights below {place} and trained nothing: somebody wrote them there; {retry} and {up} train another attempt"
    return (
        f"somebody wrote {counted(status.planted, 'object')} below {place} before the queue gave this run to a node, which may "
        f"continue from them; {retry} and {up} cancel it and train another attempt"
    )


def _describe_retry(status: JobStatus) -> str:
    job, message = status.queue_job, status.progress.message
    counted = (
        f"attempt {max(1, job.num_failures)} of {job.max_failures} failed" if job else "an attempt failed"
    )
    return f"{HandOutState.RETRYING}: {counted}{f' ({message})' if message else ''}; {RETRY_RULE}"


def seconds_since(time: datetime | None, now: datetime) -> float:
    """0 if `time` is unknown or in the future."""
    return 0.0 if time is None else max(0.0, (now - time).total_seconds())
