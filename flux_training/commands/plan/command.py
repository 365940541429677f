"""`flux plan`: what `up` would do and cost, for reviewers: as text, Markdown for a pull request, JSON or a page."""

import sys
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich_click as click

from flux_training.clients.datasets import (
    ImageIndex,
    StoredImage,
    changed_or_missing_images,
    list_stored_images,
    read_dataset,
)
from flux_training.clients.stack.run_states import state_of_run
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import (
    SURVEY_VARIABLE,
    Survey,
    changes_since,
    findings_of_survey,
    price_warnings,
    read_survey,
)
from flux_training.commands.cli import UserPath, no_cache_option, say_wrapped, stack_option
from flux_training.commands.plan.document import plan_as_json
from flux_training.commands.plan.markdown import plan_as_comment
from flux_training.commands.plan.page import plan_as_page
from flux_training.commands.plan.pictures import (
    EmbeddedPictures,
    Pictures,
    RepositoryPictures,
    last_commit_of_folder,
)
from flux_training.commands.plan.text import plan_as_text
from flux_training.commands.stack.access import connect_to_services, preview_engine
from flux_training.commands.stack.engine import Engine
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.commands.watch.job_status import StackJob, replaced_weights, stored_weights
from flux_training.training.bill import show_dollars
from flux_training.training.cost import StackBill, cost_range
from flux_training.training.dataset.manifest import Image
from flux_training.training.estimates.parts import SECONDS_PER_GB
from flux_training.training.files import add_file_name_to_errors
from flux_training.training.jobs.declare import DeclaredJob, weights_in_image
from flux_training.training.jobs.folder import ImageSet
from flux_training.training.models.choice import describe_model, downloaded_gb
from flux_training.training.runs.changes import Changes
from flux_training.training.runs.node_rights import shared_keys_warning
from flux_training.training.runs.plan import (
    DATASET_TYPE,
    JOB_TYPE,
    JobPlan,
    Plan,
    PlannedAction,
    ResourceChange,
    Upload,
    describe_resource_changes,
    diagnostics_of,
    in_order,
    plan_job,
    read_resource_changes,
    waiting_plan,
)
from flux_training.training.runs.run_state import RunState
from flux_training.training.runs.variants import find_variants, images_folder_of
from flux_training.training.settings import StackSettings
from flux_training.training.train_yml.document import first_process
from flux_training.training.values import mapping

PREFIX = "FLUX_PLAN_"


@click.command()
@stack_option
@no_cache_option
@click.option("--markdown", is_flag=True, help="Print Markdown for a comment on a pull request.")
@click.option("--json", "as_document", is_flag=True, help="Print one JSON object.")
@click.option("--explain", is_flag=True, help="Show the parts of each job's estimate.")
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
    help="The planned commit. [default: that of the checkout]",
)
@click.option(
    "--base",
    envvar=f"{PREFIX}BASE",
    default="main",
    show_default=True,
    help="The commit to show removed images from.",
)
def plan(
    stack: str,
    markdown: bool,
    as_document: bool,
    explain: bool,
    page: str | None,
    repository: str | None,
    commit: str | None,
    base: str,
) -> None:
    """Show which jobs `up` would train, why, and for how many dollars. Changes nothing.

    Exits with 1 if `up` would be refused, or if weights in the bucket were replaced.
    """
    with preview_engine(stack, output=sys.stderr) as engine:
        found, services = make_plan(engine, stack)
    if page:
        pictures = EmbeddedPictures(project_root(), services.storage, services.layout)
        with add_file_name_to_errors(Path(page)):
            Path(page).write_text(plan_as_page(found, pictures), encoding="utf-8")
    if markdown:
        linked = (
            RepositoryPictures(repository, commit or planned_commit(project_root()), base)
            if repository
            else Pictures()
        )
        print(plan_as_comment(found, linked))
    elif as_document:
        print(plan_as_json(found))
    else:
        say_wrapped(plan_as_text(found, explain))
        if page:
            say_wrapped(f"\nThe same with pictures: {page}")
    if found.problems or found.alarms:
        sys.exit(1)


