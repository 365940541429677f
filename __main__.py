"""The Pulumi program: reads and checks everything that the stack's configuration declares, then registers the resources."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from components.aws import check_package
from components.container_group import configured_node_keys, fingerprint, node_environment, secret_values
from components.migration import migrate
from components.pinning import pin_finished
from components.pipeline import PipelineContext, TrainingPipeline
from components.preparation import check_existing, parent_key_fingerprint, prepared_run
from components.prepared_runs import write_prepared
from components.provider import home
from components.repair import repair_datasets
from flux_training.clients.connection import CONNECTION_SETTINGS, SECRET_SETTINGS, Connection
from flux_training.clients.local_cloud import connect_and_start_local_cloud
from flux_training.clients.reachability import require_network
from flux_training.clients.stack.services import StackServices
from flux_training.clients.stack.survey import (
    Survey,
    findings_of_survey,
    price_warnings,
    survey_stack,
    write_survey,
)
from flux_training.training.cost import StackBill
from flux_training.training.dataset.facts import report_each_thousand_images
from flux_training.training.environment import REFRESH_VARIABLE, find_shadowing_packages
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import explain_file_error
from flux_training.training.finding import LintReport, group_findings
from flux_training.training.jobs.cap import SUGGESTED_STEPS, describe_long_trainings
from flux_training.training.jobs.declare import declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.runs.run_state import RunState, describe_unqueued_runs
from flux_training.training.setting_errors import ignored_in
from flux_training.training.settings import (
    SINGLE_CLUSTER,
    StackSettings,
    parse_stack_settings,
    with_chosen_machines,
)
from flux_training.training.stack_bill import describe_stack_bill, stack_budget_findings
from flux_training.training.words import make_command

# If a program exits with this code, Pulumi shows the errors it logged and no traceback (docs/pulumi.md).
REFUSED = 32


def main() -> None:
    config = {**get_config_env(), **CONFIG.get()}
    project, owner = pulumi.get_project(), f"{pulumi.get_project()}/{pulumi.get_stack()}"
    try:
        refuse_ignored_settings(Path(pulumi.get_root_directory()))
        settings = parse_stack_settings(project, config)
        refuse_plain_secrets(project, config)
        if shadowing := find_shadowing_packages(Path(pulumi.get_root_directory()), Path(__file__).parent):
            raise BadInput(shadowing)
        if settings.storage.kind == "aws":
            check_package()
        keys = {key: config.get(f"{project}:{key}") for key in CONNECTION_SETTINGS}
        survey, bill, stack = survey_declared_jobs(settings, keys)
        existing = check_existing(stack, survey, owner)
        moved = tuple[str, ...]()
        if not pulumi.runtime.is_dry_run():
            moved = migrate(stack, owner)
            pin_finished(stack, survey)
        repaired = repair_datasets(stack, survey, pulumi.runtime.is_dry_run())
    except FluxError as error:
        refuse(error)
    except OSError as error:
        refuse(explain_file_error(error) or FluxError(str(error)))

    connection = stack.connection
    findings = findings_of_survey(survey, stack.layout, pulumi.get_stack())
    notes = [
        describe_stack_bill(bill, local=connection.cloud == "local"),
        describe_unqueued_runs(
            survey.states, make_command("up", pulumi.get_stack()), {job.name for job in survey.waiting}
        )
        if REFRESH_VARIABLE in os.environ
        else "",
        describe_waiting_jobs(survey),
        *describe_changes(survey),
        *existing.notes,
    ]
    for warning in (*existing.warnings, *moved, *repaired, *findings, *survey.warnings):
        pulumi.log.warn(warning)
    for note in filter(None, notes):
        pulumi.log.info(note)
    if not pulumi.runtime.is_dry_run():
        unfinished = [job for job in survey.jobs if survey.states[job.name] is not RunState.COMPLETED]
        write_prepared(owner, (prepared_run(job, bill, settings) for job in unfinished))
    settings = with_chosen_machines(
        settings, {name: (one.rate.gpu, one.rate.priority) for name, one in bill.clusters.items()}
    )
    context = PipelineContext(
        owner=owner,
        home=home(connection),
        credentials=credential_fingerprints(connection, settings),
        unfinished=survey.unfinished_by_cluster(settings.all_clusters),
        region=connection.s3_region,
        keys_end=existing.keys_end,
        parent=parent_key_fingerprint(connection),
        retention=existing.retention,
    )
    export(TrainingPipeline("pipeline", settings, survey.jobs, context), settings)


def survey_declared_jobs(
    settings: StackSettings, keys: dict[str, str | None]
) -> tuple[Survey, StackBill, StackServices]:
    """The declared jobs, checked and priced. Raises BadInput for mistakes and an exceeded budget, ServiceError."""
    # Printed directly, because Pulumi shows log messages only after the program ends.
    examiner = Examiner.of(
        on_progress=report_each_thousand_images(lambda line: print(line, file=sys.stderr, flush=True))
    )
    lint = lint_jobs(settings, examiner=examiner)
    write_survey(Survey(lint))
    report_mistakes(lint)
    jobs = declare_jobs(settings, examiner=examiner)
    connection = connect_and_start_local_cloud(
        settings.cloud, keys, os.environ, settings.storage.kind, pulumi.get_stack()
    )
    require_network(connection)
    stack = StackServices(connection, settings)
    survey, bill = survey_stack(stack, jobs, lint, with_changes=pulumi.runtime.is_dry_run())
    if pulumi.runtime.is_dry_run():
        survey = replace(survey, warnings=tuple(price_warnings(stack, survey, bill, pulumi.get_stack())))
    write_survey(survey)
    if settings.cloud == "local":
        note_long_trainings(survey)
    if findings := stack_budget_findings(settings.budget, bill):
        raise BadInput(findings)
    return survey, bill, stack


def note_long_trainings(survey: Survey) -> None:
    """Warn of long trainings. Printed before anything is queued."""
    unfinished = [job.folder for job in survey.jobs if survey.states[job.name] is not RunState.COMPLETED]
    # Not a command: `pulumi config set` needs an existing stack, and a first preview has none.
    fix = f"`{pulumi.get_project()}:maxSteps: {SUGGESTED_STEPS}` below `config:` in Pulumi.{pulumi.get_stack()}.yaml"
    if note := describe_long_trainings(unfinished, fix):
        print(note, file=sys.stderr, flush=True)


def describe_changes(survey: Survey) -> list[str]:
    """Lines such as `my-dog: 1 caption changed: 00003.txt`, one for each job that is trained again."""
    return [
        f"{name}: {'; '.join(found.changes.details)}"
        for name, found in survey.changes.items()
        if found.changes.details
    ]


def describe_waiting_jobs(survey: Survey) -> str:
    """A line for each job that waits, with the reason. Empty if no job waits."""
    return "\n".join(f"{job.name} waits: {job.why}" for job in survey.waiting)


def credential_fingerprints(connection: Connection, settings: StackSettings) -> dict[str, str]:
    """A fingerprint of the nodes' environment for each cluster."""
    given = configured_node_keys(connection) if settings.storage.kind == "s3" else {}
    shared = {**node_environment(connection), **given}
    return {
        name: fingerprint({**secret_values(cluster.environment), **shared})
        for name, cluster in settings.all_clusters.items()
    }


