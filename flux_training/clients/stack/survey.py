"""The facts about a stack that a preview and a plan are made from, gathered once. Only reads.

`flux plan` runs the preview of the program with FLUX_SURVEY_FILE set; the program then writes its survey there, so that the plan
need not ask the services again.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

from flux_training.clients.pins import read_pin
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.results import inputs_of_run, inspect_run, list_past_runs, newest_sound_checkpoint
from flux_training.clients.stack.pricing import price_stack, unavailable_gpu_warnings
from flux_training.clients.stack.run_states import run_states_of
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.spending import read_spending, today
from flux_training.clients.waiting import in_parallel
from flux_training.training.bill import short_limit_warnings
from flux_training.training.budget.entries import SpendingEntry, hash_of_run, recorded_today, spent_on
from flux_training.training.budget.limits import WaitingJob, WantedJob, find_jobs_over_budget
from flux_training.training.cost import StackBill
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import DeclaredJob, link_shared_datasets
from flux_training.training.runs.changes import Changes, Inputs, find_changes
from flux_training.training.runs.lineage import Checkpoints, Parent, choose_parent, find_past_run
from flux_training.training.runs.run import Layout, RunKeys, run_id
from flux_training.training.runs.run_state import RunState
from flux_training.training.words import flux_command, make_command

SURVEY_VARIABLE = "FLUX_SURVEY_FILE"


@dataclass(frozen=True)
class JobChanges:
    """What differs between a declared job and its earlier run `run_id`."""

    run_id: str
    changes: Changes


@dataclass(frozen=True)
class Survey:
    """`states` and `changes` are by job name; `changes` has only jobs that will be queued and have an earlier run.

    `jobs` and `bill` are without the jobs that wait for the budget. `unfinished`: ids of all unfinished runs in the queues of the stack's
    container groups. `findings`: about what nodes may have written for single jobs. `unproven`: see RunStates. `warnings`: of a
    preview, see price_warnings.
    """

    lint: LintReport
    jobs: Sequence[DeclaredJob] = ()
    states: Mapping[str, RunState] = field(default_factory=dict)
    bill: StackBill | None = None
    changes: Mapping[str, JobChanges] = field(default_factory=dict)
    unfinished: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    waiting: tuple[WaitingJob, ...] = ()
    bucket_exists: bool = False
    findings: tuple[str, ...] = ()
    unproven: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def unfinished_by_cluster(self, clusters: Iterable[str]) -> dict[str, int]:
        """How many of the declared runs of each cluster have no verified weights."""
        left = [job.cluster for job in self.jobs if self.states[job.name].needs_gpu]
        return {cluster: left.count(cluster) for cluster in clusters}


def price_warnings(stack: StackServices, survey: Survey, bill: StackBill, stack_name: str) -> list[str]:
    """What a preview warns of: clusters without a free node, and runs whose `maxHours` are too short."""
    hours = {job.name: job.settings.max_hours for job in survey.jobs}
    return [*unavailable_gpu_warnings(stack, bill, stack_name), *short_limit_warnings(bill, hours)]


def survey_stack(
    stack: StackServices, declared: Sequence[DeclaredJob], lint: LintReport, with_changes: bool
) -> tuple[Survey, StackBill]:
    """Raises BadInput, ServiceError."""
    chosen = in_parallel(lambda job: _with_resumed_run(stack, job), declared)
    jobs = [job for job, _ in chosen]
    runs = run_states_of(stack, jobs)
    states = runs.by_job
    whole = price_stack(stack, jobs, states)
    # A job that waits for the budget is left out of the stack and trained later, so it must not be one that may have finished.
    may_wait = [job for job in jobs if job.name not in runs.maybe_finished]
    waiting = waiting_jobs(stack, may_wait, states, whole)
    names = {job.name for job in waiting}
    bill = whole.without(names) if names else whole
    jobs = link_shared_datasets(job for job in jobs if job.name not in names) if names else jobs
    new = [job for job in jobs if states[job.name].needs_gpu and not states[job.name].is_queued]
    found = _changes_of(stack, new) if with_changes else {}
    return Survey(
        lint,
        jobs,
        states,
        bill,
        found,
        runs.unfinished,
        runs.failing,
        runs.pinned,
        waiting,
        stack.bucket_exists,
        findings=tuple(finding for _, finding in chosen if finding),
        unproven=runs.unproven,
    ), bill


def findings_of_survey(survey: Survey, layout: Layout, stack: str) -> tuple[str, ...]:
    """What nodes may have written for single jobs. `stack`: its name."""
    unproven = [job for job in survey.jobs if job.name in survey.unproven]
    return (
        *survey.findings,
        *(_unproven_findings(layout.run(job.name, job.run_id), stack) for job in unproven),
    )


def _unproven_findings(keys: RunKeys, stack: str) -> str:
    accept = flux_command(f"fetch {keys.job} --run {keys.run} --accept-changed-weights", stack)
    return (
        f"{keys.job}: {keys.model} has finished weights, but there is no record that run {keys.run} was ever queued: "
        f"{make_command('up', stack)} moves them to {keys.set_aside} and trains the run; if they are yours, {accept} records them first"
    )


def waiting_jobs(
    stack: StackServices, jobs: Sequence[DeclaredJob], states: Mapping[str, RunState], bill: StackBill
) -> tuple[WaitingJob, ...]:
    """The jobs that the limits of a day and a month keep from being queued now; none if a cost is unknown."""
    new = [job for job in jobs if states[job.name].needs_gpu and not states[job.name].is_queued]
    budget, prefix = stack.settings.budget, stack.layout.prefix
    if not new or not budget.has_spending_limits:
        return ()
    day = today()
    entries = read_spending(stack.storage, day) if stack.bucket_exists else []
    charges = bill.charges
    known = [job for job in new if charges.get(job.name) is not None]
    names = {job.name for job in known}
    return find_jobs_over_budget(
        [_wanted(job, prefix, day, entries, is_new=states[job.name] is RunState.NEW) for job in known],
        lambda queued: bill.without(names.difference(queued)).known_charges,
        spent_on(day, entries),
        budget,
    )


def _wanted(
    job: DeclaredJob, prefix: str, day: date, entries: Sequence[SpendingEntry], is_new: bool
) -> WantedJob:
    mark = hash_of_run(prefix, job.name, job.run_id)
    recorded = recorded_today(day, mark, entries) if is_new else 0.0
    return WantedJob(job.name, job.settings.priority, recorded)


def _with_earlier_run_id(stack: StackServices, job: DeclaredJob) -> DeclaredJob | None:
    """The job as an earlier version queued it, with other line endings in its id; None if there is no such run."""
    own = job.with_own_line_endings
    if own is None or not stack.bucket_exists:
        return None
    if own.settings.resume:
        made, parent = find_past_run(_run_id_of(own), list_past_runs(stack.storage, stack.layout, own.name))
        return replace(own, parent=parent) if made else None
    # Nodes can write a run.json below this run id, too, so run.json alone is no proof.
    is_recorded = (own.name, own.run_id) in recorded_runs(stack.storage, stack.layout, own.name)
    return own if is_recorded else None


def _with_resumed_run(stack: StackServices, job: DeclaredJob) -> tuple[DeclaredJob, str]:
    """The job; with `resume: true`, it has the run that it continues. Also a finding about that run; empty if there is none."""
    if before := _with_earlier_run_id(stack, job):
        return before, ""
    if not job.settings.resume or not stack.bucket_exists:
        return job, ""
    parent = _parent_of(stack, job)
    return replace(job, parent=parent.run_id), parent.finding


def _run_id_of(job: DeclaredJob) -> Callable[[str | None], str]:
    return partial(run_id, job.image_set.manifest, job.folder.raw_config, job.settings.attempt)


def _parent_of(stack: StackServices, job: DeclaredJob) -> Parent:
    past = list_past_runs(stack.storage, stack.layout, job.name)
    made, parent = find_past_run(_run_id_of(job), past)
    if made:
        return Parent(parent)
    steps = job.folder.steps
    return choose_parent(
        job.name, steps, past, lambda run: _checkpoints_of(stack, stack.layout.run(job.name, run), steps)
    )


def _checkpoints_of(stack: StackServices, keys: RunKeys, steps: int) -> Checkpoints:
    newest = newest_sound_checkpoint(stack.storage, keys)
    if newest is None or newest[1] < steps:
        step = newest[1] if newest else None
        return Checkpoints(step, step)
    usable = newest_sound_checkpoint(stack.storage, keys, before=steps)
    return Checkpoints(newest[1], usable[1] if usable else None, _has_run_finished(stack, keys, newest[1]))


def _has_run_finished(stack: StackServices, keys: RunKeys, step: int) -> bool:
    """Whether the run has a result of so many steps that its own node has made, by the queue or by the record of its weights."""
    pin = None if stack.nodes_reach_records else read_pin(stack.storage, keys)
    if pin is not None:
        return pin.step == step
    job = Queue(stack.connection.kelpie(), None).find(RunPlace.at(stack.storage.bucket, keys))
    return job is not None and inspect_run(stack.storage, keys, step, job).finished


def _changes_of(stack: StackServices, jobs: Sequence[DeclaredJob]) -> dict[str, JobChanges]:
    """What differs from each job's newest earlier run in the bucket."""
    if not jobs or not stack.bucket_exists:
        return {}
    known = {job for job, _ in recorded_runs(stack.storage, stack.layout)}
    trained_before = [job for job in jobs if job.name in known]
    found = in_parallel(lambda job: _changes_since_newest(stack, job), trained_before)
    return {job.name: one for job, one in zip(trained_before, found, strict=True) if one}


