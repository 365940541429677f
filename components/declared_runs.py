"""The runs that a stack declares, recorded before anything is queued, so that jobs of removed runs can be found.

If `up` is killed right after posting a job, that job is not in the stack's state. If its folder is still declared, the next
`up` adopts the job. If it was removed from the configuration in the meantime, only this record allows the job to be canceled.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from components.messages import inform
from components.properties import Properties
from components.provider import FluxProvider, FluxResource
from flux_training.clients.kelpie import Job
from flux_training.clients.queue.hung_nodes import NODE_REPLACED, replace_hung_node
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import shared_queue
from flux_training.node.launcher.settings import LaunchLimits
from flux_training.training.errors import FluxError
from flux_training.training.runs.run import JOB_VARIABLE, RUN_ID_VARIABLE, Layout, RunKeys


@dataclass(frozen=True, kw_only=True)
class DeclaredRunsArgs(Properties):
    """`runs`: run ids by job name."""

    group_id: str
    bucket: str
    prefix: str
    runs: Mapping[str, str]


class DeclaredRunsProvider(FluxProvider[DeclaredRunsArgs, DeclaredRunsArgs]):
    """Cancels only jobs of runs that this state declared before, because another checkout of the stack may declare other runs."""

    args_class = state_class = DeclaredRunsArgs
    replaced_by = ("group_id", "bucket", "prefix")

    def check_change(self, old: DeclaredRunsArgs, new: DeclaredRunsArgs, replaces: list[str]) -> None:
        """Refuse to train finished runs again in another bucket or prefix.

        `TrainingJob` refuses this too, but only after running jobs have been canceled.
        """
        if not {"bucket", "prefix"} & set(replaces):
            return
        unchanged = [job for job, run in old.runs.items() if new.runs.get(job) == run]
        left = [job for job in unchanged if self._is_done(old, job) and not self._is_done(new, job)]
        if left:
            raise FluxError(
                f"{', '.join(left)}: the results are in s3://{old.bucket}/{Layout(old.prefix).runs}",
                "with another storage.bucket or storage.prefix these jobs would be trained again",
                "to keep the results, first copy runs/ and .flux/runs/ to the new bucket or prefix; to train again, change `attempt` of these jobs",
            )

    def create_or_adopt(self, args: DeclaredRunsArgs) -> tuple[str, DeclaredRunsArgs]:
        return args.group_id, args

    def change(self, _id: str, old: DeclaredRunsArgs, new: DeclaredRunsArgs) -> DeclaredRunsArgs:
        self._cancel(old, old.runs.items() - new.runs.items(), new.runs)
        return new

    def remove(self, _id: str, state: DeclaredRunsArgs) -> None:
        self._cancel(state, state.runs.items(), None)

    def _is_done(self, args: DeclaredRunsArgs, job: str) -> bool:
        keys = Layout(args.prefix).run(job, args.runs[job])
        return self.connection.storage(args.bucket).head(keys.done) is not None

    def _cancel(
        self, args: DeclaredRunsArgs, runs: Collection[tuple[str, str]], declared: Mapping[str, str] | None
    ) -> None:
        """Cancel the unfinished jobs of `runs`, given as (job, run id).

        `declared`: the run ids declared from now on, by job name; None if the stack or its group is removed.
        """
        if not runs:
            return
        queue = shared_queue(self.connection, args.group_id)
        layout = Layout(args.prefix)
        places = [RunPlace.of(args.bucket, layout, job, run) for job, run in runs]
        removed = unfinished_jobs(queue.jobs(), places)
        for job in removed:
            name, run = job.environment.get(JOB_VARIABLE, "?"), job.environment[RUN_ID_VARIABLE]
            self._replace_if_hung(args, job, layout.run(name, run))
            queue.kelpie.cancel_job(job.id)
            inform(f"{name}: canceled the job of run {run}: {why_canceled(name, declared)}")
        if removed:
            queue.forget()

    def _replace_if_hung(self, args: DeclaredRunsArgs, job: Job, keys: RunKeys) -> None:
        # A run's own `stallMinutes` is not stored in this resource, so the default is used.
        if replace_hung_node(self.connection, job, args.bucket, keys, LaunchLimits.stall_minutes):
            inform(f"{keys.job}: {NODE_REPLACED}")


def why_canceled(job: str, declared: Mapping[str, str] | None) -> str:
    """The reason for canceling a job, for the user.

    `declared`: run ids by job name; None if the stack or its group is removed.
    """
    if declared is None:
        return "the stack or its container group is removed"
    if job in declared:
        return (
            f"its images, captions, train.yml or settings have changed, and run {declared[job]} replaces it"
        )
    return "the stack no longer declares the job, or the job has `skip: true`"


def unfinished_jobs(jobs: Iterable[Job], runs: Collection[RunPlace]) -> list[Job]:
    """Unfinished jobs that train one of these runs."""
    return [job for job in jobs if job.unfinished and any(place.is_own(job) for place in runs)]


class DeclaredRuns(FluxResource[DeclaredRunsArgs], module="flux", name="DeclaredRuns"):
    """One per stack; before its jobs, after its group."""

    provider_class = DeclaredRunsProvider
