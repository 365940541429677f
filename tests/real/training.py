"""Small trainings on nodes, queued by the product's code and watched as `flux status --watch` does."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from localcloud.testing import wait_until
from node_jobs import running_group

from components.training_job import TrainingJobProvider, TrainingJobState
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
from flux_training.training.runs.handout import REQUEUES_VARIABLE
from flux_training.training.runs.run import Layout
from flux_training.training.runs.run_state import RunState
from tests.node.runs import RUN_ID, StoredRun

OWNER = "project/stack"
BUCKET = "real-tests"
# Without any progress. On a busy machine, a training may take many times as long as usual.
MAX_SECONDS = 120
STEPS, SAVE_EVERY = 20, 8
NODE_JOB = NodeJob("", RUN_ID, 1, STEPS, SAVE_EVERY, BUCKET, "", "", "")


@dataclass(frozen=True)
class Pace:
    """In seconds. `silent_minutes`: after so long a launcher without a report is silent; `idle`: a worker without a job asks for another machine."""

    step_seconds: float
    heartbeat: int
    poll: float
    settle: float
    scan: float
    idle: int
    silent_minutes: float


STAND_INS = Pace(step_seconds=0.05, heartbeat=1, poll=0.1, settle=0.5, scan=0.1, idle=4, silent_minutes=0.1)
# Each request takes longer, and the worker uploads a changed file only after it has settled.
REAL_SERVICES = Pace(step_seconds=0.4, heartbeat=2, poll=0.3, settle=3, scan=1, idle=15, silent_minutes=0.25)


@dataclass(frozen=True)
class NodeServices:
    """`connection` is the content of connection.json in `home`; with `is_real`, Kelpie's API and workers are the real programs."""

    home: Path
    connection: dict[str, Any]
    is_real: bool

    @property
    def pace(self) -> Pace:
        return REAL_SERVICES if self.is_real else STAND_INS

    @property
    def client(self) -> Connection:
        return connect("local", {}, {"FLUX_LOCAL_CLOUD": str(self.home / "connection.json")})

    @property
    def storage(self) -> Storage:
        storage = self.client.storage(BUCKET)
        storage.ensure()
        return storage