def export(pipeline: TrainingPipeline, settings: StackSettings) -> None:
    pulumi.export("jobs", pipeline.summary())
    pulumi.export("cost", pipeline.cost())
    pulumi.export("bucket", settings.storage.bucket)
    pulumi.export("prefix", settings.storage.key_prefix)
    clusters = {name: cluster.summary for name, cluster in pipeline.clusters.items()}
    if SINGLE_CLUSTER in clusters:
        single = clusters[SINGLE_CLUSTER]
        pulumi.export("containerGroup", {"id": single["id"], "name": single["name"]})
        pulumi.export("clusterSize", single["size"])
    else:
        pulumi.export("clusters", clusters)
    if pipeline.dev is not None:
        pulumi.export("dev", pipeline.dev_summary())


def report_mistakes(report: LintReport) -> None:
    """Log lint's warnings, and raise all of its errors together. The refresh that ends `flux up` does not repeat its warnings."""
    if REFRESH_VARIABLE not in os.environ:
        for group in group_findings(report.warnings, pulumi.get_stack()):
            pulumi.log.warn(str(group))
    if report.errors:
        raise BadInput([str(group) for group in group_findings(report.errors, pulumi.get_stack())])


def refuse_ignored_settings(root: Path) -> None:
    """Pulumi ignores what is not below `config:`, such as a budget."""
    if ignored := ignored_in(root / f"Pulumi.{pulumi.get_stack()}.yaml"):
        raise BadInput(ignored)


def refuse_plain_secrets(project: str, config: dict[str, str]) -> None:
    """Refuse a key in plain text: it would get into git with the stack's file, and into the state."""
    plain = [
        key
        for key in SECRET_SETTINGS
        if f"{project}:{key}" in config and not is_config_secret(f"{project}:{key}")
    ]
    if plain:
        raise BadInput(
            [
                f"{project}:{key} is stored in plain text; `pulumi config set --stack {pulumi.get_stack()} --secret {key}` encrypts it"
                for key in plain
            ]
        )


def refuse(error: FluxError) -> NoReturn:
    """Log each finding as an error, and end before anything is registered."""
    findings = error.findings if isinstance(error, BadInput) else [str(error)]
    for finding in findings:
        pulumi.log.error(finding)
    sys.exit(REFUSED)


main()
