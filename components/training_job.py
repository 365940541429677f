"""One run of one train.yml with captions on one dataset: its files in the bucket and its one job in the queue."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from components.checkpoints import bring_checkpoint
from components.lookups import Lookups
from components.messages import inform
from components.provider import FluxProvider, Props, inputs_of, replace_on
from components.queueing import ClaimFile, queue_of
from flux_training.clients.datasets import is_complete
from flux_training.clients.errors import Conflict
from flux_training.clients.kelpie import Job, JobRequest, Sync, SyncRule
from flux_training.clients.own_jobs import RunPlace
from flux_training.clients.pricing import estimate_run, work_of
from flux_training.clients.results import inspect_run, queue_job, read_json, run_status
from flux_training.clients.salad import ContainerGroup
from flux_training.clients.storage import Storage
from flux_training.training.bill import cost_of
from flux_training.training.dataset.manifest import canonical_json
from flux_training.training.errors import FluxError
from flux_training.training.jobs.declare import read_job
from flux_training.training.jobs.folder import ImageSet, JobFolder, read_config
from flux_training.training.runs.run import (
    ATTEMPT_VARIABLE,
    CONFIG_FOLDER,
    JOB_VARIABLE,
    LAUNCHER_CONTRACT,
    MODEL_FOLDER,
    RUN_ID_VARIABLE,
    Layout,
    Limits,
    RunKeys,
    launch_settings,
    run_id,
)
from flux_training.training.runs.run_state import ENDED, RunState
from flux_training.training.train_yml.trainer_config import DATASET_FOLDER, OUTPUT_FOLDER

# What looking at it, changing and taking it down need of the inputs; a thousand of them make the state long enough.
KEPT = (
    "home",
    "job",
    "folder",
    "runId",
    "attempt",
    "parent",
    "steps",
    "groupId",
    "bucket",
    "prefix",
    "maxHours",
    "stallMinutes",
)
LAUNCHER = Path(__file__).parent.parent / "flux_training" / "node" / "launch.py"

_lookups = Lookups()


class TrainingJobProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        self.check_home(olds)
        found = replace_on(("runId", "groupId", "bucket", "prefix", "job"), olds, news)
        if (olds["bucket"], olds["prefix"]) != (news["bucket"], news["prefix"]):
            self._refuse_to_train_again(olds, news)
        if not found.replaces and olds.get("reason"):
            inform(what_to_do(olds))
        return found

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        keys = run_keys(props)
        queue = queue_of(self.connection, props["groupId"])
        if inspect_run(storage, keys, int(props["steps"])).finished:
            inform(
                f"{props['job']}: run {props['runId']} is finished already; its results are taken over, nothing is trained"
            )
            seen = _seen(storage, props, queue.find(wanted(props)))
            return CreateResult(props["runId"], _outputs(props, *seen, _cost(storage, props)))
        group = self._refuse_without_ground(storage, props)
        folder, image_set = read_job(Path(props["folder"]).parent, props["job"], props.get("dataset"))
        parent = _run_of(props, props["parent"]) if props.get("parent") else None
        work = work_of(storage, folder, image_set, parent)
        estimate = estimate_run(self.connection, props["bucket"], props["prefix"], group, work)
        send_configuration(storage, keys, props, folder, image_set, estimate)

        def bring_parents_checkpoint() -> None:
            if props.get("parent"):
                step = bring_checkpoint(storage, _run_of(props, props["parent"]), keys)
                inform(f"{props['job']}: goes on from step {step} of run {props['parent']}")

        claims = ClaimFile(storage, keys, props["owner"])
        job = queue.post_once(wanted(props), job_request(props, keys), claims, bring_parents_checkpoint)
        cost = _cost(storage, props)
        return CreateResult(props["runId"], _outputs(props, *_seen(storage, props, job), cost))

    def read(self, id_: str, props: Props) -> ReadResult:
        self.check_home(props)
        storage = self.connection.storage(props["bucket"])
        job = queue_job(self.connection.kelpie(), props.get("kelpieId"))
        if not storage.exists():
            return ReadResult("", {})
        state, reason = _state(storage, props, job)
        if state == RunState.LOST:
            return ReadResult("", {})
        kelpie_id = job.id if job else props.get("kelpieId")
        # No inputs: what is declared cannot drift, and a secret webhook among them would be written down in plain text.
        ended = props.get("status") == state and state in ENDED
        cost = props["cost"] if ended and props.get("cost") else _cost(storage, props)
        return ReadResult(id_, _outputs(props, kelpie_id, state, reason, cost))

    def update(self, _id: str, olds: Props, news: Props) -> UpdateResult:
        """The limits reach the run at its next hand-out. A webhook cannot be changed on a queued job; it is the next run's."""
        storage = self.connection.storage(news["bucket"])
        folder = read_config(Path(news["folder"]))
        storage.put_bytes(f"{run_keys(news).config}launch.json", _launch_json(news, folder))
        status, reason = olds["status"], olds.get("reason", "")
        return UpdateResult(_outputs(news, olds.get("kelpieId"), status, reason, olds.get("cost") or {}))

    def delete(self, _id: str, props: Props) -> None:
        """Only a pending or running job is canceled: Kelpie would rewrite a finished one, and start GPUs for it (UPSTREAM.md)."""
        self.check_home(props)
        if props.get("kelpieId") and self.connection.kelpie().cancel_job(props["kelpieId"]):
            queue_of(self.connection, props["groupId"]).drop()

    def _refuse_without_ground(self, storage: Storage, props: Props) -> ContainerGroup:
        """A job without its group is never run; one without its images fails, paid, as often as the queue allows."""
        salad, wanted_id = self.connection.salad(), props["groupId"]
        group = _lookups.get(
            (self.connection.salad_url, props["groupName"]),
            lambda: salad.get_group(props["groupName"]),
            lambda found: found is not None and found.id == wanted_id,
        )
        if group is None or group.id != wanted_id:
            raise FluxError(
                f"container group {props['groupName']} is gone, or is another one now",
                "a job queued for it would wait for ever",
                "run `make refresh`, then this again",
            )
        layout, digest = Layout(props["prefix"]), props["digest"]
        place = (storage.endpoint_url, storage.bucket, layout.dataset(digest))
        if not _lookups.get(place, lambda: is_complete(storage, layout, digest), bool):
            raise FluxError(
                f"images of {props['job']} are missing in the bucket",
                "half a dataset is not trained",
                "run `make refresh`, then this again",
            )
        return group

    def _refuse_to_train_again(self, olds: Props, news: Props) -> None:
        """Another bucket or prefix knows nothing of a finished run: it would be trained and paid for a second time."""
        if olds.get("status") != RunState.COMPLETED or olds["runId"] != news["runId"]:
            return
        storage = self.connection.storage(news["bucket"])
        if storage.exists() and inspect_run(storage, run_keys(news), int(news["steps"])).finished:
            return
        raise FluxError(
            f"{olds['job']}: its results lie in s3://{olds['bucket']}/{run_keys(olds).base}",
            "in another bucket or prefix it would be trained again",
            f"copy runs/ there first, or set `attempt: {int(olds['attempt']) + 1}` for the job if that is what you want",
        )


