"""Seeded interruptions: nodes killed at any moment, objects in the bucket cut at any byte.

    python -m tests.node.interruptions [--seeds 300] [--first 0] [--at-once 2] [--keep DIR]

Each seed is one job on the node's own code (queued.py) with the real launcher and the quick trainer. A node is killed
one to three times: the node alone (the launcher has to notice) or all processes at once (a power cut). After two kills of three a
checkpoint or optimizer.pt in the bucket is cut, as a slow disk makes the worker upload it. Prints the steps lost per
interruption; exit code 1 when a job did not end with sound weights at the last step, or a step was trained from a
damaged file. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from localcloud.node import worker as kelpie_worker

from tests.node.queued import FolderTransfers, LocalQueue
from tests.node.quick_trainer import checkpoint
from tests.node.runs import is_alive, run_files

HERE = Path(__file__).parent
STEPS, SAVE_EVERY = 60, 10
MAX_LIFE_SECONDS = 2.2  # a job takes about two
MAX_RESTARTS = 12


@dataclass
class Result:
    """The result of one seed. `lost` are steps per interruption, `problems` are faults of the launcher."""

    seed: int
    lost: list[int] = field(default_factory=list)
    cut: int = 0
    failures: int = 0
    lives: int = 0
    rows_missing: int = 0
    problems: list[str] = field(default_factory=list)


class InterruptedCloud:
    """A bucket, a queue with one job, and consecutive nodes, all in one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.bucket, self.journal = root, root / "bucket", root / "journal"
        self.journal.touch()
        trainer = [sys.executable, "-I", "-S", "run.py", str(self.journal), str(STEPS), str(SAVE_EVERY)]
        files = run_files(
            "job", steps=STEPS, save_every=SAVE_EVERY, images=2, trainer=trainer, settle_seconds=0.5
        )
        places = {"training-config": "config", "dataset": "dataset", "output/job": "output"}
        for name, data in files.items():
            folder, _, file = name.rpartition("/")
            (self.bucket / places[folder]).mkdir(parents=True, exist_ok=True)
            (self.bucket / places[folder] / file).write_bytes(data)

        def sync(prefix: str, local: str) -> dict[str, str]:
            return {"bucket": "", "prefix": f"{prefix}/", "local_path": f"{local}/"}

        self.queue = LocalQueue(root / "queue.db", heartbeat_seconds=0.3)
        self.job = self.queue.submit(
            [sys.executable, "-I", "-S", "training-config/launch.py"],
            max_failures=3,
            sync={
                "before": [sync(place, local) for local, place in places.items()],
                "during": [sync("output", "output/job")],
                "after": [sync("model", "model")],
            },
        )

    def start_node(self, number: int) -> int:
        """Start a node as a process; its pid."""
        if pid := os.fork():
            return pid
        os.setpgid(0, 0)
        home = self.root / f"node-{number}"
        home.mkdir()
        shutil.copy(HERE / "quick_trainer.py", home / "run.py")
        shutil.copy(HERE / "fake_trainer.py", home)
        log = os.open(self.root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(home)
        kelpie_worker.PAUSE_SECONDS = 0.05
        queue = LocalQueue(self.root / "queue.db", f"machine-{number}", heartbeat_seconds=0.3)
        transfers = FolderTransfers(home, self.bucket)
        worker = kelpie_worker.KelpieWorker(home, queue, 0.05, 0.1, transfers)  # type: ignore[arg-type]  # asked like Kelpie
        os._exit(kelpie_worker.run(worker))

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


def cut_something(bucket: Path, chance: random.Random) -> int:
    """Truncate a checkpoint, usually the newest, at a random byte; 1 if there was one."""
    found = [*sorted((bucket / "output").glob("job*.safetensors")), *(bucket / "output").glob("optimizer.pt")]
    if not found or chance.random() > 2 / 3:
        return 0
    path = chance.choice(found[-3:])
    os.truncate(path, chance.randrange(path.stat().st_size + 1))
    return 1


def play(seed: int, folder: Path) -> Result:
    """Run one job to its end."""
    chance, result, root = random.Random(seed), Result(seed), folder / f"seed-{seed}"
    root.mkdir()
    cloud, left = InterruptedCloud(root), chance.choice((1, 1, 2, 3))
    while cloud.status not in ("completed", "failed", "canceled") and result.lives < MAX_RESTARTS:
        result.lives += 1
        pid = cloud.start_node(result.lives)
        end = time.monotonic() + (chance.uniform(0, MAX_LIFE_SECONDS) if left else 60)
        while time.monotonic() < end and cloud.status not in ("completed", "failed"):
            time.sleep(0.01)
        reached, starts = int((cloud.noted("step") or ["0"])[-1]), len(cloud.noted("start"))
        left -= 1
        kill(pid, power=chance.random() < 0.5)
        shutil.rmtree(root / f"node-{result.lives}", ignore_errors=True)
        if cloud.status == "running":
            result.cut += cut_something(cloud.bucket, chance)
            result.lost.append(-reached * 1000 - starts)  # known once the next life has begun
    judge(cloud, result)
    if not result.problems:
        shutil.rmtree(root)
    return result


def judge(cloud: InterruptedCloud, result: Result) -> None:
    """Add the steps lost and the problems to the result."""
    starts, job = [int(step) for step in cloud.noted("start")], cloud.queue.job(cloud.job)
    for index, code in enumerate(result.lost):
        reached, before = divmod(-code, 1000)
        result.lost[index] = max(0, reached - starts[before]) if before < len(starts) else 0
    result.failures = job["num_failures"]
    curve = cloud.bucket / "output" / "loss.csv"
    result.rows_missing = STEPS - (curve.read_text().count("\n") - 1 if curve.exists() else 0)
    if job["status"] != "completed":
        result.problems.append(f"the job is {job['status']} after {result.lives} lives")
    result.problems += [f"trained from a damaged {name}" for name in cloud.noted("damaged")]
    model, done = cloud.bucket / "model" / "job.safetensors", cloud.bucket / "model" / "done.json"
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
        f"{sum(result.failures for result in results)} counted failures on the way",
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


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.node.interruptions")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where the folders of failed seeds are kept")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("fork").Pool(given.at_once) as pool:
            seeds = range(given.first, given.first + given.seeds)
            results = list(pool.imap_unordered(partial(play, folder=folder), seeds))
    print(summary(results, time.monotonic() - start))
    sys.exit(any(result.problems for result in results))


if __name__ == "__main__":
    main()
