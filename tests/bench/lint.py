"""How long lint takes for many images: the first time, on all cores, and again from the cache.

    python -m bench.lint [--images 10000]

Prints both times, the processor time, their ratio, and what one process alone would have taken (measured on a part). Exit code 1 when the
second run is less than 20 times as fast.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from flux_training.training.dataset.image_cache import SETTLED_SECONDS
from flux_training.training.dataset.image_facts import look_at_image
from flux_training.training.finding import LintReport
from flux_training.training.jobs.examine import Examiner
from flux_training.training.jobs.lint import lint_jobs
from flux_training.training.settings import JobSettings, StackSettings, StorageSettings

ROOT = Path(__file__).resolve().parents[2]
WANTED_RATIO = 20
SIDE = 768
PART = 100


def make_image(job: tuple[Path, int]) -> None:
    folder, number = job
    small = Image.frombytes("RGB", (48, 48), random.Random(number).randbytes(48 * 48 * 3))
    suffix = ("jpg", "jpg", "jpg", "png", "webp")[number % 5]
    picture = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"compress_level": 1} if suffix == "png" else {}
    picture.save(folder / f"{number:05}.{suffix}", **options)
    (folder / f"{number:05}.txt").write_text(f"esprss0 cup, seen for the time {number}", encoding="utf-8")


def timed(settings: StackSettings, root: Path) -> tuple[float, float, LintReport]:
    """(seconds, processor seconds of this process and its workers, report)"""
    began, used = time.perf_counter(), _processor()
    report = lint_jobs(settings, root, examiner=Examiner.of(root))
    return time.perf_counter() - began, _processor() - used, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "jobs/big/dataset"
        folder.mkdir(parents=True)
        train_yml = (ROOT / "jobs/coffee-cup/train.yml").read_text(encoding="utf-8")
        (folder.parent / "train.yml").write_text(train_yml.replace('"coffee-cup"', '"big"'), encoding="utf-8")
        with ProcessPoolExecutor() as pool:
            list(pool.map(make_image, [(folder, number) for number in range(count)], chunksize=50))
        time.sleep(SETTLED_SECONDS)
        settings = StackSettings(
            cloud="local", storage=StorageSettings(bucket="bench"), jobs={"big": JobSettings()}
        )
        return measure(
            settings, Path(place), sorted(path for path in folder.iterdir() if path.suffix != ".txt"), count
        )


def measure(settings: StackSettings, root: Path, images: list[Path], count: int) -> int:
    first, first_processor, report = timed(settings, root)
    again, again_processor, same = timed(settings, root)
    began = time.perf_counter()
    for path in images[:PART]:
        look_at_image(path)
    alone = (time.perf_counter() - began) / len(images[:PART]) * count
    ratio = first / again
    print(f"{count} images of {SIDE} x {SIDE} pixels, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"first run   {first:8.2f} s, {first_processor:8.2f} s of processor time ({first_processor / first:.2f} cores)"
    )
    print(f"second run  {again:8.2f} s, {again_processor:8.2f} s of processor time")
    print(f"the second run takes {first_processor / again_processor:.0f} times less of the processor")
    print(f"one process alone would take about {alone:.0f} s")
    print(
        f"the cache makes it {ratio:.0f} times as fast; findings: {len(report.findings)}, again {len(same.findings)}"
    )
    return 0 if ratio >= WANTED_RATIO and report.findings == same.findings else 1


def _processor() -> float:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


if __name__ == "__main__":
    sys.exit(main())