def what_to_do(props: Props) -> str:
    """For the person who previews a stack with a run that ended badly."""
    return (
        f"{props['job']}: run {props['runId']} {props['status']}: {props['reason']}. It is not queued again by itself, because it "
        f"would be paid for again: mend what was wrong, or set `attempt: {int(props['attempt']) + 1}` for the job"
    )


def run_keys(props: Props) -> RunKeys:
    return _run_of(props, props["runId"])


def _run_of(props: Props, run: str) -> RunKeys:
    return Layout(props["prefix"]).run(props["job"], run)


def wanted(props: Props) -> RunPlace:
    """How the queue's jobs are told apart."""
    return RunPlace.of(props["bucket"], Layout(props["prefix"]), props["job"], props["runId"])


def send_configuration(
    storage: Storage,
    keys: RunKeys,
    props: Props,
    folder: JobFolder,
    image_set: ImageSet,
    estimate: Mapping[str, Any] | None,
) -> None:
    """config/ and, before anything else can, run.json below output/: without one object there the worker uploads nothing.

    `estimate`: what the run was expected to cost, kept in run.json to be compared with what it did.
    Raises FluxError when the folder is no longer what the run id was made of.
    """
    attempt = int(props["attempt"])
    parent = props.get("parent")
    if run_id(image_set.manifest, folder.raw_config, attempt, parent) != props["runId"]:
        raise FluxError(f"{folder.path} changed while the update was running", "", "run it again")
    storage.put_bytes(f"{keys.config}train.yml", folder.raw_config)
    storage.put_bytes(f"{keys.config}manifest.json", image_set.manifest)
    storage.put_bytes(f"{keys.config}launch.json", _launch_json(props, folder))
    storage.put_bytes(f"{keys.config}launch.py", LAUNCHER.read_bytes())
    record = {
        "version": 1,
        "job": props["job"],
        "run_id": props["runId"],
        "attempt": attempt,
        "parent": parent,
        "dataset": props["digest"],
        "manifest": hashlib.sha256(image_set.manifest).hexdigest(),
        "config": hashlib.sha256(folder.raw_config).hexdigest(),
        "steps": int(props["steps"]),
        "launcher": LAUNCHER_CONTRACT,
        "owner": props["owner"],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "estimate": estimate,
    }
    try:
        storage.put_bytes(keys.record, canonical_json(record), if_none_match=True)
    except Conflict:
        return


