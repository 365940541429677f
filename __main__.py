"""The stack: what its configuration declares, checked as a whole, then handed to the pipeline."""

import os
import sys
from dataclasses import replace

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from clients.connection import CONNECTION_SETTINGS, Connection, connect
from clients.results import inspect_run, past_runs
from components.node_environment import fingerprint, node_environment
from components.pipeline import Surroundings, TrainingPipeline, cluster_size
from training.declare import DeclaredJob, declare_jobs
from training.errors import BadInput, FluxError
from training.lineage import choose_parent
from training.run import Layout
from training.settings import StackSettings, parse_stack_settings

# Pulumi shows what was logged, and no traceback, for a program that ends with this code (PULUMI.md).
REFUSED = 32


def main() -> None:
    config = {**get_config_env(), **CONFIG.get()}
    project, stack = pulumi.get_project(), pulumi.get_stack()
    try:
        settings = parse_stack_settings(project, config)
        jobs = declare_jobs(settings)
        connection = connect(
            settings.cloud, {key: config.get(f"{project}:{key}") for key in CONNECTION_SETTINGS}, os.environ
        )
        connection.check_alive()
        jobs = with_parents(connection, settings, jobs)
        unfinished = 0 if settings.cluster.autoscale else count_unfinished(connection, settings, jobs)
    except FluxError as error:
        refuse(error)

    surroundings = Surroundings(f"{project}/{stack}", fingerprint(node_environment(connection)), unfinished)
    pipeline = TrainingPipeline("pipeline", settings, jobs, surroundings)

    least, most = cluster_size(settings.cluster, len(jobs))
    pulumi.export("jobs", pipeline.summary())
    pulumi.export("bucket", settings.storage.bucket)
    pulumi.export("prefix", settings.storage.key_prefix)
    pulumi.export("containerGroup", {"id": pipeline.group.id, "name": settings.cluster.name})
    pulumi.export("clusterSize", {"min": least, "max": most})


def with_parents(
    connection: Connection, settings: StackSettings, jobs: list[DeclaredJob]
) -> list[DeclaredJob]:
    """The jobs, those with `resume: true` with the run that they go on from."""
    if not any(job.settings.resume for job in jobs):
        return jobs
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    if not storage.exists():
        return jobs

    def parent_of(job: DeclaredJob) -> str | None:
        past = past_runs(storage, layout, job.name)
        return choose_parent(job.image_set.manifest, job.folder.raw_config, job.settings.attempt, past)

    return [replace(job, parent=parent_of(job)) if job.settings.resume else job for job in jobs]


def count_unfinished(connection: Connection, settings: StackSettings, jobs: list[DeclaredJob]) -> int:
    """Declared runs without verified weights in the bucket: the replicas to keep when nothing scales them."""
    storage = connection.storage(settings.storage.bucket)
    layout = Layout(settings.storage.key_prefix)
    if not storage.exists():
        return len(jobs)
    return sum(
        not inspect_run(storage, layout.run(job.name, job.run_id), job.folder.config.steps).finished
        for job in jobs
    )


def refuse(error: FluxError) -> None:
    """Every finding as an error of its own, before anything is registered."""
    findings = error.findings if isinstance(error, BadInput) else [str(error)]
    for finding in findings:
        pulumi.log.error(finding)
    sys.exit(REFUSED)


main()
