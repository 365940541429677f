"""Buckets in memory whose objects a hostile node has written, made from a seed. Names may be ones that no S3 server of the tests stores."""

import hashlib
import json
import random
import struct
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from flux_training.clients.errors import Conflict, NotFound, WrongContent
from flux_training.clients.storage import Folders, ObjectInfo, Storage
from flux_training.training.runs.run import RunKeys

NUMBERS = [
    0,
    -1,
    1,
    20,
    2**31,
    2**63,
    10**400,
    9e8,
    1e308,
    -0.0,
    float("inf"),
    float("-inf"),
    float("nan"),
    0.5,
]
TEXTS = [
    "", "a", "\x00", "\ud800", "\udfff\ud800", "\x1b[2J\x1b]0;x\x07", "\u202egpj.exe", "../../../../etc/passwd", "/etc/passwd",
    "<script>alert(1)</script>", "{{7*7}}", "[name][trigger]" * 50, "9" * 5000, "3000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59",
    "2026-11-23T01:00:00Z", "nan", "x" * 20_000, "completed", "finished", "training", "0" * 64, "g" * 64, "0123456789ab",
]  # fmt: skip
NAMES = [
    "a.jpg", "..", ".", "", "a/b.jpg", "../.fetched.json/a.jpg", "../../../../../.ssh/a.jpg", "/etc/a.jpg", "a\x00.jpg", "\ud800.jpg",
    "n" * 300 + ".jpg", "é" * 150 + ".png", "..\\..\\a.jpg", "C:a.jpg", ".hidden.jpg", "a\nb.jpg", "\u202egpj.jpg", "a.jpg/b.jpg",
    "1795392457384__000000000_0.jpg", "9" * 40 + "__1_0.jpg", "con.jpg", "run.json", "-rf.jpg", "\x1b[2J.webp", "~.jpg", "%2e%2e/a.jpg",
]  # fmt: skip
FIELDS = [
    "state", "message", "step", "steps", "loss_smoothed", "loss_first", "loss_steps", "gpu", "gpu_seconds", "start_seconds", "restarts",
    "begun", "eta_seconds", "updated_at", "started_at", "sha256", "size", "created_at", "estimate", "attempt", "parent", "job", "run_id",
    "kelpie_id", "claim", "images", "usd", "usd_an_hour", "seconds", "caption", "version", "config", "manifest", "etag", "layout",
]  # fmt: skip
BROKEN = [
    b"",
    b"[]",
    b"{",
    b"null",
    b"\xff\xfe",
    b"[" * 30_000,
    b'{"a":' * 9_000,
    b'{"a": ' + b"9" * 6000 + b"}",
    b"x" * 4000,
]
YAML = [
    b"job: x\nconfig: {name: nnnnnnnnnn, process: [{sample: {prompts: ['[name]']}}]}\n",
    b"job: x\nconfig:\n  name: '" + b"n" * 9_000 + b"'\n  a: '" + b"[name]" * 3_000 + b"'\n",
    b"job: x\nconfig: {a: &a [1, 2], b: [*a, *a, *a]}\n",
    b"job: x\r\nconfig:\r\n  name: '[name]'\r\n  process: [{train: {steps: 20}}]\r\n", b"job: x\rconfig: {}\r",
    b"a: &a [*a]\n", b"- " * 500, b"job: 1:1:1" + b":1" * 1_000, b"\x00", b"!!python/object/apply:os.system [id]",
    b"job: x\nconfig: {process: [{trigger_word: [1], datasets: 7, train: {steps: 1e400}, network: []}]}\n",
]  # fmt: skip


