"""The stack: what its configuration declares, checked as a whole, then handed to the pipeline."""

import os
import sys
from dataclasses import replace

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

from components.aws import check_package
from components.node_environment import fingerprint, given_keys, node_environment, secret_values
from components.pipeline import Surroundings, TrainingPipeline, cluster_size
from components.preparation import parent_mark, survey
from components.provider import home
from flux_training.clients.connection import CONNECTION_SETTINGS, SECRET_SETTINGS, Connection, connect
from flux_training.clients.pricing import price_stack
from flux_training.clients.results import newest_sound, past_runs
from flux_training.clients.run_states import run_states_of
from flux_training.training.bill import announce, over_budget
from flux_training.training.dataset.facts import each_thousand
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.finding import LintReport, in_short
from flux_training.training.gpu import names_a_class
from flux_training.training.jobs.declare import DeclaredJob, declare_jobs
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.runs.lineage import choose_parent, declared_run, made_before
from flux_training.training.runs.run import Layout
from flux_training.training.settings import StackSettings, on_gpu, parse_stack_settings

# Pulumi shows what was logged, and no traceback, for a program that ends with this code (PULUMI.md).
REFUSED = 32
# Of one rule in one job: ten thousand lines would hide the next rule's.
MOST_WARNINGS = 5
MOST_ERRORS = 50


def main() -> None:
    config = {**get_config_env(), **CONFIG.get()}
    project, stack = pulumi.get_project(), pulumi.get_stack()
    try:
        settings = parse_stack_settings(project, config)
        refuse_plain_secrets(project, config)
        if settings.storage.kind == "aws":
            check_package()
        jobs = examined_jobs(settings)
        keys = {key: config.get(f"{project}:{key}") for key in CONNECTION_SETTINGS}
        connection = connect(settings.cloud, keys, os.environ, settings.storage.kind)
        connection.check_alive()
        jobs = with_parents(connection, settings, jobs)
        states = run_states_of(connection, settings, jobs)
        bill = price_stack(connection, settings, jobs, states)
        findings = over_budget(settings.budget, bill)
        if findings:
            raise BadInput(findings)
        found = survey(connection, settings, jobs, states, f"{project}/{stack}")
    except FluxError as error:
        refuse(error)

    if text := announce(bill, local=connection.cloud == "local"):
        pulumi.log.info(text)
    if not names_a_class(settings.cluster.gpu):
        settings = on_gpu(settings, bill.rate.gpu)
    unfinished = sum(state.needs_gpu for state in states.values())

    for warning in found.warnings:
        pulumi.log.warn(warning)
    for note in found.notes:
        pulumi.log.info(note)
    given = given_keys(connection) if settings.storage.kind == "s3" else {}
    environment = {**secret_values(settings.cluster.environment), **node_environment(connection), **given}
    surroundings = Surroundings(
        owner=f"{project}/{stack}",
        home=home(connection),
        credentials=fingerprint(environment),
        unfinished=unfinished,
        region=connection.s3_region,
        keys_end=found.keys_end,
        parent=parent_mark(connection),
        retention=found.retention,
    )
    pipeline = TrainingPipeline("pipeline", settings, jobs, surroundings)

    least, most = cluster_size(settings.cluster, len(jobs))
    pulumi.export("jobs", pipeline.summary())
    pulumi.export("cost", pipeline.cost())
    pulumi.export("bucket", settings.storage.bucket)
    pulumi.export("prefix", settings.storage.key_prefix)
    pulumi.export("containerGroup", {"id": pipeline.group.id, "name": settings.cluster.name})
    if pipeline.dev is not None:
        pulumi.export("dev", pipeline.dev_summary())
    pulumi.export("clusterSize", {"min": least, "max": most, "autoscale": settings.cluster.autoscale})


def examined_jobs(settings: StackSettings) -> list[DeclaredJob]:
    """The declared jobs, none with a mistake. What every file of theirs holds is forgotten with the examiner: of a thousand, 15 MB."""
    # Printed: what is logged is shown when the program has ended.
    examiner = Examiner.of(on_progress=each_thousand(lambda line: print(line, file=sys.stderr, flush=True)))
    refuse_mistakes(lint_jobs(settings, examiner=examiner))
    return declare_jobs(settings, examiner=examiner)


def refuse_mistakes(report: LintReport) -> None:
    """What lint warns of is said; its errors are raised together."""
    for line in in_short(report.warnings, MOST_WARNINGS):
        pulumi.log.warn(line)
    if report.errors:
        raise BadInput(in_short(report.errors, MOST_ERRORS))


def refuse_plain_secrets(project: str, config: dict[str, str]) -> None:
    """A key in plain text would go into git with the stack's file, and into the state."""
    plain = [
        key
        for key in SECRET_SETTINGS
        if f"{project}:{key}" in config and not is_config_secret(f"{project}:{key}")
    ]
    if plain:
        raise BadInput(
            [
                f"{project}:{key} stands in plain text; `pulumi config set --secret {key}` encrypts it"
                for key in plain
            ]
        )


def with_parents(
    connection: Connection, settings: StackSettings, jobs: list[DeclaredJob]
) -> list[DeclaredJob]:
    """The jobs, those with `resume: true` with the run that they go on from."""
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    if not any(job.settings.resume for job in jobs) or not storage.exists():
        return jobs

    def parent_of(job: DeclaredJob) -> str | None:
        past = past_runs(storage, layout, job.name)
        run_of = declared_run(job.image_set.manifest, job.folder.raw_config, job.settings.attempt)
        made, parent = made_before(run_of, past)
        if made:
            return parent

        def newest_checkpoint(run: str) -> int | None:
            found = newest_sound(storage, layout.run(job.name, run))
            return found[1] if found else None

        return choose_parent(job.name, job.folder.config.steps, past, newest_checkpoint)

    return [replace(job, parent=parent_of(job)) if job.settings.resume else job for job in jobs]


def refuse(error: FluxError) -> None:
    """Every finding as an error of its own, before anything is registered."""
    findings = error.findings if isinstance(error, BadInput) else [str(error)]
    for finding in findings:
        pulumi.log.error(finding)
    sys.exit(REFUSED)


main()