def job_request(props: Props, keys: RunKeys) -> JobRequest:
    """The job as Kelpie gets it. What it syncs, and why in this way: DESIGN.md, "On the node"."""
    bucket = props["bucket"]
    dataset = Layout(props["prefix"]).dataset(props["digest"])
    output = f"{OUTPUT_FOLDER}/{props['job']}/"

    def download(prefix: str, folder: str) -> SyncRule:
        return SyncRule(bucket=bucket, prefix=prefix, local_path=folder, direction="download")

    def upload(folder: str, prefix: str) -> SyncRule:
        return SyncRule(bucket=bucket, prefix=prefix, local_path=folder, direction="upload")

    return JobRequest(
        container_group_id=props["groupId"],
        command="python",
        arguments=[f"{CONFIG_FOLDER}/launch.py"],
        environment={
            RUN_ID_VARIABLE: props["runId"],
            ATTEMPT_VARIABLE: str(int(props["attempt"])),
            JOB_VARIABLE: props["job"],
        },
        sync=Sync(
            before=[
                download(keys.config, f"{CONFIG_FOLDER}/"),
                download(dataset, f"{DATASET_FOLDER}/"),
                download(keys.output, output),
            ],
            during=[upload(output, keys.output)],
            after=[upload(f"{MODEL_FOLDER}/", keys.model)],
        ),
        webhook=props.get("webhook"),
    )


def _launch_json(props: Props, folder: JobFolder) -> bytes:
    limits = Limits(props.get("maxHours"), float(props["stallMinutes"]))
    return launch_settings(
        props["job"],
        props["runId"],
        int(props["attempt"]),
        folder.config.steps,
        folder.config.save_every,
        limits,
    )


def _seen(storage: Storage, props: Props, job: Job | None) -> tuple[str | None, str, str]:
    kelpie_id = job.id if job else None
    if kelpie_id is None:
        # A finished run outlives its job in the queue; the bucket remembers which one it was.
        posted = read_json(storage, run_keys(props).posted)
        kelpie_id = posted.get("kelpie_id") if posted else None
    return (kelpie_id, *_state(storage, props, job))


def _state(storage: Storage, props: Props, job: Job | None) -> tuple[str, str]:
    seen = run_status(storage, run_keys(props), int(props["steps"]), job, float(props["stallMinutes"]))
    return seen.state, seen.reason


def _cost(storage: Storage, props: Props) -> dict[str, Any]:
    keys = run_keys(props)
    return cost_of(read_json(storage, keys.record) or {}, read_json(storage, keys.progress) or {})


def _outputs(props: Props, kelpie_id: str | None, status: str, reason: str, cost: dict[str, Any]) -> Props:
    return {
        **inputs_of(props, KEPT),
        "kelpieId": kelpie_id or "",
        "status": status,
        "reason": reason,
        "cost": cost,
    }


def _summary(props: Props) -> Props:
    keys = run_keys(props)
    told = ("kelpieId", "runId", "status", "reason", "steps", "stallMinutes")
    return {
        **{name: props[name] for name in told},
        "folder": keys.base,
        "results": f"s3://{props['bucket']}/{keys.model}",
    }


class TrainingJob(Resource, module="flux", name="TrainingJob"):
    """Its Pulumi id is the run id. `status` is as last seen: `refresh` looks again."""

    job: pulumi.Output[str]
    bucket: pulumi.Output[str]
    prefix: pulumi.Output[str]
    runId: pulumi.Output[str]  # noqa: N815 - Pulumi finds an output by its property's name
    steps: pulumi.Output[float]
    stallMinutes: pulumi.Output[float]  # noqa: N815 - Pulumi finds an output by its property's name
    kelpieId: pulumi.Output[str]  # noqa: N815 - Pulumi finds an output by its property's name
    status: pulumi.Output[str]
    reason: pulumi.Output[str]
    cost: pulumi.Output[dict[str, Any]]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = dict.fromkeys(("kelpieId", "status", "reason", "cost"))
        super().__init__(TrainingJobProvider(), name, {**props, **outputs}, opts)

    @property
    def summary(self) -> pulumi.Output[dict[str, Any]]:
        """What a stack tells of it; `folder` (a key) and `results` (an s3:// address) are made here, so that the state need not hold them.

        One output and not eight: of a thousand jobs each output is 4 MB while they are registered. So a preview knows nothing of it for a
        job that has no id yet; its row tells the run.
        """
        # `all` makes tasks for each of them: not before there is something to be had.
        return self.runId.apply(lambda _: self._all_told().apply(_summary))

    def _all_told(self) -> pulumi.Output[dict[str, Any]]:
        return pulumi.Output.all(
            job=self.job,
            bucket=self.bucket,
            prefix=self.prefix,
            runId=self.runId,
            steps=self.steps,
            stallMinutes=self.stallMinutes,
            kelpieId=self.kelpieId,
            status=self.status,
            reason=self.reason,
        )
