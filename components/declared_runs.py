"""What this stack wants trained, written down before anything is queued, so that what is queued beside it can be found.

An `up` that is killed after a post leaves a job that no state knows. If its folder is declared still, the next `up` adopts it;
if it was taken out of the configuration meanwhile, nothing else would ever stop it, and it would be paid for to its end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.messages import inform
from components.provider import FluxProvider, Props, inputs_of, replace_on
from components.queueing import queue_of
from flux_training.clients.kelpie import Job
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, Layout

INPUTS = ("home", "groupId", "bucket", "prefix", "runs")


def dropped(jobs: Iterable[Job], bucket: str, runs_prefix: str, runs: Collection[str]) -> list[Job]:
    """Unfinished jobs that train one of `runs` (run ids) and write below this stack's runs."""
    return [
        job
        for job in jobs
        if job.unfinished
        and job.environment.get(RUN_ID_VARIABLE) in runs
        and any(rule.bucket == bucket and rule.prefix.startswith(runs_prefix) for rule in job.sync.during)
    ]


class DeclaredRunsProvider(FluxProvider):
    """Cancels only what this very state declared before: another checkout of the stack may want what it does not know."""

    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        found = replace_on(("groupId", "bucket", "prefix"), olds, news)
        if {"bucket", "prefix"} & set(found.replaces or ()):
            self._refuse_to_train_again(olds, news)
        return found

    def create(self, props: Props) -> CreateResult:
        return CreateResult(props["groupId"], inputs_of(props, INPUTS))

    def read(self, id_: str, props: Props) -> ReadResult:
        return ReadResult(id_, inputs_of(props, INPUTS), inputs_of(props, INPUTS))

    def update(self, _id: str, olds: Props, news: Props) -> UpdateResult:
        self._cancel(olds, set(olds["runs"].values()) - set(news["runs"].values()))
        return UpdateResult(inputs_of(news, INPUTS))

    def delete(self, _id: str, props: Props) -> None:
        self.check_home(props)
        self._cancel(props, set(props["runs"].values()))

    def _refuse_to_train_again(self, olds: Props, news: Props) -> None:
        """Here, before the running ones are canceled: `TrainingJob` refuses as well, but it comes after."""
        kept = [job for job, run in olds["runs"].items() if news["runs"].get(job) == run]
        there, here = ([self._is_done(props, job) for job in kept] for props in (olds, news))
        left = [job for job, old, new in zip(kept, there, here, strict=True) if old and not new]
        if left:
            raise FluxError(
                f"{', '.join(left)}: the results lie in s3://{olds['bucket']}/{Layout(olds['prefix']).runs}",
                "in another bucket or prefix it would be trained again",
                "copy runs/ there first, or set another `attempt` for the job if that is what you want",
            )

    def _is_done(self, props: Props, job: str) -> bool:
        keys = Layout(props["prefix"]).run(job, props["runs"][job])
        return self.connection.storage(props["bucket"]).head(keys.done) is not None

    def _cancel(self, props: Props, runs: Collection[str]) -> None:
        if not runs:
            return
        queue = queue_of(self.connection, props["groupId"])
        left = dropped(queue.jobs(), props["bucket"], Layout(props["prefix"]).runs, runs)
        for job in left:
            queue.kelpie.cancel_job(job.id)
            name, run = job.environment.get(JOB_VARIABLE, "?"), job.environment[RUN_ID_VARIABLE]
            inform(f"{name}: canceled the job of run {run}, which is not declared any more")
        if left:
            queue.drop()


class DeclaredRuns(Resource, module="flux", name="DeclaredRuns"):
    """`runs` by job name. One a stack; before its jobs, after its group."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(DeclaredRunsProvider(), name, props, opts)
