"""Mutated checkpoints, manifests and trainer outputs given to the launcher's own functions.

    python -m tests.node.fuzz [--count 20000] [--first 0]

Whatever they hold, nothing but the launcher's own two errors may come out, the memory must stay bounded, and a
checkpoint that it takes must be one that the library `safetensors` takes. Prints what was tried and what came of it;
exit code 1 when there was a fault.
"""

import argparse
import json
import math
import os
import random
import resource
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from flux_training.node.launcher import process, settings
from flux_training.node.launcher.bucket import BucketError, parse_listing
from flux_training.node.launcher.errors import RunEndedError, UnsoundFileError
from flux_training.node.launcher.progress import LaunchState, ProgressWriter
from flux_training.node.launcher.trainer import OutputReader
from flux_training.node.launcher.weights import is_whole_zip, weights_step
from tests.node.fake_trainer import weights
from tests.node.quick_trainer import optimizer
from tests.node.runs import Node
from tests.node.storage import ENVIRONMENT

MAX_GROWTH_KIB = 64 << 10
STEPS = 20
NASTY = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**400,
        1e308,
        -0.5,
        math.nan,
        math.inf,
        1e-320,
    ),
    *(
        "",
        "x",
        "../x",
        "/etc/passwd",
        "\0",
        "\ud800",
        "nan",
        "9" * 5000,
        "ü" * 300,
        "a/b",
        ".",
        "..",
        "con.jpg",
    ),
    *([], [[]], [0], [0, 0], {}, {"a": 1}, ["x"] * 100, [[[[[[[[]]]]]]]], {"step": 20}, {"": ""}),
]
BAR = "\rjob:  33%|███▎      | {}/20 [00:33<01:07,  3.00it/s, lr: 1.0e-04 loss: {}]"
LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Contents><Key>a%20b</Key>'
    b"<Size>5</Size></Contents><NextContinuationToken>next</NextContinuationToken></ListBucketResult>"
)
OUTPUT = "".join(BAR.format(n, f"{1 / (n + 1):.3e}") for n in range(21)) + "\nSaving at step 8\nError: bad\n"


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Damage it one to four times: flipped bits, cuts, holes, repetitions, numbers."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(changed) + 1), chance.choice((1, 2, 8, 100, 4000))
        match chance.randrange(8):
            case 0:
                del changed[at:]
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = chance.randbytes(length)
            case 3:
                changed[at : at + length] = bytes(length)
            case 4:
                changed[at:at] = changed[at : at + length] * chance.choice((1, 3, 50))
            case 5:
                changed[at : at + 8] = chance.choice((0, 1, 2**20, 2**32, 2**63, 2**64 - 1)).to_bytes(
                    8, "little"
                )
            case 6:
                changed[at : at + 1] = chance.choice(
                    (b'"', b"[" * 5000, b"{", b"-", b"9" * 5000, b"e", b"\n", b"\xff")
                )
            case _ if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def mutate_json(value: Any, chance: random.Random) -> Any:
    """A copy with an unusual value in one place."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {
                chance.choice(("../x.jpg", "", "\0.jpg", "x" * 300 + ".jpg", key.upper())): value[key]
            } | value
        if chance.random() < 0.1:
            return {name: kept for name, kept in value.items() if name != key}
        return value | {key: mutate_json(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.6:
        at = chance.randrange(len(value))
        return [*value[:at], mutate_json(value[at], chance), *value[at + 1 :]]
    return chance.choice(NASTY)


def mutate_document(data: bytes, chance: random.Random) -> bytes:
    """A JSON document, damaged as text or as a value."""
    if chance.random() < 0.4:
        return mutate_bytes(data, chance)
    return json.dumps(mutate_json(json.loads(data), chance)).encode("utf-8", "replace")


def mutate_weights(data: bytes, chance: random.Random) -> bytes:
    """A .safetensors file, damaged anywhere or in its header."""
    if chance.random() < 0.5:
        return mutate_bytes(data, chance)
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(json.loads(data[8 : 8 + length]), chance)
    marks = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(marks, dict) and chance.random() < 0.3:
        marks["training_info"] = json.dumps(mutate_json({"step": 8, "epoch": 0}, chance))
    text = json.dumps(header).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


class Fuzz:
    """The kinds of input: a valid one, and the function of the launcher that reads it."""

    def __init__(self, folder: Path) -> None:
        os.chdir(folder)
        node = Node(folder, images=3)
        self.limits = (node.run_files.config / "launch.json").read_bytes()
        self.manifest = (node.run_files.config / "manifest.json").read_bytes()
        self.environment = node.run_files.job.environment
        self.sound = settings.read_settings(self.environment)
        self.path = Path("given")
        report = {
            "run_id": self.sound.run_id,
            "restarts": 1,
            "gpu_seconds": 2.5,
            "started_at": "then",
            "step": 8,
        }
        self.report = json.dumps(report).encode()
        self.curve = b"step,loss\n" + b"".join(b"%d,0.%d\n" % (n, n) for n in range(1, 21))
        self.kinds: dict[str, Callable[[random.Random], None]] = {
            "checkpoint": self.checkpoint,
            "optimizer": self.optimizer,
            "manifest": self.of_manifest,
            "launch.json": self.of_limits,
            "job environment": self.of_environment,
            "progress.json and loss.csv": self.progress,
            "trainer output": self.output,
            "listing": self.listing,
        }

    def checkpoint(self, chance: random.Random) -> None:
        data = mutate_weights(weights(8, tuple(n / 10 for n in range(chance.choice((4, 400))))), chance)
        self.path.write_bytes(data)
        weights_step(self.path)
        try:
            deserialize(data)
        except SafetensorError as err:
            raise AssertionError(f"safetensors refuses what the launcher took: {err}") from err

    def optimizer(self, chance: random.Random) -> None:
        self.path.write_bytes(mutate_bytes(optimizer(8), chance))
        if not is_whole_zip(self.path):
            raise UnsoundFileError("no whole zip")

    def of_manifest(self, chance: random.Random) -> None:
        images = settings.parse_manifest(mutate_document(self.manifest, chance))
        for name, image in images.items():
            for path in (settings.image_path(name), settings.caption_path(name)):
                (folder,) = path.parents[:-1]
                assert settings.DATASET_FOLDERS.fullmatch(folder.name)
            assert 0 <= image.size <= settings.MAX_IMAGE_BYTES
            (image.caption or "").encode("utf-8", "replace")  # control images have none

    def of_limits(self, chance: random.Random) -> None:
        Path("training-config/launch.json").write_bytes(mutate_document(self.limits, chance))
        limits = settings.read_limits()
        for name, (lowest, highest) in settings.LIMIT_RANGES.items():
            value = getattr(limits, name)
            assert (value is None and name == "max_hours") or lowest <= value <= highest

    def of_environment(self, chance: random.Random) -> None:
        Path("training-config/launch.json").write_bytes(self.limits)
        name = chance.choice(list(self.environment))
        value = chance.choice([word for word in NASTY if isinstance(word, str)])
        run = settings.read_settings(self.environment | ENVIRONMENT | {name: value})
        assert run.output_folder.parent == settings.OUTPUT_FOLDER
        assert run.run_prefix.endswith("/")

    def progress(self, chance: random.Random) -> None:
        progress = ProgressWriter(
            self.sound, mutate_document(self.report, chance), mutate_bytes(self.curve, chance)
        )
        progress.resume(8)
        progress.write(LaunchState.TRAINING, "", force=True)
        progress.check_hours()
        written = json.loads(Path("upload/progress.json").read_text())
        assert written["gpu_seconds"] >= 0
        assert all(0 < step <= STEPS for step in progress.losses)

    def output(self, chance: random.Random) -> None:
        self.path.write_bytes(mutate_bytes(OUTPUT.encode(), chance))
        progress = ProgressWriter(self.sound, None, None)
        with self.path.open("rb") as output:
            OutputReader(self.sound, progress).read(output.fileno())
        assert 0 <= progress.step <= STEPS
        assert all(0 < step <= STEPS for step in progress.losses)
        json.dumps(progress.report(), allow_nan=False)
        while not process._log.empty():
            process._log.get()

    def listing(self, chance: random.Random) -> None:
        objects, token = parse_listing(mutate_bytes(LISTING, chance))
        assert isinstance(token, str)
        assert all(isinstance(item.size, int) for item in objects)

    def play(self, seed: int) -> tuple[str, str]:
        """The kind of input of this seed, and `taken`, `refused` or the traceback."""
        chance = random.Random(seed)
        kind = list(self.kinds)[seed % len(self.kinds)]
        try:
            self.kinds[kind](chance)
        except (RunEndedError, UnsoundFileError, BucketError):
            return kind, "refused"
        except Exception:  # noqa: BLE001 - that is what is looked for
            return kind, f"seed {seed}: {traceback.format_exc(limit=-4)}"
        return kind, "taken"


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.node.fuzz")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        for seed in range(-12, 0):
            fuzz.play(seed)  # warm
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(given.first, given.first + given.count):
            kind, came = fuzz.play(seed)
            counts[kind, came if came in ("taken", "refused") else "fault"] += 1
            faults += [came] if came not in ("taken", "refused") else []
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.chdir("/")
    print(
        f"{given.count} mutated inputs, {len(faults)} faults, memory grew by {grown >> 10} MiB to {(before + grown) >> 10} MiB"
    )
    for kind in fuzz.kinds:
        came = ", ".join(f"{counts[kind, what]} {what}" for what in ("taken", "refused", "fault"))
        print(f"  {kind}: {came}")
    print("\n".join(faults[:5]))
    sys.exit(bool(faults) or grown > MAX_GROWTH_KIB)


if __name__ == "__main__":
    main()
