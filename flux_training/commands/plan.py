"""`flux plan`: what `up` would do and cost, for a reviewer: as text, as Markdown for a pull request, as JSON, as a page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import rich_click as click

from flux_training.clients.connection import Connection
from flux_training.clients.datasets import images_elsewhere, missing
from flux_training.clients.pricing import price_stack
from flux_training.clients.results import inputs_of_run, past_runs
from flux_training.clients.run_states import run_states_of, state_of_run
from flux_training.clients.storage import Storage
from flux_training.commands.cli import UserPath, no_cache_option, say, stack_option
from flux_training.commands.plan_document import as_json
from flux_training.commands.plan_markdown import as_comment
from flux_training.commands.plan_page import as_page
from flux_training.commands.plan_pictures import InRepository, OnPage
from flux_training.commands.plan_text import as_text
from flux_training.commands.stack.access import connection_of, prepare_engine
from flux_training.commands.stack.engine import Engine, project_root
from flux_training.commands.stack.file import stack_settings
from flux_training.training.cost import Bill
from flux_training.training.jobs.declare import DeclaredJob, declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.runs.changes import Changes, Inputs, changes
from flux_training.training.runs.plan import (
    DATASET_TYPE,
    JOB_TYPE,
    JobPlan,
    Plan,
    Step,
    Upload,
    What,
    cluster_lines,
    in_order,
    messages,
    plan_job,
    read_steps,
)
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from flux_training.training.settings import StackSettings

PREFIX = "FLUX_PLAN_"


@click.command()
@stack_option
@no_cache_option
@click.option("--markdown", is_flag=True, help="Markdown, as a comment on a pull request.")
@click.option("--json", "as_document", is_flag=True, help="One JSON object.")
@click.option(
    "--html",
    "page",
    type=UserPath(dir_okay=False, writable=True),
    help="Write a page with pictures to this file.",
)
@click.option(
    "--repository",
    envvar=f"{PREFIX}REPOSITORY",
    help="Address of the repository on GitHub: Markdown shows images from there (a comment cannot hold them).",
)
@click.option(
    "--commit",
    envvar=f"{PREFIX}COMMIT",
    default="HEAD",
    show_default=True,
    help="The commit that is planned.",
)
@click.option(
    "--base",
    envvar=f"{PREFIX}BASE",
    default="main",
    show_default=True,
    help="The commit before, for removed images.",
)
def plan(
    stack: str,
    markdown: bool,
    as_document: bool,
    page: str | None,
    repository: str | None,
    commit: str,
    base: str,
) -> None:
    """Show what `up` would train, again or for the first time, why, and for how many dollars. Changes nothing.

    Ends with 1 when `up` would be refused.
    """
    engine = prepare_engine(stack, output=sys.stderr)
    found, connection = make_plan(engine, stack)
    root = project_root()
    if page:
        settings = stack_settings(root, stack)
        pictures = OnPage(
            root, connection.storage(settings.storage.bucket), Layout(settings.storage.key_prefix)
        )
        Path(page).write_text(as_page(found, pictures), encoding="utf-8")
    if markdown:
        print(as_comment(found, InRepository(repository, commit, base) if repository else None))
    elif as_document:
        print(as_json(found))
    else:
        say(as_text(found))
    if found.problems:
        sys.exit(1)


def make_plan(engine: Engine, stack: str) -> tuple[Plan, Connection]:
    """The plan of a stack, and its services. Raises FluxError."""
    settings = stack_settings(project_root(), stack)
    connection = connection_of(engine, stack)
    examiner = Examiner.of()
    found = Plan(stack, lint=lint_jobs(settings, examiner=examiner), local=connection.cloud == "local")
    preview, words = engine.preview()
    problems = messages(preview, "error")
    if problems or words:
        return replace(found, problems=problems or (words,)), connection
    steps = read_steps(preview)
    jobs = _with_parents(declare_jobs(settings, examiner=examiner), steps)
    look = Look(connection, settings, jobs)
    states = run_states_of(connection, settings, jobs)
    bill = price_stack(connection, settings, jobs, states)
    return replace(
        found,
        jobs=in_order(look.job_plans(steps, states, bill)),
        cluster=cluster_lines(steps),
        bill=bill,
        upload=look.upload(steps),
    ), connection


def _with_parents(jobs: Sequence[DeclaredJob], steps: Sequence[Step]) -> list[DeclaredJob]:
    """The declared jobs with the parents that the program chose for them."""
    parents = {step.name: step.new.get("parent") for step in steps if step.kind == JOB_TYPE}
    return [replace(job, parent=parents.get(job.name)) for job in jobs]


@dataclass(frozen=True)
class Look:
    """What the bucket and the queue know of the declared jobs."""

    connection: Connection
    settings: StackSettings
    jobs: Sequence[DeclaredJob]

    @property
    def storage(self) -> Storage:
        return self.connection.storage(self.settings.storage.bucket)

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.storage.key_prefix)

    def job_plans(self, steps: Sequence[Step], states: Mapping[str, RunState], bill: Bill) -> list[JobPlan]:
        declared = {job.name: job for job in self.jobs}
        lines = {line.job: line for line in bill.lines}
        there = self.storage.exists()
        found = []
        for step in steps:
            if step.kind != JOB_TYPE:
                continue
            job = declared.get(step.name)
            past = self._past(step, job) if job and there and step.op in ("create", "replace") else None
            made = plan_job(
                step,
                states.get(step.name),
                past,
                lines.get(step.name),
                there and self._was_unfinished(step),
            )
            images = tuple(sorted(job.image_set.images)) if job else ()
            shown = Changes(added=images) if made.what is What.NEW else made.changes
            found.append(replace(made, images=len(images), changes=shown))
        return found

    def _past(self, step: Step, job: DeclaredJob) -> Changes | None:
        """What differs from the run in the state, or else from the job's newest one in the bucket."""
        run = step.old.get("runId")
        if not run:
            past = [
                one for one in past_runs(self.storage, self.layout, step.name) if one.run_id != job.run_id
            ]
            newest = max(past, key=lambda one: (one.created_at, one.run_id), default=None)
            run = newest.run_id if newest else None
        before = inputs_of_run(self.storage, self.layout.run(step.name, str(run))) if run else None
        if before is None:
            return None
        after = Inputs(job.image_set.manifest, job.folder.raw_config, job.settings.attempt, job.parent)
        return changes(before, after)

    def _was_unfinished(self, step: Step) -> bool:
        run = step.old.get("runId")
        if not run or run == step.new.get("runId"):
            return False
        keys, steps = self.layout.run(step.name, str(run)), int(step.old.get("steps") or 1)
        return state_of_run(self.storage, self.connection.kelpie(), keys, steps).is_queued

    def upload(self, steps: Sequence[Step]) -> Upload:
        """What of the datasets that are made is not in the bucket yet."""
        made = {step.name for step in steps if step.kind == DATASET_TYPE and step.op in ("create", "replace")}
        sets = [job.image_set for job in self.jobs if job.name in made and job.dataset_of == job.name]
        there = bool(sets) and self.storage.exists()
        elsewhere = images_elsewhere(self.storage, self.layout) if there else {}
        size = images = copied = 0
        for image_set in sets:
            names = (
                missing(self.storage, self.layout, image_set.digest, image_set.images)
                if there
                else list(image_set.images)
            )
            for name in names:
                image = image_set.images[name]
                known = (image.sha256, image.size) in elsewhere
                copied += known
                images += not known
                size += 0 if known else image.size
        return Upload(size, images, copied)
