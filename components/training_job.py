"""A run of one train.yml with captions on one dataset: its files in the bucket and its job in the queue."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any

import pulumi

from components.messages import inform, make_command_for
from components.prepared_runs import PreparedRun, load_prepared, remove_prepared
from components.properties import Properties, copy_shared_fields, known_or_none
from components.provider import FluxProvider, FluxResource
from flux_training.clients.connection import Connection
from flux_training.clients.datasets import is_dataset_complete
from flux_training.clients.errors import Conflict
from flux_training.clients.kelpie import Job, JobRequest, Sync
from flux_training.clients.pins import pin_weights
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.hung_nodes import NODE_REPLACED, replace_hung_node
from flux_training.clients.queue.new_runs import NewRun, was_queued
from flux_training.clients.queue.own_jobs import RunPlace, newest_posted_job
from flux_training.clients.queue.posting import shared_queue
from flux_training.clients.queue.requeue import cancel_run, job_of_run
from flux_training.clients.records import read_record
from flux_training.clients.results import (
    RunResults,
    inspect_run,
    newest_sound_checkpoint,
    posted_job_id,
    read_json,
    read_stored_results,
    results_if_trusted,
    run_status,
)
from flux_training.clients.stack.spending import reserve
from flux_training.clients.storage import Storage
from flux_training.node.bundle import PROGRAM, launcher_bundle
from flux_training.node.job import LIMITS_FILE, NodeJob, changed_limits, launch_limits
from flux_training.node.launcher.settings import LaunchLimits, config_digest
from flux_training.training.bill import cost_record_of_run
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import LAUNCHER_CONTRACT, Layout, RunKeys
from flux_training.training.runs.run_state import RunState
from flux_training.training.words import counted

IN_SUMMARY = ("kelpieId", "runId", "status", "reason", "steps", "stallMinutes", "weights")

# The maximum age of cached answers about groups and datasets. Short enough to notice a change that is made during a long
# update.
MAX_ANSWER_AGE_SECONDS = 30.0
_asking = Lock()


@dataclass(frozen=True, kw_only=True)
class RunProperties(Properties):
    """What is declared and stored for a run.

    Holds only what `read`, `update` and `delete` need, because it is stored once per job.
    """

    job: str
    folder: str
    run_id: str
    attempt: int = 1
    parent: str | None = None
    steps: int
    group_id: str
    bucket: str
    prefix: str
    max_hours: float | None = None
    stall_minutes: float = LaunchLimits.stall_minutes

    @property
    def keys(self) -> RunKeys:
        return Layout(self.prefix).run(self.job, self.run_id)

    @property
    def parent_keys(self) -> RunKeys | None:
        return Layout(self.prefix).run(self.job, self.parent) if self.parent else None

    @property
    def place(self) -> RunPlace:
        """Identifies the run's jobs in the queue."""
        return RunPlace.of(self.bucket, Layout(self.prefix), self.job, self.run_id)

    @property
    def results(self) -> str:
        return f"s3://{self.bucket}/{self.keys.base}"


@dataclass(frozen=True, kw_only=True)
class TrainingJobArgs(RunProperties):
    """`dataset` is the name of the job whose folder has the images, None if it is this job; `digest` identifies the images."""

    dataset: str | None = None
    digest: str
    group_name: str
    webhook: str | None = None
    owner: str


@dataclass(frozen=True, kw_only=True)
class TrainingJobState(RunProperties):
    """`status` is the status when it was last read; `refresh` updates it.

    `reason` is empty unless the run failed. `weights`: sha256, size and step of the weights that were verified first.
    """

    kelpie_id: str = ""
    status: RunState = RunState.UNKNOWN
    reason: str = ""
    cost: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = None