def planned_commit(folder: Path) -> str:
    """The checkout's commit, or without one the repository's default branch, with a note."""
    if commit := last_commit_of_folder(folder):
        return commit
    print(
        f"note: there is no git commit here, so images link to the default branch, which lacks those of a pull request; set {PREFIX}COMMIT",
        file=sys.stderr,
    )
    return "HEAD"


def make_plan(engine: Engine, stack: str) -> tuple[Plan, StackServices]:
    """The plan of a stack, and its services. Raises FluxError."""
    services = StackServices(connect_to_services(engine, stack), stack_settings(project_root(), stack))
    preview, error, survey = preview_with_survey(engine)
    found = Plan(stack, lint=survey.lint if survey else None, local=services.connection.cloud == "local")
    problems = diagnostics_of(preview, "error")
    if problems or error or survey is None or survey.bill is None:
        return replace(found, problems=problems or (error,)), services
    steps = with_unchanged_jobs(read_resource_changes(preview), survey)
    sent = {step.name for step in steps if step.kind == DATASET_TYPE and step.op in ("create", "replace")}
    comparison = PlanComparison(services, survey, frozenset(sent))
    by_name = {step.name: comparison.job_plan(step) for step in steps if step.kind == JOB_TYPE}
    by_name |= {job.name: waiting_plan(job, by_name.get(job.name)) for job in survey.waiting}
    jobs = in_order(by_name.values())
    trained = {job.name for job in jobs if job.line}
    return replace(
        found,
        alarms=replaced_weights_warnings(services, survey, steps, stack),
        warnings=(
            *findings_of_survey(survey, services.layout, stack),
            *plan_warnings(services, survey, survey.bill, stack),
        ),
        jobs=jobs,
        models=_models(trained, survey, services.settings),
        variants=find_variants(survey.jobs, trained),
        cluster=describe_resource_changes(steps),
        bill=survey.bill,
        upload=comparison.upload(),
    ), services


def plan_warnings(services: StackServices, survey: Survey, bill: StackBill, stack: str) -> tuple[str, ...]:
    shared = [shared_keys_warning(services.settings.storage.kind)] if services.nodes_reach_records else []
    return (*shared, *price_warnings(services, survey, bill, stack))


def _models(names: Set[str], survey: Survey, settings: StackSettings) -> tuple[str, ...]:
    """The models of these jobs, with their licences, and what downloading their weights costs."""
    words = []
    for job in survey.jobs:
        if job.name not in names:
            continue
        section = mapping(first_process(job.folder.document).get("model"))
        bill = survey.bill.clusters.get(job.cluster) if survey.bill else None
        price = bill.rate.usd_an_hour if bill and settings.cloud == "salad" else None
        download = describe_download_cost(downloaded_gb(section), price)
        words.append(describe_model(section, weights_in_image(settings, job.cluster)) + download)
    return tuple(dict.fromkeys(words))


def describe_download_cost(size_gb: float, usd_an_hour: float | None) -> str:
    """What each cold start pays for weights that the image does not hold; empty if it holds them or there is no price."""
    cost = cost_range(SECONDS_PER_GB.times(size_gb), usd_an_hour)
    if not size_gb or cost is None:
        return ""
    return (
        f"; each new node downloads {size_gb:.0f} GB first, for about {show_dollars(cost.likely)}; "
        "cheaper: an image that holds them (image.build, with image.model or the cluster's model), because SaladCloud does not bill its download"
    )


def replaced_weights_warnings(
    stack: StackServices, survey: Survey, steps: Sequence[ResourceChange], name: str
) -> tuple[str, ...]:
    """Which finished jobs have other weights than those that were verified first. Raises ServiceError."""
    stored = {step.name: step.old.get("weights") for step in steps if step.kind == JOB_TYPE}
    finished = [
        StackJob(
            job.name,
            job.run_id,
            "",
            job.folder.steps,
            stack.layout.run(job.name, job.run_id),
            weights=stored_weights(stored.get(job.name)),
        )
        for job in survey.jobs
        if survey.states[job.name] is RunState.COMPLETED
    ]
    return tuple(replaced_weights(finished, stack.storage, name))


