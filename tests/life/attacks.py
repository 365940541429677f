"""What a hostile node can write with exactly its keys. Written from the issue, not from the code that defends.

Each attack gets a `Scene` and ends in a finding about one run, or is refused by the storage. Names with `..` and control characters are
in tests/test_hostile_buckets.py, because the S3 server of the tests does not store them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import tenacity

from flux_training.clients.errors import RateLimited, ServiceError
from flux_training.clients.storage import Storage
from flux_training.training.budget.entries import SpendingEntry
from flux_training.training.runs.run import Layout, RunKeys

DEEP = b'{"a":' * 40_000
HUGE = b'{"a": "' + b"x" * 3_000_000 + b'"}'
MANY = b'{"a": [' + b"[]," * 500_000 + b"[]]}"


def put_when_allowed(storage: Storage, key: str, data: bytes) -> None:
    """One write a second is allowed for each key, as at R2, and the test before may just have written it."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RateLimited), wait=tenacity.wait_fixed(0.3), reraise=True
    )
    retrying(storage.put_bytes, key, data)


@dataclass(frozen=True)
class Scene:
    """`node`: the bucket with a node's keys. `keys`: the attacked run. `foreign`: the id of somebody else's running job."""

    node: Storage
    layout: Layout
    keys: RunKeys
    foreign: str

    def put(self, key: str, content: bytes | dict[str, Any]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        put_when_allowed(self.node, key, data)


@dataclass(frozen=True)
class Attack:
    """`shows`: part of the finding; empty if the attack has no effect at all. `refused`: the node's keys do not reach so far."""

    act: Callable[[Scene], None]
    shows: str = ""
    refused: bool = False


def weights_file(step: int = 20, tensor: bytes = b"evil") -> bytes:
    """Valid weights: a LoRA of one number."""
    header = json.dumps(
        {
            "__metadata__": {"training_info": json.dumps({"step": step})},
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, len(tensor)]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + tensor


def progress(**fields: object) -> Callable[[Scene], None]:
    """progress.json with odd values; everything else in it is fine."""
    usual = {"state": "training", "step": 7, "steps": 20, "gpu_seconds": 60.0}
    return lambda scene: scene.put(scene.keys.progress, {**usual, **fields})


def raw(name: str, content: bytes) -> Callable[[Scene], None]:
    return lambda scene: scene.put(scene.keys.base + name, content)


def _swap_weights(scene: Scene) -> None:
    from hashlib import sha256

    evil = weights_file()
    scene.put(scene.keys.weights, evil)
    scene.put(scene.keys.done, {"sha256": sha256(evil).hexdigest(), "size": len(evil), "step": 20})


def _name_foreign_job(key: Callable[[RunKeys], str]) -> Callable[[Scene], None]:
    return lambda scene: scene.put(key(scene.keys), {"claim": "t", "kelpie_id": scene.foreign, "version": 1})


def _both_stages(scene: Scene) -> None:
    for key in scene.keys.stages:
        scene.put(key, weights_file())


def _below_an_image(scene: Scene) -> None:
    """The storage may refuse it, because a file cannot be a folder."""
    image = next(iter(scene.node.list(scene.layout.datasets)))
    with suppress(ServiceError):
        scene.put(f"{image.key}/{'0' * 100}.jpg", b"x")


def _other_line_endings(scene: Scene) -> None:
    key = f"{scene.keys.config}train.yml"
    scene.put(key, (scene.node.get_bytes(key) or b"").replace(b"\n", b"\r\n"))


def _old_place(name: str) -> Callable[[Scene], None]:
    """Where claims and posted jobs were in layout 1."""
    return lambda scene: scene.put(
        scene.keys.base + name,
        {
            "version": 1, "claim": "t", "kelpie_id": scene.foreign, "owner": "x/y", "host": "h",
            "pid": 2**31, "claimed_at": 32_503_680_000.0, "token": "t",
        },
    )  # fmt: skip


def _plant_next_attempt(scene: Scene) -> None:
    """A claim and a posted job for a run that is not declared yet."""
    base = f"{scene.keys.runs_of_job}0123456789ab/"
    scene.put(f"{base}claim.json", {"owner": "x", "host": "h", "pid": 1, "claimed_at": 9e9, "token": "t"})
    scene.put(f"{base}posted.json", {"claim": "t", "kelpie_id": scene.foreign})


def _many_samples(scene: Scene) -> None:
    for number in range(40):
        scene.put(f"{scene.keys.output}samples/\u202e{number}.jpg", b"x")


def odd_record(**fields: object) -> Callable[[Scene], None]:
    """run.json with other values."""
    return lambda scene: scene.put(scene.keys.record, {"version": 1, "job": scene.keys.job, **fields})


def huge_picture() -> bytes:
    """A PNG of 50,000 x 50,000 pixels in a few kilobytes. Its rows are cut off."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(5_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _two_cases(scene: Scene) -> None:
    for name in ("S.jpg", "s.jpg"):
        scene.put(f"{scene.keys.output}samples/{name}", b"x")


def _undeclared_jobs(scene: Scene) -> None:
    """Finished at an impossible speed, and first in each listing."""
    for name in ("!", "..", "0" * 300, "a b", "\u202egpj"):
        with suppress(ServiceError, OSError, UnicodeError):
            base = f"{scene.layout.runs}{name}/0123456789ab/output/"
            scene.put(
                f"{base}progress.json",
                {"state": "finished", "step": 1_000_000, "steps": 1_000_000, "gpu_seconds": 1},
            )
            scene.put(f"{base}run.json", {"version": 1, "run_id": "0123456789ab"})


OTHER_CONFIG = "somebody changed train.yml, manifest.json or run.json"
NODE_WROTE = "a node wrote this"
BAD_NAME = "not the name of a sample"
# Attacks on a run that is in the queue.
ON_UNFINISHED: dict[str, Attack] = {
    "GPU time of 28 years": Attack(progress(gpu_seconds=9e8), f"gpu_seconds is not valid (900000000.0); {NODE_WROTE}"),
    "an infinite number": Attack(raw("output/progress.json", b'{"gpu_seconds": Infinity}'), "gpu_seconds is not valid"),
    "not a number": Attack(raw("output/progress.json", b'{"loss_smoothed": NaN}'), "loss_smoothed is not valid"),
    "a number of 4,000 digits": Attack(
        raw("output/progress.json", b'{"step": ' + b"9" * 4000 + b"}"), "step is not valid"
    ),
    "a number of 5,000 digits": Attack(
        raw("output/progress.json", b'{"step": ' + b"9" * 5000 + b"}"), "not valid JSON"
    ),
    "a list for a text": Attack(progress(message=["a"], gpu=[1]), "message is not valid"),
    "a step beyond the last": Attack(progress(step=10_000_001), "step is not valid"),
    "the year 3000": Attack(progress(updated_at="3000-01-01T00:00:00Z"), "updated_at is not valid"),
    "unpaired surrogates": Attack(raw("output/progress.json", b'{"message": "\\ud800", "gpu": "\\udfff"}')),
    "control characters": Attack(progress(message="\x1b]0;owned\x07\x00\r\u202e", state="\x1b[2J")),
    "brackets": Attack(raw("output/progress.json", DEEP), "not valid JSON, or is nested too deeply"),
    "three megabytes": Attack(raw("output/progress.json", HUGE), "longer than"),
    "a million values": Attack(raw("output/progress.json", MANY), "longer than"),
    "half a million values": Attack(raw("output/progress.json", MANY[:900_000] + b"[]]}"), "more than 50000 values"),
    "no JSON": Attack(raw("output/progress.json", b"\xff\xfe\x00"), "not valid JSON"),
    "a list": Attack(raw("output/progress.json", b"[]"), "not a JSON object"),
    "a run.json of nonsense": Attack(
        raw("output/run.json", b'{"estimate": {"usd": 1e300, "usd_an_hour": [1]}, "attempt": -1, "parent": "../x", "steps": "\\ud800"}')
    ),
    "a done.json without weights": Attack(lambda scene: scene.put(scene.keys.done, {"sha256": [1]})),
    "weights whose header is a bomb": Attack(
        lambda scene: (
            scene.put(scene.keys.weights, struct.pack("<Q", 4_000_000) + MANY[:3_999_990].ljust(3_999_992)),
            scene.put(scene.keys.done, {}),
        )[0],
        "header cannot be parsed",
    ),
    "losses of nonsense": Attack(raw("output/loss.csv", b"step,loss\n1,nan\n-5,1e999\n" + b"9" * 6000 + b",1\n")),
    "a claim in the old place": Attack(_old_place("claim.json")),
    "a posted job in the old place": Attack(_old_place("posted.json")),
    "a claim for the next attempt": Attack(_plant_next_attempt),
    "an order to queue it again": Attack(
        lambda scene: scene.put(f"{scene.keys.base}requeue.json", {"kelpie_id": scene.foreign, "version": 1})
    ),
    "an order to queue it again, in its place": Attack(_name_foreign_job(lambda keys: keys.requeue), refused=True),
    "a run that has finished in a second": Attack(progress(state="finished", step=20, gpu_seconds=1e-300)),
    "a checkpoint that is a bomb": Attack(
        lambda scene: scene.put(
            f"{scene.keys.output}{scene.keys.job}_000000010.safetensors", struct.pack("<Q", 2**62) + b"{}"
        )
    ),
    "a trainer and a GPU of nonsense": Attack(
        progress(trainer={"version": ["x"]}, gpu="<b>\x1b[2J" * 50, trainer_version="\ud800\x00" * 100),
        "trainer is not valid",
    ),
    "final weights in output/": Attack(
        lambda scene: scene.put(f"{scene.keys.output}{scene.keys.job}.safetensors", weights_file())
    ),
    "finished weights of both noise stages": Attack(_both_stages, "the run has not finished, so they are not verified"),
    "no run.json": Attack(lambda scene: scene.node.delete_many([scene.keys.record])),
    "no config/": Attack(lambda scene: scene.node.delete_many([item.key for item in scene.node.list(scene.keys.config)])),
    "limits of nonsense": Attack(raw("config/launch.json", b'{"stall_minutes": -1e999, "max_hours": [], "x": "\\ud800"}')),
    "the highest attempt": Attack(odd_record(attempt=1_000_000_000)),
    "an image of the dataset as an object below itself": Attack(_below_an_image),
    "a posted job that names somebody else's": Attack(_name_foreign_job(lambda keys: keys.posted), refused=True),
    "weights that were set aside": Attack(_name_foreign_job(lambda keys: f"{keys.set_aside}x"), refused=True),
    "a claim": Attack(_name_foreign_job(lambda keys: keys.claim), refused=True),
    "a record of verified weights": Attack(_name_foreign_job(lambda keys: keys.results), refused=True),
    "whose the bucket is": Attack(lambda scene: scene.put(scene.layout.owner, {}), refused=True),
    "what the bucket's stacks have spent": Attack(
        lambda scene: scene.put(SpendingEntry(date(2026, 11, 30), "0" * 16, "first", 1e6).key, {}), refused=True
    ),
    "a dataset's record": Attack(lambda scene: scene.put(scene.layout.dataset_index("0" * 64), {}), refused=True),
}  # fmt: skip
# Attacks on a run that has finished, and whose weights were verified and fetched.
ON_FINISHED: dict[str, Attack] = {
    "other weights": Attack(_swap_weights, "not those that were verified first"),
    "weights of the same length": Attack(
        lambda scene: scene.put(scene.keys.weights, weights_file(tensor=b"EVIL")),
        "not those that were verified first",
    ),
    "no weights": Attack(lambda scene: scene.node.delete_many([scene.keys.weights]), "no longer in the bucket"),
    "no done.json": Attack(lambda scene: scene.node.delete_many([scene.keys.done])),
    "no run.json": Attack(lambda scene: scene.node.delete_many([scene.keys.record])),
    "weights of both noise stages": Attack(_both_stages),
    "checkpoints beyond the last step": Attack(
        lambda scene: scene.put(f"{scene.keys.output}{scene.keys.job}_010000000.safetensors", weights_file(step=10_000_000))
    ),
    "the highest attempt": Attack(odd_record(attempt=1_000_000_000)),
    "a train.yml with other line endings": Attack(_other_line_endings, OTHER_CONFIG),
    "a sample below a sample": Attack(
        lambda scene: scene.put(f"{scene.keys.output}samples/a.jpg/b.jpg", b"x"), BAD_NAME
    ),
    "a sample with a long name": Attack(
        lambda scene: scene.put(f"{scene.keys.output}samples/{'n' * 220}.jpg", b"x"), BAD_NAME
    ),
    "names that are written backwards": Attack(_many_samples, "20 more files"),
    "a manifest of nonsense": Attack(
        raw("config/manifest.json", b'{"images": {"../../x": {"sha256": [1], "size": -1, "caption": {}}}}'),
        OTHER_CONFIG,
    ),
    "a train.yml that expands to gigabytes": Attack(
        lambda scene: scene.put(
            f"{scene.keys.config}train.yml",
            b"job: x\nconfig:\n  name: '" + b"n" * 100_000 + b"'\n  a: '" + b"[name]" * 20_000 + b"'\n",
        ),
        OTHER_CONFIG,
    ),
    "a train.yml of a free model": Attack(
        raw("config/train.yml", b"job: extension\nconfig: {process: [{model: {name_or_path: black-forest-labs/FLUX.1-schnell}}]}\n"),
        OTHER_CONFIG,
    ),
    "a run that continues another's": Attack(
        odd_record(attempt=9, parent="0123456789ab", owner="somebody/else", steps=1)
    ),
    "a done.json that names other weights": Attack(
        lambda scene: scene.put(scene.keys.done, {"sha256": "0" * 64, "size": 1, "step": 1})
    ),
    "samples whose names differ in case": Attack(_two_cases),
    "a picture of 2.5 gigapixels": Attack(raw("output/samples/1__000000020_0.png", huge_picture())),
    "a sample whose name is markup": Attack(raw("output/samples/<img src=x onerror=alert(1)>.jpg", b"x")),
    "runs of jobs that nobody declared": Attack(_undeclared_jobs),
    "losses of a report": Attack(raw("output/loss.csv", b"1,1e308\n2,-1e308\n" * 10_000)),
    "a text as a sample": Attack(lambda scene: scene.put(f"{scene.keys.output}samples/1__000000001_0.jpg", b"<script>")),
}  # fmt: skip