class TrainingJobProvider(FluxProvider[TrainingJobArgs, TrainingJobState]):
    args_class = TrainingJobArgs
    state_class = TrainingJobState
    replaced_by = ("run_id", "group_id", "bucket", "prefix", "job")
    # The inputs cannot drift, and they may contain a secret webhook URL, which `read` would store in plain text.
    reads_inputs = False

    def check_change(self, old: TrainingJobState, new: TrainingJobArgs, replaces: list[str]) -> None:
        if (old.bucket, old.prefix) != (new.bucket, new.prefix):
            self._refuse_to_train_again(old, new)
        if not replaces and old.reason:
            inform(failed_run_advice(old))

    def create_or_adopt(self, args: TrainingJobArgs) -> tuple[str, TrainingJobState]:
        storage, queue = self.connection.storage(args.bucket), shared_queue(self.connection, args.group_id)
        if self._is_finished(storage, args, queue.find(args.place)):
            inform(
                f"{args.job}: run {args.run_id} is already finished; its results are adopted and nothing is trained"
            )
            return args.run_id, _current_state(
                storage, args, shared_queue(self.connection, None).find(args.place)
            )
        refresh, now = make_command_for(args.owner, "refresh"), int(time.monotonic() / MAX_ANSWER_AGE_SECONDS)
        with _asking:
            refuse_missing_group(self.connection, args.group_name, args.group_id, refresh, now)
        refuse_incomplete_dataset(storage, Layout(args.prefix), args.digest, refresh, now)
        run = load_prepared(args.owner, args.job, args.run_id, args.attempt, args.parent)
        claims = ClaimFile(storage, args.keys, args.owner)

        first_posts: list[NewRun] = []

        def prepare() -> None:
            own = shared_queue(self.connection, None).own_jobs(args.place)
            new = None if was_queued(storage, args.keys, own) else NewRun(storage, args.keys)
            check_parent(storage, args, is_new=new is not None)
            if run.reservation:
                last, again = newest_posted_job(own), make_command_for(args.owner, "up")
                replaced = last.id if last else ""
                reserve(storage, args.prefix, args.keys, run.reservation, again, replaced)
            send_configuration(storage, args, run, is_new=new is not None)
            # Move or delete objects in the run's folder last, right before the post: nodes can write there until then, and an
            # update that fails earlier leaves them alone.
            if new:
                report_moved_weights(args, new.move_weights_aside(args.steps, claims.renew))
                report_deleted_objects(args, new.clear(claims.renew), "before the run was queued")
                first_posts.append(new)

        # If the job is in the queue already, it keeps the files that it was queued with.
        job = queue.post_once(args.place, job_request(args, run), claims, prepare)
        for new in first_posts:
            count = new.clear_after_post(queue.kelpie, job)
            report_deleted_objects(args, count, "while the run was being queued")
        remove_prepared(args.owner, args.job, args.run_id)
        return args.run_id, _current_state(storage, args, job)

    def find(self, _id: str, state: TrainingJobState) -> TrainingJobState | None:
        storage = self.connection.storage(state.bucket)
        job = job_of_run(self.connection.kelpie(), state.kelpie_id, state.place)
        if not storage.exists():
            return None
        status = run_status(storage, state.keys, state.steps, job, state.stall_minutes)
        if status.state is RunState.LOST:
            # A run whose verified weights have disappeared is reported, but not trained and paid for again.
            return state if state.weights else None
        final = state.status is status.state and status.state.has_ended
        return copy_shared_fields(
            TrainingJobState,
            state,
            kelpie_id=job.id if job else state.kelpie_id,
            status=status.state,
            reason=status.reason,
            cost=state.cost if final and state.cost else _cost(storage, state.keys),
            weights=_verified_weights(
                storage, state, status.results, state.weights, self.connection.nodes_reach_records
            ),
        )

    def change(self, _id: str, old: TrainingJobState, new: TrainingJobArgs) -> TrainingJobState:
        """Apply changed settings to the stored run.

        New limits take effect when the queue next hands out the run. A queued job's webhook cannot be changed; a new one
        applies to the next run.
        """
        storage = self.connection.storage(new.bucket)
        if not inspect_run(storage, new.keys, new.steps).finished:
            key = f"{new.keys.config}{LIMITS_FILE}"
            present = read_json(storage, key) or {}
            storage.put_bytes(key, changed_limits(present, new.max_hours, new.stall_minutes))
            if old.max_hours is not None and (new.max_hours is None or new.max_hours > old.max_hours):
                inform(
                    f"{new.job}: maxHours of a queued job cannot be raised; the new value applies to the next attempt "
                    f"(`attempt: {new.attempt + 1}`)"
                )
        return copy_shared_fields(
            TrainingJobState,
            new,
            kelpie_id=old.kelpie_id,
            status=old.status,
            reason=old.reason,
            cost=old.cost,
            weights=old.weights,
        )

    def remove(self, _id: str, state: TrainingJobState) -> None:
        """Cancel the run's job if it is pending or running, and replace its node if it hangs. The objects stay."""

        def before_cancel(job: Job) -> None:
            if replace_hung_node(self.connection, job, state.bucket, state.keys, state.stall_minutes):
                inform(f"{state.job}: {NODE_REPLACED}")

        kelpie, storage = self.connection.kelpie(), self.connection.storage(state.bucket)
        if cancel_run(kelpie, state.kelpie_id, state.place, storage, state.keys, before_cancel):
            shared_queue(self.connection, state.group_id).forget()

    def _is_finished(self, storage: Storage, args: TrainingJobArgs, job: Job | None = None) -> bool:
        """Whether the run has weights that its node can have made.

        Asks the services, because a run that is created has no state yet.
        """
        found = read_stored_results(storage, args.keys, args.steps, job)
        if not found.finished or (found.pin is not None and not self.connection.nodes_reach_records):
            return found.finished
        own = shared_queue(self.connection, None).own_jobs(args.place)
        is_posted = not self.connection.nodes_reach_records and storage.head(args.keys.posted) is not None
        return results_if_trusted(found, own, is_posted).finished

    def _refuse_to_train_again(self, old: TrainingJobState, new: TrainingJobArgs) -> None:
        """Refuse a change of bucket or prefix: a finished run would be unknown there, and trained and paid for again."""
        if old.status is not RunState.COMPLETED or old.run_id != new.run_id:
            return
        storage = self.connection.storage(new.bucket)
        if storage.exists() and self._is_finished(storage, new):
            return
        raise FluxError(
            f"{old.job}: its results are in {old.results}",
            "in another bucket or prefix it would be trained again",
            f"copy runs/ and .flux/runs/ there first, or set `attempt: {old.attempt + 1}` for the job to train it again",
        )


