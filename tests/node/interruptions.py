"""Seeded interruptions: nodes killed at any moment, downloads broken, objects in the bucket cut at any byte.

    python -m tests.node.interruptions [--seeds 300] [--first 0] [--at-once 2] [--faults 0.1] [--keep DIR]

Each seed is one job on the node's own code (queued.py) with the real launcher and the quick trainer. A node is killed
one to three times: the node alone (the launcher has to notice) or all processes at once (a power cut). After two kills of
three a checkpoint or optimizer.pt in the bucket is cut, and a tenth of all downloads breaks. Prints the steps lost per
interruption. The exit code is 1 when a job did not end with sound weights at the last step, a step was trained from a damaged
file, a checkpoint was uploaded that is unsound or was there already, or an optimizer.pt was uploaded that the trainer had
not written since its start. Linux only (/proc).
"""

import argparse
import atexit
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from localcloud.node import worker as kelpie_worker

from flux_training.node.bundle import launcher_bundle
from tests.node.fault_proxy import DownloadFault, FaultProxy, at_random
from tests.node.queued import FolderTransfers, LocalQueue
from tests.node.quick_trainer import checkpoint, note, optimizer
from tests.node.runs import LAUNCHER_WORDS, StoredRun, is_alive
from tests.node.storage import FolderStorage

