"""python -m tests.bench [--rounds 9] [--only upload,plan,jobs,engine] [--jobs 1,10,100,1000]: prints, and writes tests/bench/results.md."""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import engine, jobs, plan, tools, upload

RESULTS = Path(__file__).parent / "results.md"
PARTS = ("upload", "big", "plan", "jobs", "engine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--jobs", default="1,10,100,1000")
    given = parser.parse_args()
    parts = given.only.split(",")
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as name:
        text = "\n".join(_measured(parts, Path(name), given.rounds, [int(n) for n in given.jobs.split(",")]))
    print(text)
    head = (
        f"# Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end\n\n"
        f"`python -m tests.bench {' '.join(sys.argv[1:])}`. Each comparison ran in turns; medians of {given.rounds} rounds after one "
        "to warm up. Ratios: median, and from the least to the most of the rounds.\n\n"
    )
    RESULTS.write_text(head + text, encoding="utf-8")


def _measured(parts: list[str], folder: Path, rounds: int, counts: list[int]) -> list[str]:
    found = []
    if {"upload", "big"} & set(parts):
        there = tools.bring()
        if "versitygw" in there:
            memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of our own below it
            with (
                tempfile.TemporaryDirectory(prefix="flux-bench-", dir=memory) as name,
                tools.serving(there["versitygw"], Path(name) / "s3") as server,
            ):
                if "upload" in parts:
                    found.append(upload.many(server, there, folder, rounds))
                    found.append(upload.fetching(server, folder, rounds))
                if "big" in parts:
                    found.append(upload.one_big(server, folder, rounds))
        else:
            found.append("Uploads were not measured: there is no fast S3 server without Go (versitygw).\n")
    if "plan" in parts:
        found.append(plan.scan_to_plan(folder / "plan", rounds))
    if "jobs" in parts:
        found.append(jobs.scaling(counts, folder))
    if "engine" in parts:
        found.append(engine.beside_the_cli(counts, folder / "engine", rounds))
    return found


if __name__ == "__main__":
    main()
