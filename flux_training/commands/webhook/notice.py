"""The notice about a job: from its status to text and environment variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_training.clients.kelpie import Job
from flux_training.commands.watch.job_status import JobStatus, StackJob
from flux_training.training.bill import show_dollars
from flux_training.training.cost import usd_of
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, RunKeys
from flux_training.training.runs.run_state import RunState, show_duration
from flux_training.training.words import one_line

OUTPUT = "output/"


@dataclass(frozen=True)
class Notice:
    """One status change of one job."""

    job: str
    run_id: str
    kelpie_id: str
    status: str
    reason: str
    steps: str
    loss: str
    gpu_time: str
    cost: str
    results: str

    def text(self) -> str:
        """One line."""
        if self.status == RunState.RUNNING:
            return f"{self.job}: training has started (run {self.run_id})"
        if self.status == RunState.COMPLETED:
            facts = filter(None, [self.steps, self.loss, self.gpu_time, self.cost])
            return f"{self.job}: finished, {', '.join(facts)}; weights in {self.results}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.job}: {self.status}{reason} (run {self.run_id})"

    def variables(self) -> dict[str, str]:
        """For a command: FLUX_NOTICE_JOB, FLUX_NOTICE_STATUS, …, and the line itself as FLUX_NOTICE_TEXT."""
        facts = {**vars(self), "text": self.text()}
        return {f"FLUX_NOTICE_{name.upper()}": one_line(value, 2000) for name, value in facts.items()}


def parse_stack_job(job: Job, bucket: str, runs: str) -> StackJob | None:
    """The training job behind a job of the queue; None if it is not of this stack. Its steps are not known yet.

    `runs` is the key prefix of this stack's runs; other stacks may use the same bucket.
    """
    name, run_id = job.environment.get(JOB_VARIABLE), job.environment.get(RUN_ID_VARIABLE)
    own = [rule for rule in job.sync.during if rule.bucket == bucket and rule.prefix.startswith(runs)]
    rules = [rule for rule in own if rule.prefix.endswith(f"/{OUTPUT}")]
    if not name or not run_id or not rules:
        return None
    return StackJob(name, run_id, job.id, 0, RunKeys(rules[0].prefix.removesuffix(OUTPUT), name))


def notice_about_job(status: JobStatus, bucket: str, price: float | None) -> Notice | None:
    """None if there is nothing to report: the job waits, or its worker has not reported the end yet."""
    if status.state == RunState.PENDING or (status.state == RunState.COMPLETED and not status.has_ended):
        return None
    progress = status.progress
    spent = usd_of(progress.gpu_seconds, price)
    return Notice(
        job=one_line(status.job.name, 80),
        run_id=one_line(status.job.run_id, 40),
        kelpie_id=status.job.kelpie_id,
        status=status.state,
        reason=one_line(status.reason),
        steps=f"{progress.step} steps" if progress.step else "",
        loss=f"{progress.loss_name} {progress.loss_change}" if progress.loss_change else "",
        gpu_time=show_duration(progress.gpu_seconds) if progress.gpu_seconds is not None else "",
        cost=show_dollars(spent) if spent is not None else "",
        results=f"s3://{bucket}/{status.job.keys.model}",
    )


def is_unreported(notice: Notice, history: Mapping[str, list[str]]) -> bool:
    """Whether this status was not reported yet. A start is not reported after an end."""
    before = history.get(notice.kelpie_id, [])
    return notice.status not in before and not (notice.status == RunState.RUNNING and before)


def has_reported_end(statuses: Sequence[str]) -> bool:
    """Such a job is read again only when Kelpie calls."""
    return any(RunState(status).has_ended for status in statuses)
