"""The files of a run on a node, and the launcher as a process (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from localcloud.node import worker as kelpie_worker
from PIL import Image, ImageDraw

from tests.node.queued import FolderTransfers, LocalQueue

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "flux_training" / "node" / "launch.py"
STANDIN = ROOT / "packages" / "localcloud" / "localcloud" / "trainer"
FAKE = Path(__file__).parent / "fake_trainer.py"


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
            "seed": 1,
        },
    }
    for section, values in changes.items():
        process[section] = {**process[section], **values} if isinstance(values, dict) else values
    return {"job": "extension", "config": {"name": job, "process": [process]}, "meta": {"name": "[name]"}}


def run_files(
    job: str, *, steps: int = 20, save_every: int = 8, images: int = 4, **launch: Any
) -> dict[str, bytes]:
    """The files of one run on a node: training-config/…, dataset/…, output/<job>/run.json."""
    config = train_config(job, steps, save_every)
    pictures = {f"{i:05}.jpg": picture(i) for i in range(1, images + 1)}
    manifest = {
        name: {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "caption": f"d1sc number {name[4]}",
        }
        for name, data in pictures.items()
    }
    settings = {
        "contract": 1,
        "job": job,
        "run_id": "0123456789ab",
        "attempt": 1,
        "steps": steps,
        "save_every": save_every,
        "trainer": ["python", "run.py", "training-config/train.yml"],
        "dataset_folder": "dataset",
        "output_folder": f"output/{job}",
        "model_folder": "model",
        "manifest": "training-config/manifest.json",
        "weights": f"{job}.safetensors",
        "max_hours": None,
        "stall_minutes": 30,
        "wait_minutes": 0,
        "settle_seconds": 3,  # as launch.py has it: R2 takes one write a second of a key
        "free_gib": 0,
    }
    return {
        **{f"dataset/{name}": data for name, data in pictures.items()},
        "training-config/launch.py": LAUNCHER.read_bytes(),
        "training-config/launch.json": json.dumps(settings | launch).encode(),
        "training-config/manifest.json": json.dumps({"version": 1, "images": manifest}).encode(),
        "training-config/train.yml": yaml.safe_dump(config).encode(),
        f"output/{job}/run.json": b"{}",
    }


class Worker(kelpie_worker.KelpieWorker):
    """The worker on the node; `code` is the exit code of the last command."""

    code = 0

    def _execute(self, job: dict[str, Any]) -> int:
        self.code = super()._execute(job)
        return self.code


class Node:
    """A folder as the worker leaves it for the launcher; job `job`, 20 steps. Words are for the fake trainer; without
    any it is the stand-in trainer of the local cloud."""

    def __init__(self, home: Path, *words: str, **launch: Any) -> None:
        self.home, self.output, self.python = home, home / "output" / "job", sys.executable
        standin = [sys.executable, "run.py", "training-config/train.yml"]
        trainer = [sys.executable, "-I", "-S", "fake.py", *words] if words else standin
        settings = {"trainer": trainer, "settle_seconds": 0} | launch
        for name, data in run_files("job", images=2, **settings).items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        for path in (FAKE, *STANDIN.glob("*.py")):
            (home / ("fake.py" if path == FAKE else path.name)).write_bytes(path.read_bytes())
        self.queue = LocalQueue(home / "queue.db")

    def change(self, file: str, **values: Any) -> None:
        """Change keys of training-config/FILE.json; None removes one."""
        path = self.home / "training-config" / f"{file}.json"
        changed = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start the launcher without site packages."""
        return subprocess.Popen(
            [self.python, "-I", "-S", "training-config/launch.py"],
            cwd=self.home,
            env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def run(self, **environment: str) -> FinishedLauncher:
        """Run the launcher to its end."""
        return self.ended(self.start(**environment))

    def submit(self) -> str:
        """Queue the run, whose files are on the node already; the id of the job."""
        command = ["sh", "-c", 'exec "$0" "$@" >out.txt 2>&1', sys.executable]
        after = [{"bucket": "", "prefix": "model/", "local_path": "model/"}]
        return self.queue.submit(
            [*command, "-I", "-S", "training-config/launch.py"], sync={"before": [], "after": after}
        )

    def handed_out(
        self, job: str, while_it_sleeps: Callable[[Worker, int], object] | None = None, **environment: str
    ) -> FinishedLauncher:
        """One hand-out to the node's worker, and what the queue makes of it. Meanwhile the given is done, with
        the pid of the trainer, once that sleeps."""
        transfers = FolderTransfers(self.home, self.home / "bucket")
        worker = Worker(self.home, self.queue, 0, 0.02, transfers)  # type: ignore[arg-type]
        given = self.queue.work()
        self.queue.job_now = job
        assert given is not None
        assert given["id"] == job
        given["environment"] |= environment
        if while_it_sleeps:
            act = while_it_sleeps
            threading.Thread(target=lambda: act(worker, self.trainer())).start()
        with mock.patch.object(kelpie_worker, "PAUSE_SECONDS", 0):
            worker.do(given)
        for thread in threading.enumerate():
            if thread.name == f"finalize-{job}":
                thread.join()
        path = self.output / "progress.json"
        progress = json.loads(path.read_text()) if path.exists() else {}
        published = (self.home / "bucket" / "model" / "done.json").exists()
        return FinishedLauncher(
            worker.code, (self.home / "out.txt").read_text(errors="replace"), progress, published
        )

    def trainer(self) -> int:
        """The pid of the trainer, once it sleeps."""
        path, deadline = self.output / "asleep", time.monotonic() + 20
        while not path.exists() or not path.read_text():
            assert time.monotonic() < deadline, "the trainer never slept"
            time.sleep(0.01)
        return int(path.read_text())

    def says_the_queue(self, job: str) -> str:
        """`completed`; `counted` or `uncounted` when it is handed out again; `failed`, `canceled` and `lost` for good."""
        seen, again = self.queue.job(job), self.queue.work() is not None
        if seen["status"] == "running":
            return "lost" if not again else "counted" if seen["num_failures"] else "uncounted"
        return str(seen["status"])

    def ended(self, process: subprocess.Popen[str]) -> FinishedLauncher:
        """The result. Raises TimeoutExpired after 30 s."""
        try:
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        path = self.output / "progress.json"
        progress = json.loads(path.read_text()) if path.exists() else {}
        return FinishedLauncher(
            process.returncode, out, progress, (self.home / "model" / "done.json").exists()
        )

    def asleep(self, process: subprocess.Popen[str]) -> int:
        """The pid of the trainer, once it sleeps."""
        path, deadline = self.output / "asleep", time.monotonic() + 20
        while not path.exists() or not path.read_text():
            assert process.poll() is None, "the launcher has ended"
            assert time.monotonic() < deadline, "the trainer never slept"
            time.sleep(0.01)
        return int(path.read_text())

    def set_aside(self) -> list[str]:
        """The names of the files that the launcher set aside."""
        return sorted(path.name.partition("-")[2] for path in (self.home / "set-aside").glob("*"))


@dataclass(frozen=True)
class FinishedLauncher:
    """Exit code (negative for a signal), output, progress.json, and whether there is a result."""

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
