"""What a stack declares, for the next step of messages about jobs that are not deployed."""

from collections.abc import Container, Iterable, Sequence
from contextlib import suppress

from flux_training.commands.stack.edit import declared_jobs, job_entry, jobs_key
from flux_training.commands.stack.file import stack_settings
from flux_training.commands.stack.project import project_root
from flux_training.training.cluster_settings import BudgetSettings
from flux_training.training.errors import FluxError
from flux_training.training.jobs.declare import choose_jobs, job_folder_names
from flux_training.training.words import flux_command, list_first, make_command


def why_nothing_is_deployed(stack: str, *, is_updated: bool) -> str:
    """Why no job is deployed, and the next step. `is_updated`: an update has just ended, and was not interrupted.

    Raises BadInput if the stack file cannot be used.
    """
    root = project_root()
    settings = stack_settings(root, stack)
    jobs_folder = root / settings.jobs_folder
    folders = job_folder_names(jobs_folder)
    names = sorted(choose_jobs(settings.jobs, folders, str(jobs_folder))[0])
    if names:
        return f"No job is deployed: {_describe_unqueued_jobs(names, stack, settings.budget, is_updated=is_updated)}"
    key = f"`{jobs_key(root)}` in Pulumi.{stack}.yaml"
    if settings.jobs:
        return f"No job is deployed: all jobs of {key} have `skip: true`. Remove it from those to train."
    if folders:
        return f"No job is deployed: {key} declares none. Add one there, such as `{folders[0]}: {{}}` for {jobs_folder / folders[0]}."
    new = f'`./flux new NAME --from PHOTOS --trigger "tr1gger word" --stack {stack}`'
    return f"No job is deployed: {key} declares none. {new} makes one from photos and declares it."


def _describe_unqueued_jobs(
    names: Sequence[str], stack: str, budget: BudgetSettings, *, is_updated: bool
) -> str:
    """Whether these declared jobs wait for the budget, and the next step. Only the end of an update tells for sure."""
    named, up, is_one = list_first(names), make_command("up", stack), len(names) == 1
    waits, are, them = ("waits", "is", "it") if is_one else ("wait", "are", "them")
    if not budget.has_spending_limits:
        return f"{named} {are} declared, but not queued yet. {up} queues {them}; it also continues an update that was interrupted."
    plan = flux_command("plan", stack)
    if is_updated:
        return f"{named} {waits} for the budget; {plan} says when {'it fits' if is_one else 'they fit'}. {up} queues what fits then."
    return f"{named} {waits} for the budget, or the last update was interrupted; {plan} says which. {up} queues what fits."


def undeployed_jobs(stack: str, deployed: Container[str]) -> list[str]:
    """The declared jobs without `skip` that are not deployed. None if the stack file cannot be used: other commands say why."""
    with suppress(FluxError, OSError):
        settings = stack_settings(project_root(), stack)
        folders = job_folder_names(project_root() / settings.jobs_folder)
        declared, _ = choose_jobs(settings.jobs, folders, settings.jobs_folder)
        return sorted(name for name in declared if name not in deployed)
    return []


def withdrawn_jobs(stack: str, jobs: Iterable[str]) -> list[str]:
    """Those of the jobs that the stack file does not declare, or has with `skip: true`. None if it cannot be used."""
    with suppress(FluxError, OSError):
        declared = declared_jobs(project_root(), stack)
        entries = {job: job_entry(declared, job) for job in jobs}
        return [job for job, entry in entries.items() if entry is None or entry.get("skip")]
    return []


def why_job_is_not_deployed(job: str, stack: str) -> str:
    """Why the stack has no such job deployed, and the next step; empty if it has no such job at all."""
    root = project_root()
    settings, file = stack_settings(root, stack), f"Pulumi.{stack}.yaml"
    if job not in job_folder_names(root / settings.jobs_folder):
        return ""
    entry = job_entry(declared_jobs(root, stack), job)
    up = make_command("up", stack)
    if entry is None:
        return f"it is not declared; add `{job}: {{}}` below `{jobs_key(root)}` in {file}, then {up}"
    if entry.get("skip"):
        return f"{file} leaves it out with `skip: true`; remove that, then {up}"
    return f"it is declared, but not deployed yet, or it waits for the budget; {up} deploys it"
