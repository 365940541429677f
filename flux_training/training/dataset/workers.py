"""Many images at once, on all cores.

Decoding is processor time, and not all of Pillow's decoders let other threads run meanwhile (WebP's does not). `multiprocessing` would
have each worker run the Pulumi program's `__main__` again, or fork a process that holds gRPC's threads. So the workers are plain
processes of this module: a line of paths in, a line of facts out.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from flux_training.training.dataset.image_facts import ImageFacts, look_at_image

# Starting a worker takes about as long as decoding so many photographs.
WORTH_A_WORKER = 16
BATCH = 8
TELL_SECONDS = 0.2
CHECKOUT = Path(__file__).resolve().parents[3]

Tell = Callable[[int], None]
Worker = subprocess.Popen[str]


def look_at_images(paths: Sequence[Path], tell: Tell = lambda _: None) -> list[ImageFacts]:
    """The facts of each path, in order. `tell` hears how many more are done."""
    workers = min(os.cpu_count() or 1, len(paths) // WORTH_A_WORKER)
    facts = _shared_out(paths, workers, tell) if workers > 1 else {}
    # Few images, and what a worker left that the system ended (out of memory), are this process's own.
    for number in range(len(paths)):
        if number not in facts:
            facts[number] = look_at_image(paths[number])
            tell(1)
    return [facts[number] for number in range(len(paths))]


def _shared_out(paths: Sequence[Path], workers: int, tell: Tell) -> dict[int, ImageFacts]:
    """Facts by the path's place in `paths`. `tell` is called by this thread alone."""
    facts: dict[int, ImageFacts] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for start in range(0, len(paths), BATCH):
        todo.put(start)

    def work() -> None:
        with _worker() as worker:
            for start in _taken_from(todo):
                batch = paths[start : start + BATCH]
                found = _ask(worker, batch)
                if not found:
                    return
                facts.update(enumerate(found, start))

    with ThreadPoolExecutor(workers) as threads:
        running = [threads.submit(work) for _ in range(workers)]
        try:
            told = 0
            while told < len(paths) and not all(each.done() for each in running):
                wait(running, timeout=TELL_SECONDS)
                tell(len(facts) - told)
                told = len(facts)
            for each in running:
                each.result()
        finally:
            # After Ctrl-C nobody begins another batch.
            for _ in _taken_from(todo):
                pass
    return facts


def _taken_from(todo: queue.SimpleQueue[int]) -> Iterator[int]:
    while True:
        try:
            yield todo.get_nowait()
        except queue.Empty:
            return


@contextmanager
def _worker() -> Iterator[Worker]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "flux_training.training.dataset.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    try:
        yield worker
    finally:
        try:
            worker.communicate()
        except BrokenPipeError:
            worker.wait()


def _ask(worker: Worker, batch: Sequence[Path]) -> list[ImageFacts]:
    """The facts of a batch; none when the worker has died."""
    assert worker.stdin is not None  # noqa: S101 - it was given a pipe
    assert worker.stdout is not None  # noqa: S101 - it was given a pipe
    try:
        worker.stdin.write(json.dumps([str(path) for path in batch]) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        return []
    return [ImageFacts(**entry) for entry in json.loads(answer)] if answer.endswith("\n") else []


def _main() -> None:
    # Ctrl-C reaches the whole terminal: the one who asked closes our input instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        facts = [asdict(look_at_image(Path(path))) for path in json.loads(line)]
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
