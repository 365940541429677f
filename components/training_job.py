"""One run of one train.yml with captions on one dataset: its files in the bucket and its one job in the queue."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from clients.errors import Conflict, NotFound
from clients.kelpie import Job, JobRequest, Kelpie, Sync, SyncRule
from clients.results import inspect_run, read_json
from clients.storage import Storage
from components.checkpoints import bring_checkpoint
from components.messages import inform
from components.provider import FluxProvider, Props, inputs_of, replace_on
from components.queueing import Queue
from training.declare import read_job
from training.errors import FluxError
from training.folder import ImageSet, JobFolder
from training.manifest import canonical_json
from training.run import (
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
from training.run_state import explain, run_state
from training.trainer_config import DATASET_FOLDER, OUTPUT_FOLDER

INPUTS = (
    "job",
    "folder",
    "dataset",
    "digest",
    "runId",
    "attempt",
    "parent",
    "steps",
    "groupId",
    "bucket",
    "prefix",
    "maxHours",
    "stallMinutes",
    "webhook",
    "owner",
)
LAUNCHER = Path(__file__).parent.parent / "node" / "launch.py"

_queues: dict[tuple[str, str], Queue] = {}
_queues_lock = Lock()


class TrainingJobProvider(FluxProvider):
    def diff(self, _id: str, olds: Props, news: Props) -> DiffResult:
        found = replace_on(("runId", "groupId", "bucket", "prefix", "job"), olds, news)
        if not found.replaces and olds.get("reason"):
            inform(what_to_do(olds))
        return found

    def create(self, props: Props) -> CreateResult:
        storage = self.connection.storage(props["bucket"])
        keys = run_keys(props)
        kelpie = self.connection.kelpie()
        queue = _queue(kelpie, self.connection.kelpie_url, props["groupId"])
        if inspect_run(storage, keys, int(props["steps"])).finished:
            inform(
                f"{props['job']}: run {props['runId']} is finished already; its results are taken over, nothing is trained"
            )
            return CreateResult(
                props["runId"], _outputs(props, *_seen(storage, props, queue.find(props["runId"])))
            )
        folder, image_set = read_job(Path(props["folder"]).parent, props["job"], props.get("dataset"))
        send_configuration(storage, keys, props, folder, image_set)
        if props.get("parent"):
            parent = Layout(props["prefix"]).run(props["job"], props["parent"])
            step = bring_checkpoint(storage, parent, keys, int(props["steps"]))
            inform(f"{props['job']}: goes on from step {step} of run {props['parent']}")
        job = queue.post_once(props["runId"], job_request(props, keys), storage, keys.claim, props["owner"])
        return CreateResult(props["runId"], _outputs(props, *_seen(storage, props, job)))

    def read(self, id_: str, props: Props) -> ReadResult:
        storage = self.connection.storage(props["bucket"])
        job = _job_of(self.connection.kelpie(), props.get("kelpieId"))
        state, reason = _state(storage, props, job)
        if state == "lost":
            return ReadResult("", {})
        kelpie_id = job.id if job else props.get("kelpieId")
        return ReadResult(id_, _outputs(props, kelpie_id, state, reason), inputs_of(props, INPUTS))

    def update(self, _id: str, olds: Props, news: Props) -> UpdateResult:
        """The limits reach the run at its next hand-out. A webhook cannot be changed on a queued job; it is the next run's."""
        storage = self.connection.storage(news["bucket"])
        folder, _ = read_job(Path(news["folder"]).parent, news["job"], news.get("dataset"))
        storage.put_bytes(f"{run_keys(news).config}launch.json", _launch_json(news, folder))
        return UpdateResult({**_outputs(news, olds.get("kelpieId"), olds["status"], olds.get("reason", ""))})

    def delete(self, _id: str, props: Props) -> None:
        """Only a pending or running job is canceled: Kelpie would rewrite a finished one, and start GPUs for it (UPSTREAM.md)."""
        if props.get("kelpieId"):
            self.connection.kelpie().cancel_job(props["kelpieId"])


def what_to_do(props: Props) -> str:
    """For the person who previews a stack with a run that ended badly."""
    return (
        f"{props['job']}: run {props['runId']} {props['status']}: {props['reason']}. It is not queued again by itself, because it "
        f"would be paid for again: mend what was wrong, or set `attempt: {int(props['attempt']) + 1}` for the job"
    )


def run_keys(props: Props) -> RunKeys:
    return Layout(props["prefix"]).run(props["job"], props["runId"])


def send_configuration(
    storage: Storage, keys: RunKeys, props: Props, folder: JobFolder, image_set: ImageSet
) -> None:
    """config/ and, before anything else can, run.json below output/: without one object there the worker uploads nothing.

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


def _queue(kelpie: Kelpie, url: str, group_id: str) -> Queue:
    with _queues_lock:
        return _queues.setdefault((url, group_id), Queue(kelpie, group_id))


def _job_of(kelpie: Kelpie, kelpie_id: str | None) -> Job | None:
    if not kelpie_id:
        return None
    try:
        return kelpie.get_job(kelpie_id)
    except NotFound:
        return None


def _seen(storage: Storage, props: Props, job: Job | None) -> tuple[str | None, str, str]:
    kelpie_id = job.id if job else None
    if kelpie_id is None:
        # A finished run outlives its job in the queue; the claim remembers which one it was.
        claim = read_json(storage, run_keys(props).claim)
        kelpie_id = claim.get("kelpie_id") if claim else None
    return (kelpie_id, *_state(storage, props, job))


def _state(storage: Storage, props: Props, job: Job | None) -> tuple[str, str]:
    keys = run_keys(props)
    evidence = inspect_run(storage, keys, int(props["steps"]))
    state = run_state(job.status if job else None, evidence)
    if not explain(state, evidence):
        return state, ""
    progress = read_json(storage, keys.progress) or {}
    return state, explain(state, evidence, str(progress.get("message") or ""))


def _outputs(props: Props, kelpie_id: str | None, status: str, reason: str) -> Props:
    keys = run_keys(props)
    return {
        **inputs_of(props, INPUTS),
        "kelpieId": kelpie_id or "",
        "status": status,
        "reason": reason,
        "results": f"s3://{props['bucket']}/{keys.model}",
    }


class TrainingJob(Resource, module="flux", name="TrainingJob"):
    """Its Pulumi id is the run id. `status` is as last seen: `refresh` looks again."""

    kelpieId: pulumi.Output[str]  # noqa: N815 - Pulumi finds an output by its property's name
    status: pulumi.Output[str]
    reason: pulumi.Output[str]
    results: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = {"kelpieId": None, "status": None, "reason": None, "results": None}
        super().__init__(TrainingJobProvider(), name, {**props, **outputs}, opts)