class HostileBucket:
    """Objects by key, in place of a Storage."""

    bucket, endpoint_url = "hostile", "http://127.0.0.1:9"

    def __init__(self, objects: dict[str, bytes], times: Mapping[str, datetime] | None = None) -> None:
        """`times`: when objects were written, as far as the storage tells it."""
        self.objects = objects
        self._times = times or {}

    def exists(self) -> bool:
        return True

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if key not in self.objects:
            raise NotFound(f"{key!r} is not there")
        return self.objects[key][start : start + length]

    def get_bytes(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def head(self, key: str) -> ObjectInfo | None:
        return self._info(key) if key in self.objects else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (self._info(key) for key in sorted(self.objects) if key.startswith(prefix))

    def list_folders(self, prefix: str = "") -> Folders:
        below = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        return Folders(sorted({rest.split("/")[0] for rest in below if "/" in rest}))

    def put_bytes(self, key: str, data: bytes, if_none_match: bool = False, **_conditions: object) -> str:
        if if_none_match and key in self.objects:
            raise Conflict(f"{key!r} exists")
        self.objects[key] = data
        return self._info(key).etag

    def download(self, key: str, path: Path, sha256: str | None = None, *, size: int | None = None) -> None:
        data = self.get_range(key, 0, 1 << 40)
        if size not in (None, len(data)) or sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise WrongContent(f"{key!r} is not what was written there")
        path.write_bytes(data)

    def _info(self, key: str) -> ObjectInfo:
        data = self.objects[key]
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return ObjectInfo(key, len(data), etag, self._times.get(key))


def as_storage(objects: dict[str, bytes], times: Mapping[str, datetime] | None = None) -> Storage:
    return cast(Storage, HostileBucket(objects, times))


def spoil_run(chance: random.Random, objects: dict[str, bytes], keys: RunKeys) -> None:
    """Write what a node with keys for runs/ can write below one run."""
    for key in (
        keys.record,
        keys.progress,
        keys.done,
        f"{keys.config}manifest.json",
        f"{keys.base}posted.json",
        f"{keys.base}claim.json",
    ):
        if chance.random() < 0.7:
            objects[key] = _document(chance)
    if chance.random() < 0.7:
        objects[f"{keys.config}train.yml"] = chance.choice(YAML)
    if chance.random() < 0.7:
        end = chance.choice(["\n", "\r\n", "\r"])
        rows = (f"{_value(chance, 1)},{_value(chance, 1)}{end}" for _ in range(5))
        objects[f"{keys.output}loss.csv"] = "".join(rows).encode("utf-8", "replace")
    for name in chance.sample(NAMES, 4):
        folder = chance.choice([f"{keys.output}samples/", keys.output, keys.model, keys.config])
        objects[folder + name] = chance.choice([b"", b"x", b"\xff\xd8\xff\xe0JFIF", _weights(chance)])
    for key in (keys.weights, f"{keys.output}{keys.job}_000000010.safetensors"):
        if chance.random() < 0.5:
            objects[key] = _weights(chance)
    for key in [key for key in objects if key.startswith(keys.base)]:
        if chance.random() < 0.1:
            del objects[key]


def _document(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.choice(BROKEN)
    fields = {chance.choice(FIELDS): _value(chance, 3) for _ in range(chance.randrange(12))}
    return json.dumps(fields, indent=chance.choice([None, 1])).replace("\n", "\r\n").encode()


def _value(chance: random.Random, levels: int) -> Any:
    kind = chance.randrange(6 if levels else 4)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind == 2:
        return chance.choice(TEXTS)
    if kind == 3:
        return chance.choice([None, True, False])
    if kind == 4:
        return [_value(chance, levels - 1) for _ in range(chance.randrange(4))]
    return {chance.choice([*FIELDS, *NAMES]): _value(chance, levels - 1) for _ in range(chance.randrange(4))}


def _weights(chance: random.Random) -> bytes:
    header = json.dumps(
        {"__metadata__": {"training_info": _value(chance, 2)}, "w": _value(chance, 3)}
    ).encode()
    length = chance.choice([len(header), 0, 2**40, 2**63, len(header) + 1])
    return struct.pack("<Q", length) + header + b"data"