@cache
def refuse_missing_group(connection: Connection, name: str, group_id: str, refresh: str, _now: int) -> None:
    """Raise FluxError if the container group is gone: a job queued for it would never run.

    `refresh`: the command to suggest. `_now` is part of the cache key, so answers with the same `_now` are reused.
    """
    group = connection.salad().get_group(name)
    if group is None or group.id != group_id:
        raise FluxError(
            f"container group {name} was deleted or replaced",
            "a job queued for the old group would wait forever",
            f"run {refresh}, then this again",
        )


@cache
def refuse_incomplete_dataset(storage: Storage, layout: Layout, digest: str, refresh: str, _now: int) -> None:
    """Raise FluxError if the images are incomplete: the job would fail, and be paid for, as often as the queue retries it."""
    if not is_dataset_complete(storage, layout, digest):
        raise FluxError(
            f"images are missing in the bucket below {layout.dataset(digest)}",
            "a job cannot train on an incomplete dataset",
            f"run {refresh}, then this again",
        )


def failed_run_advice(state: TrainingJobState) -> str:
    """What to do about a run that failed, for a preview."""
    return (
        f"{state.job}: run {state.run_id} {state.status}: {state.reason}. It is not queued again automatically, because that "
        f"costs money: fix the cause, or set `attempt: {state.attempt + 1}` for the job"
    )


def check_parent(storage: Storage, args: TrainingJobArgs, *, is_new: bool) -> None:
    """Raise FluxError if the run resumes from a parent and neither it nor the parent has a checkpoint to continue from.

    The launcher downloads the parent's checkpoint unless the run has its own. A run that was never queued has none: see NewRun.
    """
    if args.parent_keys is None or (not is_new and newest_sound_checkpoint(storage, args.keys)):
        return
    found = newest_sound_checkpoint(storage, args.parent_keys, before=args.steps)
    if found is None:
        raise FluxError(
            f"{args.job}: run {args.parent} has no valid checkpoint from before step {args.steps} any more (searched in {args.parent_keys.output})",
            "`resume: true` needs a checkpoint to continue from",
            "remove `resume` from the job to train from the start",
        )
    inform(f"{args.job}: continues from step {found[1]} of run {args.parent}")


def report_deleted_objects(args: TrainingJobArgs, count: int, when: str) -> None:
    if count:
        inform(
            f"{args.job}: {counted(count, 'unexpected object')} below {args.keys.output} deleted, written by someone else {when}"
        )


def report_moved_weights(args: TrainingJobArgs, folder: str) -> None:
    if folder:
        inform(
            f"{args.job}: {args.keys.model} had finished weights, but there is no record that run {args.run_id} was ever queued; "
            f"they were moved to {folder}, and the run is trained"
        )


def send_configuration(storage: Storage, args: TrainingJobArgs, run: PreparedRun, *, is_new: bool) -> None:
    """Write config/ and, below output/, run.json. The job downloads both.

    A run.json that is already there for a run that was never queued is not ours, and is replaced.
    """
    keys = args.keys
    storage.put_bytes(f"{keys.config}train.yml", run.raw_config)
    storage.put_bytes(f"{keys.config}manifest.json", run.manifest)
    limits = launch_limits(args.max_hours, args.stall_minutes)
    storage.put_bytes(f"{keys.config}{LIMITS_FILE}", limits)
    bundle = launcher_bundle()
    storage.put_bytes(f"{keys.config}{bundle.file_name}", bundle.data)
    try:
        storage.put_bytes(keys.record, canonical_json(run_record(args, run)), if_none_match=not is_new)
    except Conflict:
        return