HERE = Path(__file__).parent
STEPS, SAVE_EVERY = 60, 10
MAX_LIFE_SECONDS = 3.0  # a job takes about three
MAX_STARTS = 12
# Without a digest, an MD5 as ETag or a known size, wrong bytes are believed.
NOT_NOTICED = (
    DownloadFault.WRONG,
    DownloadFault.SHORTER,
    DownloadFault.LONGER_CHUNKS,
    DownloadFault.SHORTER_CHUNKS,
)
FAULTS = tuple(fault for fault in DownloadFault if fault not in (*NOT_NOTICED, DownloadFault.SILENT))
RUN_PY = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, ".")
import quick_trainer
quick_trainer.main(Path(os.environ["JOURNAL"]), {STEPS}, {SAVE_EVERY})
"""


@dataclass
class Result:
    """The result of one seed. `lost` are steps per interruption, `problems` are faults of the launcher."""

    seed: int
    lost: list[int] = field(default_factory=list)
    cut: int = 0
    faults: int = 0
    failures: int = 0
    lives: int = 0
    rows_missing: int = 0
    problems: list[str] = field(default_factory=list)


class WatchedTransfers(FolderTransfers):
    """Notes an upload of an unsound checkpoint, and of files that the bucket has already."""

    def __init__(self, home: Path, root: Path, journal: Path) -> None:
        super().__init__(home, root)
        self._bucket, self._journal = root, journal

    def upload(self, path: Path, bucket: str, key: str, *, compressed: bool) -> None:
        stem, data = path.stem, path.read_bytes() if path.exists() else b""
        if path.suffix == ".safetensors" and data and "/output/" in key:
            step = STEPS if stem == "job" else int(stem.rpartition("_")[2])
            if data != checkpoint(step):
                note(self._journal, f"unsound {path.name}")
            elif (self._bucket / key).exists() and (self._bucket / key).read_bytes() == data:
                note(self._journal, f"again {path.name}")
        if path.name == "optimizer.pt" and data and not self._was_saved(data):
            note(self._journal, f"again {path.name}")
        super().upload(path, bucket, key, compressed=compressed)

    def _was_saved(self, data: bytes) -> bool:
        """Whether the trainer has written this optimizer.pt since its last start."""
        *_, last = self._journal.read_text().split("start ")
        lines = [line.split(" ", 1) for line in last.splitlines()]
        return any(optimizer(int(line[1])) == data for line in lines if line[0] == "saving")


class InterruptedJob:
    """A bucket, a queue with one job, and consecutive nodes."""

    def __init__(self, root: Path, storage: FolderStorage, seed: int, faults: float) -> None:
        self.root, self.journal, self.storage = root, root / "journal", storage
        self.journal.touch()
        self.run = StoredRun(
            storage.root / f"seed-{seed}",
            steps=STEPS,
            save_every=SAVE_EVERY,
            settle_seconds=0.5,
            scan_seconds=0.05,
            read_seconds=0.3,
            download_attempts=8,
        )
        self.bucket = self.run.bucket
        self.proxy = FaultProxy(storage.url, at_random(seed, faults, FAULTS))
        self.queue = LocalQueue(root / "queue.db", heartbeat_seconds=0.3)
        environment = self.run.job.environment | {"JOURNAL": str(self.journal)}
        self.job = self.queue.submit(
            [sys.executable, *LAUNCHER_WORDS],
            max_failures=3,
            environment=environment,
            sync=self.run.job.sync(launcher_bundle()),
        )

    def start_node(self, number: int) -> int:
        """Start a node as a process; its pid."""
        if pid := os.fork():
            return pid
        os.setpgid(0, 0)
        home = self.root / f"node-{number}"
        home.mkdir()
        shutil.copy(HERE / "quick_trainer.py", home)
        shutil.copy(HERE / "fake_trainer.py", home)
        (home / "run.py").write_text(RUN_PY)
        log = os.open(self.root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(home)
        os.environ |= self.storage.environment | {"AWS_ENDPOINT_URL": self.proxy.url}
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kelpie_worker.PAUSE_SECONDS = 0.05
        queue = LocalQueue(self.root / "queue.db", f"machine-{number}", heartbeat_seconds=0.3)
        transfers = WatchedTransfers(home, self.bucket, self.journal)
        worker = kelpie_worker.KelpieWorker(home, queue, 0.05, 0.1, transfers)  # type: ignore[arg-type]  # asked like Kelpie
        os._exit(kelpie_worker.run_worker(worker))

    @property
    def status(self) -> str:
        return str(self.queue.job(self.job)["status"])

    def noted(self, word: str) -> list[str]:
        lines = [line.split(" ", 1) for line in self.journal.read_text().splitlines()]
        return [line[1] for line in lines if line[0] == word]


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(
                int(path.parent.name)
            )
    found, at = [pid], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found[1:]


def kill(pid: int, *, power: bool) -> None:
    """Kill the node with all its processes, or only the node: then the others have to end by themselves."""
    below = descendants(pid)
    for victim in [pid, *(below if power else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 20
    while any(is_alive(one) for one in below):
        if time.monotonic() > deadline:
            raise RuntimeError("processes outlived their node")
        time.sleep(0.02)


def cut_something(output: Path, chance: random.Random) -> int:
    """Truncate a checkpoint, usually the newest, at a random byte; 1 if there was one."""
    found = [*sorted(output.glob("job*.safetensors")), *output.glob("optimizer.pt")]
    if not found or chance.random() > 2 / 3:
        return 0
    path = chance.choice(found[-3:])
    os.truncate(path, chance.randrange(path.stat().st_size + 1))
    return 1


def play(seed: int, folder: Path, storage: FolderStorage, faults: float) -> Result:
    """Run one job to its end."""
    root = folder / f"seed-{seed}"
    root.mkdir()
    job_run = InterruptedJob(root, storage, seed, faults)
    with job_run.proxy:
        result = interrupt(job_run, seed)
    judge(job_run, result)
    if not result.problems:
        shutil.rmtree(root)
    return result


def interrupt(job_run: InterruptedJob, seed: int) -> Result:
    """Starts nodes and kills them until the job has ended."""
    chance, result, root = random.Random(seed), Result(seed), job_run.root
    left = chance.choice((1, 1, 2, 3))
    while job_run.status not in ("completed", "failed", "canceled") and result.lives < MAX_STARTS:
        result.lives += 1
        pid = job_run.start_node(result.lives)
        end = time.monotonic() + (chance.uniform(0, MAX_LIFE_SECONDS) if left else 60)
        while time.monotonic() < end and job_run.status not in ("completed", "failed"):
            time.sleep(0.01)
        reached, starts = int((job_run.noted("step") or ["0"])[-1]), len(job_run.noted("start"))
        left -= 1
        kill(pid, power=chance.random() < 0.5)
        shutil.rmtree(root / f"node-{result.lives}", ignore_errors=True)
        if job_run.status == "running":
            result.cut += cut_something(job_run.run.output, chance)
            result.lost.append(-reached * 1000 - starts)  # known once the next start has begun
    result.faults = sum(job_run.proxy.fault_for(request) is not None for request in job_run.proxy.requests)
    return result


def judge(job_run: InterruptedJob, result: Result) -> None:
    """Add the steps lost and the problems to the result."""
    starts, job = [int(step) for step in job_run.noted("start")], job_run.queue.job(job_run.job)
    for index, code in enumerate(result.lost):
        reached, before = divmod(-code, 1000)
        result.lost[index] = max(0, reached - starts[before]) if before < len(starts) else 0
    result.failures = job["num_failures"]
    curve = job_run.run.output / "loss.csv"
    result.rows_missing = STEPS - (curve.read_text().count("\n") - 1 if curve.exists() else 0)
    if job["status"] != "completed":
        result.problems.append(f"the job is {job['status']} after {result.lives} lives")
    result.problems += [f"trained from a damaged {name}" for name in job_run.noted("damaged")]
    result.problems += [f"uploaded an unsound {name}" for name in job_run.noted("unsound")]
    result.problems += [f"uploaded {name} again" for name in job_run.noted("again")]
    model, done = job_run.run.model / "job.safetensors", job_run.run.model / "done.json"
    if not model.exists() or model.read_bytes() != checkpoint(STEPS):
        result.problems.append("the result is not that of the last step")
    elif json.loads(done.read_text())["size"] != model.stat().st_size:
        result.problems.append("done.json is not about the result")


def summary(results: list[Result], seconds: float) -> str:
    """A summary of all results."""
    lost = sorted(step for result in results for step in result.lost)
    failed = [f"seed {result.seed}: {'; '.join(result.problems)}" for result in results if result.problems]
    lines = [
        f"{len(results)} jobs of {STEPS} steps, a checkpoint every {SAVE_EVERY}, in {seconds:.0f} s",
        f"{len(lost)} interruptions, after {sum(result.cut for result in results)} of them a file in the bucket was cut",
        f"{len(results) - len(failed)} jobs ended with sound weights at the last step, no step from a damaged file",
        f"{sum(result.failures for result in results)} counted failures on the way, {sum(result.faults for result in results)} download faults",
    ]
    holes = sum(result.rows_missing > 0 for result in results)
    lines.append(
        f"{holes} loss curves lack rows, {sum(result.rows_missing for result in results)} rows in all"
    )
    if lost:
        tenth = lost[9 * len(lost) // 10]
        lines.append(
            f"steps lost per interruption: mean {statistics.mean(lost):.1f}, median {statistics.median(lost):.0f},"
            f" 90th percentile {tenth}, most {lost[-1]}"
        )
        bins = [sum(low <= step < low + 10 for step in lost) for low in range(0, STEPS + 1, 10)]
        lines.append("by tens (0-9, 10-19, ...): " + " ".join(map(str, bins)))
    return "\n".join(lines + failed)


def serve_in_process(root: Path) -> FolderStorage:
    """The S3 server as a process of its own: threads do not survive a fork."""
    command = [sys.executable, "-m", "tests.node.storage", str(root)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(server.terminate)
    assert server.stdout
    return FolderStorage(root, server.stdout.readline().strip())


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.node.interruptions")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--faults", type=float, default=0.1, help="the share of downloads that break")
    parser.add_argument("--keep", type=Path, help="where the folders of failed seeds are kept")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        root = Path(scratch) / "s3" / "buckets"
        root.mkdir(parents=True)
        storage = serve_in_process(root)
        with multiprocessing.get_context("fork").Pool(given.at_once) as pool:
            seeds = range(given.first, given.first + given.seeds)
            results = list(
                pool.imap_unordered(partial(play, folder=folder, storage=storage, faults=given.faults), seeds)
            )
    print(summary(results, time.monotonic() - start))
    sys.exit(any(result.problems for result in results))


if __name__ == "__main__":
    main()
