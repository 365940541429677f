"""Small trainings on nodes, queued by the product's code and watched as `flux status --watch` does."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localcloud.testing import wait_until
from node_jobs import running_group

from flux_training.clients.connection import Connection, connect
from flux_training.clients.kelpie import Job, JobRequest, Sync
from flux_training.clients.queue.claims import ClaimFile
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.queue.posting import Queue
from flux_training.clients.storage import Storage
from flux_training.commands.watch.follow import queue_silent_again
from flux_training.commands.watch.watcher import JobRow, Watcher
from flux_training.node.bundle import PROGRAM, launcher_bundle
from flux_training.node.job import NodeJob
from flux_training.node.launcher.settings import config_digest
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.node.runs import RUN_ID, StoredRun

OWNER = "project/stack"
BUCKET = "real-tests"
HEARTBEAT_SECONDS = 2
# A launcher that has not reported after so many minutes is silent.
STALL_MINUTES = 0.25
MAX_SECONDS = 240
POLL_SECONDS = 0.3
STEPS, SAVE_EVERY = 20, 8
NODE_JOB = NodeJob("", RUN_ID, 1, STEPS, SAVE_EVERY, BUCKET, "", "", "")


@dataclass(frozen=True)
class NodeServices:
    """`connection` is the content of connection.json in `home`; with `is_real`, Kelpie's API and workers are the real programs."""

    home: Path
    connection: dict[str, Any]
    is_real: bool

    @property
    def client(self) -> Connection:
        return connect("local", {}, {"FLUX_LOCAL_CLOUD": str(self.home / "connection.json")})

    @property
    def storage(self) -> Storage:
        storage = self.client.storage(BUCKET)
        storage.ensure()
        return storage


def stack_outputs(jobs: Mapping[str, str], group: str, group_name: str) -> dict[str, Any]:
    """What the outputs of a stack would be whose jobs were queued under these ids."""
    entries = {
        job: {
            "runId": RUN_ID,
            "kelpieId": kelpie_id,
            "steps": STEPS,
            "folder": Layout("").run(job, RUN_ID).base,
            "stallMinutes": STALL_MINUTES,
        }
        for job, kelpie_id in jobs.items()
    }
    return {
        "jobs": entries,
        "bucket": BUCKET,
        "prefix": "",
        "containerGroup": {"id": group, "name": group_name},
    }


@dataclass
class NodeTraining:
    """One run in a group with one replica. `phases`: what `flux status` showed, without repetitions."""

    services: NodeServices
    group: str
    group_name: str
    job: str
    first: Job
    phases: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> dict[str, Any]:
        return stack_outputs({self.job: self.first.id}, self.group, self.group_name)

    def look(self) -> JobRow:
        """One reading, which acts as `flux status --watch` does."""
        # A new watcher each time: one alone would not read a stalled job again.
        watcher = Watcher(self.services.client, self.outputs)
        found = watcher.read()
        self.requeued += queue_silent_again(watcher, found)
        row = found.rows[0]
        if not self.phases or self.phases[-1] != row.status.phase:
            self.phases.append(row.status.phase)
            self.problems.append(row.problem)
        return row

    def wait(
        self, until: Callable[[JobRow], object] = lambda row: row.status.state == RunState.COMPLETED
    ) -> JobRow:
        deadline = time.monotonic() + MAX_SECONDS
        while not until(row := self.look()):
            assert time.monotonic() < deadline, (self.phases, self.problems, self.requeued)
            time.sleep(POLL_SECONDS)
        return row

    def wait_for_report(self) -> Job:
        """Until the worker has reported the job as completed; the job."""
        row = self.wait(lambda row: row.status.state == RunState.COMPLETED and row.status.has_ended)
        assert row.status.queue_job is not None
        return row.status.queue_job

    @property
    def gpu_seconds(self) -> float:
        """From queueing to the report: what is paid for, with the start of the first machine, which takes no time here."""
        jobs = self.services.client.kelpie().list_jobs(self.group)
        ends = [job.completed for job in jobs if job.completed]
        return (ends[0] - min(job.created for job in jobs if job.created)).total_seconds()

    def kill_node_with_checkpoint(self) -> None:
        """A power cut of the node that has the run's files, once the first checkpoint is in the bucket."""
        storage = self.services.storage
        checkpoint = f"{Layout('').run(self.job, RUN_ID).output}{self.job}_{SAVE_EVERY:09}.safetensors"
        # The rest of the training takes seconds: the queue, which may be slow, is not asked meanwhile.
        wait_until(lambda: storage.head(checkpoint), seconds=MAX_SECONDS)
        folders = [path.parent.parent for path in self.services.home.glob(f"nodes/*/output/{self.job}")]
        assert folders
        for folder in folders:
            kill_node(folder)


def kill_node(folder: Path) -> None:
    """SIGKILL to all processes of a node."""
    for pid in processes_in(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_in(folder))


def processes_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def training(
    services: NodeServices, job: str, *, without: str = "", **environment: str
) -> Iterator[NodeTraining]:
    """A queued training of 20 steps with a checkpoint after each 8. `without`: an image that is missing in the bucket.

    `environment`: of its container group, over those for the bucket.
    """
    with running_group(services.connection, job, **node_variables(**environment)) as group:
        upload(services.storage, job, without)
        first = post(services.client, services.storage, job, group)
        yield NodeTraining(services, group, job, job, first)
        kelpie = services.client.kelpie()
        for unfinished in [one for one in kelpie.list_jobs(group) if one.unfinished]:
            kelpie.cancel_job(unfinished.id)


def node_variables(**changes: str) -> dict[str, str]:
    """The environment of a container group, besides what running_group sets."""
    # The worker counts from when it got its last job: a shorter limit ends it before it has reported that job (docs/services.md).
    return {"FLUX_OWNER": OWNER, "HEARTBEAT_INTERVAL_S": "1", "MAX_TIME_WITH_NO_WORK_S": "60"} | changes


def post(client: Connection, storage: Storage, job: str, group: str) -> Job:
    """Queue the run under its claim."""
    keys = Layout("").run(job, RUN_ID)
    node_job = replace(
        NODE_JOB,
        job=job,
        run_prefix=keys.base,
        dataset_prefix=Layout("").dataset(job),
        config_sha256=config_digest(
            *(storage.get_bytes(keys.config + name) or b"" for name in ("manifest.json", "train.yml"))
        ),
    )
    bundle = launcher_bundle()
    request = JobRequest(
        container_group_id=group,
        command=PROGRAM,
        arguments=bundle.arguments,
        environment=node_job.environment,
        sync=Sync.model_validate(node_job.sync(bundle)),
        heartbeat_interval=HEARTBEAT_SECONDS,
    )
    place = RunPlace.of(storage.bucket, Layout(""), job, RUN_ID)
    return Queue(client.kelpie(), group).post_once(place, request, ClaimFile(storage, keys, OWNER))


def upload(storage: Storage, job: str, without: str = "") -> None:
    """Store the run's files, but not the image `without`."""
    keys, dataset = Layout("").run(job, RUN_ID), Layout("").dataset(job)
    with tempfile.TemporaryDirectory() as folder:
        run = StoredRun(
            Path(folder) / BUCKET,
            job=job,
            steps=STEPS,
            save_every=SAVE_EVERY,
            settle_seconds=3,
            read_seconds=2,
        )
        for local, prefix in ((run.config, keys.config), (run.output, keys.output), (run.dataset, dataset)):
            for path in local.iterdir():
                if path.name != without:
                    storage.put_bytes(prefix + path.name, path.read_bytes())
