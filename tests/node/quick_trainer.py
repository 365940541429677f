"""A trainer with ai-toolkit's files and rules and nothing to learn: `run.py JOURNAL STEPS SAVE_EVERY`. Standard library only.

What a checkpoint holds follows from its step, so that a damaged one is known whatever the launcher thinks of it. The
journal outlives the node: `start N` (the step gone on from), `step N`, `saving N`, `damaged NAME`.
"""

import io
import random
import sys
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_trainer import weights  # type: ignore[import-not-found]  # on the node too

FOLDER = Path("output/job")
KEPT = 4


def checkpoint(step: int) -> bytes:
    """The expected content of the checkpoint of a step, about 16 KB."""
    numbers = random.Random(step)
    return weights(step, tuple(round(numbers.uniform(-2, 2), 2) for _ in range(8000)))


def optimizer(step: int) -> bytes:
    """The expected content of optimizer.pt: a zip file like those of torch.save."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/step"), str(step))
        archive.writestr(zipfile.ZipInfo("archive/data/0"), random.Random(-step).randbytes(30_000))
    return data.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file in place and in pieces, as a slow disk does."""
    with path.open("wb") as file:
        for at in range(0, len(data), 8192):
            file.write(data[at : at + 8192])
            file.flush()
            time.sleep(0.004)


def resume(journal: Path, every: int) -> int:
    """As ai-toolkit's get_latest_save_path: of all files that begin with the name, the newest by ctime."""
    found = sorted(FOLDER.glob("job*"), key=lambda path: path.stat().st_ctime_ns)
    step = 0
    if found:
        digits = found[-1].stem.partition("_")[2]
        step = int(digits) if digits.isdigit() else -1
        if step < 0 or found[-1].read_bytes() != checkpoint(step):
            note(journal, f"damaged {found[-1].name}")
    state = FOLDER / "optimizer.pt"
    if state.exists() and state.read_bytes() not in {
        optimizer(n) for n in range(every, step + 5 * every, every)
    }:
        note(journal, "damaged optimizer.pt")
    return step


def note(journal: Path, text: str) -> None:
    with journal.open("a") as file:
        file.write(text + "\n")


def main(journal: Path, steps: int, every: int) -> None:
    step = resume(journal, every)
    note(journal, f"start {step}")
    for done in range(step, steps):
        time.sleep(0.01)
        sys.stderr.write(
            f"\rjob: {100 * done // steps:3}%|###| {done}/{steps} [00:01<00:02, 9.0it/s, loss: 1.0e-01]"
        )
        sys.stderr.flush()
        if done > step and done % every == 0:
            note(journal, f"saving {done}")
            write(FOLDER / f"job_{done:09}.safetensors", checkpoint(done))
            write(FOLDER / "optimizer.pt", optimizer(done))
            saves = sorted(FOLDER.glob("job_*"), key=lambda path: path.stat().st_ctime_ns)
            for old in saves[:-KEPT]:
                old.unlink()
        note(journal, f"step {done + 1}")
    write(FOLDER / "job.safetensors", checkpoint(steps))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