def stack_outputs(
    jobs: Mapping[str, str], group: str, group_name: str, stall_minutes: float
) -> dict[str, Any]:
    """What the outputs of a stack would be whose jobs were queued under these ids."""
    entries = {
        job: {
            "runId": RUN_ID,
            "kelpieId": kelpie_id,
            "steps": STEPS,
            "folder": Layout("").run(job, RUN_ID).base,
            "stallMinutes": stall_minutes,
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
    stall_minutes: float
    phases: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> dict[str, Any]:
        return stack_outputs({self.job: self.first.id}, self.group, self.group_name, self.stall_minutes)

    @cached_property
    def _watcher(self) -> Watcher:
        return Watcher(self.services.client, self.outputs)

    def look(self) -> JobRow:
        """One reading, which acts as `flux status --watch` does."""
        found = self._watcher.read()
        self.requeued += queue_silent_again(self._watcher, found)
        row = found.rows[0]
        if not self.phases or self.phases[-1] != row.status.phase:
            self.phases.append(row.status.phase)
            self.problems.append(row.problem)
        return row

    def wait(
        self, until: Callable[[JobRow], object] = lambda row: row.status.state == RunState.COMPLETED
    ) -> JobRow:
        patience = Patience()
        while not until(row := self.look()):
            patience.check((row.status.phase, row.status.progress.step), (self.phases, self.problems))
            time.sleep(self.services.pace.poll)
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

    def kill_node_with_checkpoint(self) -> int:
        """A power cut of the node that has the run, once the first checkpoint is in the bucket. The step of the newest."""
        storage, checkpoint = self.services.storage, f"{self.job}_{SAVE_EVERY:09}.safetensors"
        nodes = self.services.home / "nodes"
        uploads = wait_until(lambda: list(nodes.glob(f"*/upload/{checkpoint}")), MAX_SECONDS)
        folders = [path.parent.parent for path in uploads]
        # Otherwise the training might end before the checkpoint is seen in the bucket.
        for folder in folders:
            signal_trainer(folder, signal.SIGSTOP)
        output = Layout("").run(self.job, RUN_ID).output
        wait_until(lambda: storage.head(output + checkpoint), MAX_SECONDS)
        for folder in folders:
            kill_node(folder)
        names = [Path(item.key).stem for item in storage.list(f"{output}{self.job}_")]
        return max(int(name.rpartition("_")[2]) for name in names)

    def remove(self) -> None:
        """As `up` does after `flux cancel`."""
        provider = TrainingJobProvider()
        provider.connection = self.services.client
        state = TrainingJobState(
            home={},
            job=self.job,
            folder="",
            run_id=RUN_ID,
            steps=STEPS,
            group_id=self.group,
            bucket=BUCKET,
            prefix="",
            kelpie_id=self.first.id,
            stall_minutes=self.stall_minutes,
        )
        provider.remove("", state)


@dataclass
class Patience:
    """Ends a wait once nothing has changed for MAX_SECONDS."""

    seen: object = None
    deadline: float = 0.0

    def check(self, seen: object, story: object) -> None:
        """`seen` changes with progress; `story` explains a failure."""
        if seen != self.seen or not self.deadline:
            self.seen, self.deadline = seen, time.monotonic() + MAX_SECONDS
        assert time.monotonic() < self.deadline, story


def signal_trainer(folder: Path, number: signal.Signals) -> None:
    for pid in processes_in(folder):
        with contextlib.suppress(OSError):
            if b"run.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)


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
    services: NodeServices,
    job: str,
    *,
    without: str = "",
    stall_minutes: float = 5,
    requeues: int = 0,
    **environment: str,
) -> Iterator[NodeTraining]:
    """A queued training of 20 steps with a checkpoint after each 8. `without`: an image that is missing in the bucket.

    `requeues`: how often the run was queued again before. `environment`: of its container group, over those for the bucket.
    """
    with running_group(services.connection, job, **node_variables(**environment)) as group:
        upload(services, job, without)
        first = post(services, services.client, job, group, requeues)
        yield NodeTraining(services, group, job, job, first, stall_minutes)
        kelpie = services.client.kelpie()
        for unfinished in [one for one in kelpie.list_jobs(group) if one.unfinished]:
            kelpie.cancel_job(unfinished.id)


def node_variables(**changes: str) -> dict[str, str]:
    """The environment of a container group, besides what running_group sets."""
    # The worker counts from when it got its last job: a shorter limit ends it before it has reported that job (docs/services.md).
    return {"FLUX_OWNER": OWNER, "HEARTBEAT_INTERVAL_S": "1", "MAX_TIME_WITH_NO_WORK_S": "60"} | changes


def post(services: NodeServices, client: Connection, job: str, group: str, requeues: int = 0) -> Job:
    """Queue the run under its claim, by this client."""
    keys, storage = Layout("").run(job, RUN_ID), services.storage
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
        environment=node_job.environment | {REQUEUES_VARIABLE: str(requeues)},
        sync=Sync.model_validate(node_job.sync(bundle)),
        heartbeat_interval=services.pace.heartbeat,
    )
    place = RunPlace.of(storage.bucket, Layout(""), job, RUN_ID)
    return Queue(client.kelpie(), group).post_once(place, request, ClaimFile(storage, keys, OWNER))


def upload(services: NodeServices, job: str, without: str = "") -> None:
    """Store the run's files, but not the image `without`."""
    storage, pace = services.storage, services.pace
    keys, dataset = Layout("").run(job, RUN_ID), Layout("").dataset(job)
    with tempfile.TemporaryDirectory() as folder:
        run = StoredRun(
            Path(folder) / BUCKET,
            job=job,
            steps=STEPS,
            save_every=SAVE_EVERY,
            settle_seconds=pace.settle,
            scan_seconds=pace.scan,
            read_seconds=2,
        )
        for local, prefix in ((run.config, keys.config), (run.output, keys.output), (run.dataset, dataset)):
            for path in local.iterdir():
                if path.name != without:
                    storage.put_bytes(prefix + path.name, path.read_bytes())
