"""The facts about a stack that a preview and a plan are made from, gathered once. Only reads.

`flux plan` runs the preview of the program with FLUX_SURVEY_FILE set; the program then writes its survey there, so that the plan
need not ask the services again.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flux_training.clients.connection import Connection
from flux_training.clients.pricing import price_stack
from flux_training.clients.results import inputs_of_run, newest_sound, past_runs
from flux_training.clients.run_states import in_parallel, run_states_of
from flux_training.clients.storage import Storage
from flux_training.training.cost import Bill
from flux_training.training.finding import LintReport
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.changes import Changes, Inputs, changes
from flux_training.training.runs.lineage import choose_parent, declared_run, made_before
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings

SURVEY_VARIABLE = "FLUX_SURVEY_FILE"


@dataclass(frozen=True)
class JobChanges:
    """What differs between a declared job and its earlier run `run_id`."""

    run_id: str
    changes: Changes


@dataclass(frozen=True)
class Survey:
    """`states` and `changes` are by job name; `changes` has only jobs that will be queued and have an earlier run.

    `unfinished`: ids of all unfinished runs in the queue of the stack's container group.
    """

    lint: LintReport
    jobs: Sequence[DeclaredJob] = ()
    states: Mapping[str, RunState] = field(default_factory=dict)
    bill: Bill | None = None
    changes: Mapping[str, JobChanges] = field(default_factory=dict)
    unfinished: frozenset[str] = frozenset()
    bucket_exists: bool = False


def survey_stack(
    connection: Connection,
    settings: StackSettings,
    declared: Sequence[DeclaredJob],
    lint: LintReport,
    with_changes: bool,
) -> tuple[Survey, Bill]:
    """Raises BadInput, ServiceError."""
    jobs = with_parents(connection, settings, declared)
    runs = run_states_of(connection, settings, jobs)
    states = runs.by_job
    bill = price_stack(connection, settings, jobs, states)
    new = [job for job in jobs if states[job.name].needs_gpu and not states[job.name].is_queued]
    found = changes_of(connection, settings, new) if with_changes else {}
    bucket_exists = connection.storage(settings.storage.bucket).exists()
    return Survey(lint, jobs, states, bill, found, runs.unfinished, bucket_exists), bill


def with_parents(
    connection: Connection, settings: StackSettings, jobs: Sequence[DeclaredJob]
) -> list[DeclaredJob]:
    """The jobs; those with `resume: true` have the run that they continue."""
    storage, layout = _place(connection, settings)
    if not any(job.settings.resume for job in jobs) or not storage.exists():
        return list(jobs)
    return [
        replace(job, parent=_parent_of(storage, layout, job)) if job.settings.resume else job for job in jobs
    ]


def _parent_of(storage: Storage, layout: Layout, job: DeclaredJob) -> str | None:
    past = past_runs(storage, layout, job.name)
    run_of = declared_run(job.image_set.manifest, job.folder.raw_config, job.settings.attempt)
    made, parent = made_before(run_of, past)
    if made:
        return parent

    def newest_checkpoint(run: str) -> int | None:
        found = newest_sound(storage, layout.run(job.name, run))
        return found[1] if found else None

    return choose_parent(job.name, job.folder.config.steps, past, newest_checkpoint)


def changes_of(
    connection: Connection, settings: StackSettings, jobs: Sequence[DeclaredJob]
) -> dict[str, JobChanges]:
    """What differs from each job's newest earlier run in the bucket."""
    storage, layout = _place(connection, settings)
    if not jobs or not storage.exists():
        return {}
    known = set(storage.list_folders(layout.runs))
    seen_before = [job for job in jobs if job.name in known]
    found = in_parallel(lambda job: _changes_of(storage, layout, job), seen_before)
    return {job.name: one for job, one in zip(seen_before, found, strict=True) if one}


def _changes_of(storage: Storage, layout: Layout, job: DeclaredJob) -> JobChanges | None:
    earlier = [run for run in past_runs(storage, layout, job.name) if run.run_id != job.run_id]
    newest = max(earlier, key=lambda run: (run.created_at, run.run_id), default=None)
    return changes_since(storage, layout, job, newest.run_id) if newest else None


def changes_since(storage: Storage, layout: Layout, job: DeclaredJob, run: str) -> JobChanges | None:
    """What differs between the job and one of its runs; None if the bucket does not have all of that run's files."""
    before = inputs_of_run(storage, layout.run(job.name, run))
    if before is None:
        return None
    after = Inputs(job.image_set.manifest, job.folder.raw_config, job.settings.attempt, job.parent)
    return JobChanges(run, changes(before, after))


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


def _place(connection: Connection, settings: StackSettings) -> tuple[Storage, Layout]:
    return connection.storage(settings.storage.bucket), Layout(settings.storage.key_prefix)
