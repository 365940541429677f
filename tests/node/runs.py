"""A run's files in a bucket and on a node, and the launcher as a process (docs/node.md)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from localcloud.node import worker as kelpie_worker
from PIL import Image, ImageDraw

from flux_training.node.bundle import launcher_bundle
from flux_training.node.job import NodeJob
from flux_training.node.launcher.settings import config_digest
from tests.node.queued import FolderTransfers, LocalQueue
from tests.node.storage import FolderStorage, folder_storage

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "packages" / "localcloud" / "localcloud" / "trainer"
FAKE = Path(__file__).parent / "fake_trainer.py"
RUN_ID = "0123456789ab"
# Without site packages, and without the waiting that only real services need.
LAUNCHER_WORDS = ("-I", "-S", *launcher_bundle().arguments[1:])
QUICK = {"settle_seconds": 0, "free_gib": 0, "download_attempts": 3, "read_seconds": 1}


def picture(number: int) -> bytes:
    """A small JPEG: a disc whose position and colour depend on `number`."""
    image = Image.new("RGB", (96, 96), (20 * number % 256, 90, 160))
    x = 10 + 9 * number % 50
    ImageDraw.Draw(image).ellipse((x, 20, x + 40, 60), fill=(230, 40 * number % 256, 30))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def train_config(job: str, steps: int, save_every: int, **changes: Any) -> dict[str, Any]:
    """A config that ai-toolkit accepts."""
    process = {
        "type": "sd_trainer",
        "training_folder": "output",
        "device": "cuda:0",
        "trigger_word": "d1sc",
        "network": {"type": "lora", "linear": 8, "linear_alpha": 8},
        "save": {"dtype": "float16", "save_every": save_every, "max_step_saves_to_keep": 20},
        "datasets": [{"folder_path": "dataset", "caption_ext": "txt", "resolution": [512]}],
        "train": {"batch_size": 1, "steps": steps, "lr": 1e-4, "dtype": "bf16"},
        "model": {"name_or_path": "/model", "is_flux": True, "quantize": True},
        "sample": {
            "sample_every": save_every,
            "width": 256,
            "height": 256,
            "prompts": ["[trigger]"],
            "neg": "",
            "seed": 1,
        },
    }
    for section, values in changes.items():
        process[section] = {**process[section], **values} if isinstance(values, dict) else values
    return {"job": "extension", "config": {"name": job, "process": [process]}, "meta": {"name": "[name]"}}


def manifest_of(pictures: dict[str, bytes]) -> bytes:
    images = {
        name: {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "caption": f"d1sc number {name[4]}",
        }
        for name, data in pictures.items()
    }
    return json.dumps({"version": 1, "images": images}).encode()


class StoredRun:
    """Run RUN_ID of job `job` as the operator puts it into a bucket, which is a folder here."""

    def __init__(
        self,
        bucket: Path,
        *,
        job: str = "job",
        steps: int = 20,
        save_every: int = 8,
        images: int = 2,
        **limits: float | None,
    ) -> None:
        self.bucket, self.name, self.steps, self.save_every = bucket, job, steps, save_every
        self.base = bucket / "runs" / "job" / RUN_ID
        self.config, self.output, self.model = (self.base / name for name in ("config", "output", "model"))
        self.dataset = bucket / "datasets" / "d1"
        pictures = {f"{number:05}.jpg": picture(number) for number in range(1, images + 1)}
        for folder in (self.config, self.output, self.dataset):
            folder.mkdir(parents=True)
        for name, data in pictures.items():
            (self.dataset / name).write_bytes(data)
        bundle = launcher_bundle()
        (self.config / bundle.file_name).write_bytes(bundle.data)
        (self.config / "launch.json").write_text(json.dumps(QUICK | limits))
        (self.config / "manifest.json").write_bytes(manifest_of(pictures))
        (self.config / "train.yml").write_text(yaml.safe_dump(train_config(job, steps, save_every)))
        (self.output / "run.json").write_text("{}")
        self.parent_prefix: str | None = None
        self.seal()

    def seal(self) -> None:
        """The job is queued with the configuration as it is now."""
        manifest, train = ((self.config / name).read_bytes() for name in ("manifest.json", "train.yml"))
        self.config_sha256 = config_digest(manifest, train)

    @property
    def job(self) -> NodeJob:
        return NodeJob(
            self.name,
            RUN_ID,
            1,
            self.steps,
            self.save_every,
            self.bucket.name,
            f"runs/job/{RUN_ID}/",
            "datasets/d1/",
            self.config_sha256,
            self.parent_prefix,
        )


class NodeWorker(kelpie_worker.KelpieWorker):
    """The worker on the node; `code` is the exit code of the last command."""

    code = 0

    def _execute(self, job: dict[str, Any]) -> int:
        self.code = super()._execute(job)
        return self.code


class Node:
    """A folder as the worker leaves it for the launcher, for a run of 20 steps. Words are for the fake trainer; without
    any it is the stand-in trainer of the local cloud."""

    def __init__(
        self, home: Path, *words: str, storage: FolderStorage | None = None, **settings: Any
    ) -> None:
        self.storage = storage or folder_storage()
        self.run_files = StoredRun(self.storage.root / f"node-{uuid.uuid4().hex[:20]}", **settings)
        self.home, self.python, self.max_seconds = home, sys.executable, 30
        self.output, self.upload = home / "output" / "job", home / "upload"
        self.stored = self.run_files.output
        self.set_trainer(*words)
        self.bring()
        self.queue = LocalQueue(home / "queue.db")

    def bring(self) -> None:
        """What `before` downloads."""
        for folder in ("training-config", "upload"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        shutil.copytree(self.run_files.config, self.home / "training-config")
        self.upload.mkdir()
        shutil.copyfile(self.stored / "run.json", self.upload / "run.json")

    def set_trainer(self, *words: str, program: str = "") -> None:
        """run.py: the fake trainer with these words, a program, or the stand-in."""
        for path in STANDIN.glob("*.py"):
            shutil.copy(path, self.home)
        shutil.copyfile(FAKE, self.home / "fake.py")
        if words:
            program = f"import runpy, sys\nsys.argv = {['fake.py', *words]!r}\nrunpy.run_path('fake.py', run_name='__main__')\n"
        if program:
            (self.home / "run.py").write_text(program)

    def change(self, file: str, **values: Any) -> None:
        """Keys of training-config/FILE.json; None removes one. The job is queued with the change."""
        path = self.run_files.config / f"{file}.json"
        changed = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
        self.reconfigure()

    def reconfigure(self) -> None:
        self.run_files.seal()
        self.bring()

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path} | self.storage.environment | self.run_files.job.environment

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start the launcher without site packages."""
        return subprocess.Popen(
            [self.python, *LAUNCHER_WORDS],
            cwd=self.home,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def run(self, **environment: str) -> LaunchResult:
        """The launcher to its end; then the bucket has what was put into upload/."""
        return self.result(self.start(**environment))

    def submit(self) -> str:
        """The run as a job of the queue, its files being there already; its id."""
        command = ["/bin/sh", "-c", 'exec "$0" "$@" >out.txt 2>&1', sys.executable]
        after = [{"bucket": "", "prefix": f"runs/job/{RUN_ID}/model/", "local_path": "model/"}]
        return self.queue.submit([*command, *LAUNCHER_WORDS], sync={"before": [], "after": after})

    def handed_out(
        self, job: str, while_it_sleeps: Callable[[NodeWorker, int], object] | None = None, **environment: str
    ) -> LaunchResult:
        """One hand-out to the node's worker. `while_it_sleeps` is called with the pid of the trainer, once that sleeps."""
        transfers = FolderTransfers(self.home, self.run_files.bucket)
        worker = NodeWorker(self.home, self.queue, 0, 0.02, transfers)  # type: ignore[arg-type]  # a queue in memory
        given = self.queue.work()
        self.queue.job_now = job
        assert given is not None
        assert given["id"] == job
        given["environment"] |= self.environment | environment
        if while_it_sleeps:
            act = while_it_sleeps
            threading.Thread(target=lambda: act(worker, self.trainer())).start()
        with mock.patch.object(kelpie_worker, "PAUSE_SECONDS", 0):
            worker.do(given)
        for thread in threading.enumerate():
            if thread.name == f"finalize-{job}":
                thread.join()
        published = (self.run_files.model / "done.json").exists()
        out = (self.home / "out.txt").read_text(errors="replace")
        return LaunchResult(worker.code, out, self.uploaded_progress(), published)

    def uploaded_progress(self) -> dict[str, Any]:
        """Does what the `during` rule would have done; progress.json."""
        shutil.copytree(self.upload, self.stored, dirs_exist_ok=True)
        path = self.stored / "progress.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def queue_state(self, job: str) -> str:
        """`completed`; `counted` or `uncounted` when it is handed out again; `failed`, `canceled` and `lost` for good."""
        seen, again = self.queue.job(job), self.queue.work() is not None
        if seen["status"] == "running":
            return "lost" if not again else "counted" if seen["num_failures"] else "uncounted"
        return str(seen["status"])

    def result(self, process: subprocess.Popen[str]) -> LaunchResult:
        """Waits for the launcher. Raises TimeoutExpired after `max_seconds`."""
        try:
            out, _ = process.communicate(timeout=self.max_seconds)
        finally:
            process.kill()
        published = (self.home / "model" / "done.json").exists()
        return LaunchResult(process.returncode, out, self.uploaded_progress(), published)

    def trainer(self, process: subprocess.Popen[str] | None = None) -> int:
        """The pid of the trainer, once it sleeps."""
        path, deadline = self.output / "asleep", time.monotonic() + 20
        while not path.exists() or not path.read_text():
            assert process is None or process.poll() is None, "the launcher has ended"
            assert time.monotonic() < deadline, "the trainer never slept"
            time.sleep(0.01)
        return int(path.read_text())


@dataclass(frozen=True)
class LaunchResult:
    """Exit code (negative: the signal it died by), output, progress.json, whether there is a result."""

    code: int
    out: str
    progress: dict[str, Any]
    published: bool


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return sys.platform != "linux"


def until_gone(pid: int) -> None:
    """Wait for a process to end; after 20 s kill it and raise AssertionError."""
    deadline = time.monotonic() + 20
    while is_alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"process {pid} was left behind")
        time.sleep(0.02)