def _changes_since_newest(stack: StackServices, job: DeclaredJob) -> JobChanges | None:
    past = list_past_runs(stack.storage, stack.layout, job.name)
    earlier = [run for run in past if run.run_id != job.run_id]
    newest = max(earlier, key=lambda run: (run.created_at, run.run_id), default=None)
    return changes_since(stack, job, newest.run_id) if newest else None


def changes_since(stack: StackServices, job: DeclaredJob, run: str) -> JobChanges | None:
    """What differs between the job and one of its runs; None if the bucket does not have all of that run's files."""
    before = inputs_of_run(stack.storage, stack.layout.run(job.name, run))
    if before is None:
        return None
    after = Inputs(job.image_set.manifest, job.folder.raw_config, job.settings.attempt, job.parent)
    return JobChanges(run, find_changes(before, after))


def write_survey(survey: Survey) -> None:
    """Leave the survey for `flux plan`, if that has started this process."""
    if place := os.environ.get(SURVEY_VARIABLE):
        Path(place).write_bytes(pickle.dumps(survey))


def read_survey(path: Path) -> Survey | None:
    """None if the program ended before it wrote one."""
    if not path.is_file():
        return None
    found = pickle.loads(path.read_bytes())  # noqa: S301 - written by our own program into a folder that only this user can read
    assert isinstance(found, Survey)  # noqa: S101 - nothing else is written there
    return found