def with_unchanged_jobs(steps: Sequence[ResourceChange], survey: Survey) -> list[ResourceChange]:
    """Adds the jobs that stay the same: the CLI's preview omits them."""
    listed = {step.name for step in steps if step.kind == JOB_TYPE}
    unchanged = [job.name for job in survey.jobs if job.name not in listed]
    return [*steps, *(ResourceChange(JOB_TYPE, name, "same") for name in unchanged)]


def preview_with_survey(engine: Engine) -> tuple[dict[str, Any], str, Survey | None]:
    """The engine's preview as JSON, its error message if it failed, and the program's survey. Raises FluxError."""
    with tempfile.TemporaryDirectory(prefix="flux-plan-") as folder:
        place = Path(folder) / "survey"
        environment = {**engine.environment, SURVEY_VARIABLE: str(place)}
        preview, error = replace(engine, environment=environment).preview()
        return preview, error, read_survey(place)


@dataclass(frozen=True)
class PlanComparison:
    """Combines a preview's steps with the survey. Only new datasets and jobs that get another run need further requests.

    `sent`: the names of the datasets that are created or replaced.
    """

    stack: StackServices
    survey: Survey
    sent: frozenset[str]

    def job_plan(self, step: ResourceChange) -> JobPlan:
        job = next((job for job in self.survey.jobs if job.name == step.name), None)
        lines = self.survey.bill.lines if self.survey.bill else ()
        line = next((line for line in lines if line.job == step.name), None)
        past = self._changes(step, job) if job and step.op in ("create", "replace") else None
        state = self.survey.states.get(step.name)
        made = plan_job(step, state, past, line, self._was_unfinished(step))
        if job is None:
            return made
        images = tuple(sorted(job.image_set.images))
        shown = Changes(added=images) if made.what is PlannedAction.NEW else made.changes
        return replace(
            made,
            images=len(images),
            changes=shown,
            folder=str(job.image_set.folder.parent),
            images_of=images_folder_of(job),
            are_sent=job.dataset_of in self.sent,
        )

    def _changes(self, step: ResourceChange, job: DeclaredJob) -> Changes | None:
        """What differs from the run in the state, or else from the job's newest one in the bucket."""
        run, known = step.old.get("runId"), self.survey.changes.get(step.name)
        if known and run in (None, known.run_id):
            return known.changes
        if not run or not self.survey.bucket_exists:
            return None
        found = changes_since(self.stack, job, str(run))
        return found.changes if found else None

    def _was_unfinished(self, step: ResourceChange) -> bool:
        run, status = step.old.get("runId"), RunState(str(step.old.get("status")))
        if not run or run == step.new.get("runId") or status.has_ended or not self.survey.bucket_exists:
            return False
        if run in self.survey.unfinished:
            return True
        keys, steps = self.stack.layout.run(step.name, str(run)), int(step.old.get("steps") or 1)
        return state_of_run(self.stack.storage, self.stack.connection.kelpie(), keys, steps).is_queued

    def upload(self) -> Upload:
        """The images of new datasets that are not in the bucket yet."""
        jobs = [job for job in self.survey.jobs if job.name in self.sent]
        sets = [job.image_set for job in jobs if job.dataset_of == job.name]
        index = ImageIndex(self.stack.storage, self.stack.layout)
        size = images = copied = 0
        for image_set in sets:
            for image in self._missing(image_set):
                if self.survey.bucket_exists and index.source_of(image):
                    copied += 1
                else:
                    images, size = images + 1, size + image.size
        return Upload(size, images, copied)

    def _missing(self, image_set: ImageSet) -> list[Image]:
        if not self.survey.bucket_exists:
            return list(image_set.images.values())
        storage, layout, digest = self.stack.storage, self.stack.layout, image_set.digest
        stored = list_stored_images(storage, layout, digest, image_set.images)
        if not stored:
            return list(image_set.images.values())
        expected = {name: StoredImage(image) for name, image in image_set.images.items()}
        record = read_dataset(storage, layout, digest) or expected
        return [image_set.images[name] for name in changed_or_missing_images(record, stored)]
