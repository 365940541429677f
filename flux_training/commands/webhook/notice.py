"""What is told of a job: from its look in queue and bucket to words and to environment variables. Decides, sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flux_training.clients.kelpie import Job
from flux_training.commands.watch.job_status import Sight, StackJob
from flux_training.training.bill import dollars
from flux_training.training.cost import usd_of
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, RunKeys
from flux_training.training.runs.run_state import ENDED, RunState, in_words
from flux_training.training.words import one_line

OUTPUT = "output/"


@dataclass(frozen=True)
class Notice:
    """One change of one job, with what a person wants to know of it."""

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
            return f"{self.job}: training has begun (run {self.run_id})"
        facts = [self.steps, self.loss, self.gpu_time, self.cost]
        if self.status == RunState.COMPLETED:
            return f"{self.job}: finished, {', '.join(fact for fact in facts if fact)}; weights in {self.results}"
        return (
            f"{self.job}: {self.status}"
            + (f": {self.reason}" if self.reason else "")
            + f" (run {self.run_id})"
        )

    def variables(self) -> dict[str, str]:
        """For a command: FLUX_NOTICE_JOB, FLUX_NOTICE_STATUS, … and the line itself as FLUX_NOTICE_TEXT."""
        facts = {**vars(self), "text": self.text()}
        return {f"FLUX_NOTICE_{name.upper()}": one_line(value, 2000) for name, value in facts.items()}


def slack_body(notice: Notice) -> dict[str, str]:
    """What Slack and those compatible with it take; `&`, `<` and `>` are its markup."""
    text = notice.text().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": text}


def stack_job(job: Job, bucket: str, runs: str) -> StackJob | None:
    """The training job behind a job of the queue; None for one that does not write below this stack's runs. Its steps are not known yet.

    `runs`: how the keys of this stack's runs begin; other stacks may have theirs in the same bucket.
    """
    name, run_id = job.environment.get(JOB_VARIABLE), job.environment.get(RUN_ID_VARIABLE)
    ours = [rule for rule in job.sync.during if rule.bucket == bucket and rule.prefix.startswith(runs)]
    rules = [rule for rule in ours if rule.prefix.endswith(f"/{OUTPUT}")]
    if not name or not run_id or not rules:
        return None
    return StackJob(name, run_id, job.id, 0, RunKeys(rules[0].prefix.removesuffix(OUTPUT), name))


def notice_of(sight: Sight, bucket: str, price: float | None) -> Notice | None:
    """None while there is nothing to tell: it waits, or its worker has not reported the end yet."""
    if sight.state == RunState.PENDING or (sight.state == RunState.COMPLETED and not sight.ended):
        return None
    told = sight.told
    spent = usd_of(told.gpu_seconds, price)
    learned = told.loss_first is not None and told.loss_last is not None
    return Notice(
        job=one_line(sight.job.name, 80),
        run_id=one_line(sight.job.run_id, 40),
        kelpie_id=sight.job.kelpie_id,
        status=sight.state,
        reason=one_line(sight.reason),
        steps=f"{told.step} steps" if told.step else "",
        loss=f"loss {told.loss_first:.4f} to {told.loss_last:.4f}" if learned else "",
        gpu_time=in_words(told.gpu_seconds) if told.gpu_seconds is not None else "",
        cost=dollars(spent) if spent is not None else "",
        results=f"s3://{bucket}/{sight.job.keys.model}",
    )


def is_news(notice: Notice, told: Mapping[str, list[str]]) -> bool:
    """Whether this status of this job was not told yet. That it runs is none once its end was told."""
    before = told.get(notice.kelpie_id, [])
    return notice.status not in before and not (notice.status == RunState.RUNNING and before)


def is_settled(statuses: Sequence[str]) -> bool:
    """Whether its end was told: such a job is not looked at again without a hint."""
    return any(status in ENDED for status in statuses)