def run_record(args: TrainingJobArgs, run: PreparedRun) -> dict[str, Any]:
    """The content of run.json. The estimate is stored so that it can be compared with the actual cost."""
    return {
        "version": 1,
        "job": args.job,
        "run_id": args.run_id,
        "attempt": args.attempt,
        "parent": args.parent,
        "dataset": args.digest,
        "manifest": hashlib.sha256(run.manifest).hexdigest(),
        "config": hashlib.sha256(run.raw_config).hexdigest(),
        "steps": args.steps,
        "launcher": LAUNCHER_CONTRACT,
        "owner": args.owner,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "estimate": run.estimate,
        "weights_in_image": run.weights_in_image,
    }


def job_request(args: TrainingJobArgs, run: PreparedRun) -> JobRequest:
    """The request that queues the run's job in Kelpie. docs/node.md explains what it contains, and why."""
    bundle, node_job = launcher_bundle(), as_node_job(args, run)
    return JobRequest(
        container_group_id=args.group_id,
        command=PROGRAM,
        arguments=bundle.arguments,
        environment=node_job.environment,
        sync=Sync.model_validate(node_job.sync(bundle)),
        webhook=args.webhook,
    )


def as_node_job(args: TrainingJobArgs, run: PreparedRun) -> NodeJob:
    parent = args.parent_keys
    return NodeJob(
        job=args.job,
        run_id=args.run_id,
        attempt=args.attempt,
        steps=args.steps,
        save_every=run.save_every,
        bucket=args.bucket,
        run_prefix=args.keys.base,
        dataset_prefix=Layout(args.prefix).dataset(args.digest),
        config_sha256=config_digest(run.manifest, run.raw_config),
        parent_prefix=parent.base if parent else None,
        max_hours=args.max_hours,
    )


def _current_state(storage: Storage, args: TrainingJobArgs, job: Job | None) -> TrainingJobState:
    """The state of a run, from the queue and the bucket."""
    status = run_status(storage, args.keys, args.steps, job, args.stall_minutes)
    return copy_shared_fields(
        TrainingJobState,
        args,
        # The queue may have forgotten the job of a finished run, so the job can be None.
        kelpie_id=job.id if job else posted_job_id(storage, args.keys),
        status=status.state,
        reason=status.reason,
        cost=_cost(storage, args.keys),
        weights=_verified_weights(storage, args, status.results),
    )


def _verified_weights(
    storage: Storage,
    run: RunProperties,
    results: RunResults,
    stored: Mapping[str, Any] | None = None,
    nodes_reach_records: bool = False,
) -> Mapping[str, Any] | None:
    """The weights that were verified first. Records them now if they were not recorded before.

    `stored`: the weights in the state, which nodes cannot write.
    """
    pin = results.pin
    if pin is None and stored is None and results.finished and results.weights is not None:
        pin = pin_weights(storage, run.keys, results.weights, run.steps)
    if stored and (pin is None or pin.contradicts(PinnedWeights.model_validate(stored), nodes_reach_records)):
        return stored
    return pin.state_record if pin else None


def _cost(storage: Storage, keys: RunKeys) -> dict[str, Any]:
    record = read_record(storage, keys.record, RunRecord).value or RunRecord()
    progress = read_record(storage, keys.progress, RunProgress).value or RunProgress()
    return cost_record_of_run(record.estimate, progress.gpu_seconds)


class TrainingJob(FluxResource[TrainingJobArgs], module="flux", name="TrainingJob"):
    """Its Pulumi id is the run id."""

    provider_class = TrainingJobProvider
    cost: pulumi.Output[dict[str, Any]]
    weights: pulumi.Output[dict[str, Any] | None]

    @property
    def summary(self) -> pulumi.Output[dict[str, Any]]:
        """The job's entry in the stack output `jobs`. A preview does not know it for a run that does not exist yet."""
        names = {*IN_SUMMARY, "job", "bucket", "prefix"}
        values = {name: getattr(self, name) for name in names} | {"weights": known_or_none(self.weights)}
        return pulumi.Output.all(**values).apply(_summary)


def _summary(outputs: dict[str, Any]) -> dict[str, Any]:
    keys = Layout(outputs["prefix"]).run(outputs["job"], outputs["runId"])
    # `weights` is left out of the summary until the weights are verified.
    return {
        **{name: outputs[name] for name in IN_SUMMARY if name != "weights" or outputs[name] is not None},
        "folder": keys.base,
        "results": f"s3://{outputs['bucket']}/{keys.model}",
    }
