"""Results from the bucket to outputs/<job>/<run id>/. What is there is not fetched again; what a person changed is left alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_training.clients.errors import ServiceError
from flux_training.clients.kelpie import Job
from flux_training.clients.results import read_json
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results.download import download, sha256_of
from flux_training.commands.watch.job_status import Sight
from flux_training.training.bill import cost_of
from flux_training.training.errors import FluxError
from flux_training.training.files import write_atomically
from flux_training.training.names import IMAGE_SUFFIXES
from flux_training.training.runs.run import RunKeys
from flux_training.training.words import one_line

RECORD = "run.json"
# What was fetched, by name: its ETag, size and SHA-256. A file that is still so is ours to renew.
INDEX = ".fetched.json"
# Rewritten while a run lasts, by us and by the launcher: nothing that a person edits.
RECORDS = frozenset({"progress.json", "done.json", "loss.csv", RECORD})
AT_ONCE = 8

Index = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wish:
    """One object and the file it shall be; `sha256` where the run itself says it."""

    info: ObjectInfo
    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Options:
    """`force` overwrites files that differ; `checkpoints` brings those between as well. `told` hears of bytes to come and come."""

    force: bool = False
    checkpoints: bool = False
    expect: Callable[[int], None] = field(default=lambda _: None)
    told: Callable[[int], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Fetched:
    """Where a run's results lie. `differing` were left alone because a person may have changed them; `failed` says why."""

    place: Path
    new: int
    kept: int
    differing: list[str]
    failed: list[str]


def fetch(
    sight: Sight, storage: Storage, folder: Path, price: float | None = None, options: Options | None = None
) -> Fetched:
    """Bring one run's weights, samples, train.yml, captions, progress and loss.

    `price` (dollars an hour) goes into run.json with what it makes. Raises ServiceError when the bucket cannot be listed,
    FluxError for a name that leaves the folder.
    """
    options = options or Options()
    keys = sight.job.keys
    target = folder / sight.job.name / sight.job.run_id
    done = read_json(storage, keys.done) or {}
    digest = done.get("sha256")
    wishes = _wishes(storage, keys, digest if isinstance(digest, str) else None, options.checkpoints)
    index = _read_index(target)
    decided = {
        wish.name: decide(wish, place_below(target, wish.name), index.get(wish.name)) for wish in wishes
    }
    wanted = [
        wish
        for wish in wishes
        if decided[wish.name] == "fetch" or (options.force and decided[wish.name] == "differs")
    ]
    options.expect(sum(wish.info.size for wish in wanted))
    faults = _fetch_all(storage, wanted, target, options)
    there = [wish for wish in wishes if decided[wish.name] == "keep" or wish in wanted]
    _write_index(target, index, [wish for wish in there if wish.name not in faults])
    write_record(target / RECORD, read_json(storage, keys.record) or {}, sight, price)
    left = [] if options.force else [name for name, verdict in decided.items() if verdict == "differs"]
    failed = [f"{one_line(name)}: {fault}" for name, fault in faults.items()]
    return Fetched(target, len(wanted) - len(failed), len(wishes) - len(wanted) - len(left), left, failed)


def decide(wish: Wish, path: Path, known: Mapping[str, Any] | None) -> str:
    """`keep` what is the object already, `fetch` what is missing or ours and older, else `differs`."""
    if not path.exists():
        return "fetch"
    if not path.is_file():
        return "differs"
    size = path.stat().st_size
    here = sha256_of(path)
    ours = known is not None and known.get("sha256") == here
    if ours and known is not None and known.get("etag") == wish.info.etag:
        return "keep" if wish.sha256 in (None, here) else "fetch"
    if size == wish.info.size and _is_object(wish, path, here):
        return "keep"
    return "fetch" if ours or (known is None and wish.name in RECORDS) else "differs"


def place_below(folder: Path, name: str) -> Path:
    """Raises FluxError for a name that would leave the folder: nodes are strangers' PCs, and they choose these names."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FluxError(
            f"the bucket holds a sample named {one_line(name)!r}",
            "a result stays below its folder",
            "delete that object",
        )
    return path


def write_record(path: Path, record: dict[str, Any], sight: Sight, price: float | None = None) -> None:
    """run.json completed with what the queue knows (the recipe's kelpie_job.json) and what it cost.

    What was known and is no longer told is kept: the queue forgets jobs, and a group that is gone has no price.
    """
    before = _read(path)
    facts = {
        "state": sight.state,
        "reason": sight.reason or None,
        "kelpie": _queue_facts(sight.queue_job) or before.get("kelpie"),
        "cost": _cost(record, sight, price) or before.get("cost"),
    }
    _write_json(path, {**record, **facts})


def _wishes(storage: Storage, keys: RunKeys, digest: str | None, checkpoints: bool) -> list[Wish]:
    """What of a run's objects a person wants, named as it shall be here: one listing."""
    names = {
        f"{keys.config}train.yml": "train.yml",
        f"{keys.config}manifest.json": "manifest.json",
        f"{keys.output}loss.csv": "loss.csv",
        keys.progress: "progress.json",
        keys.done: "done.json",
        keys.weights: f"{keys.job}.safetensors",
    }
    found = []
    for info in storage.list(keys.base):
        name = names.get(info.key) or _output_name(info.key.removeprefix(keys.output), keys.job, checkpoints)
        if name:
            found.append(Wish(info, name, digest if info.key == keys.weights else None))
    return found


def _output_name(name: str, job: str, checkpoints: bool) -> str:
    """Samples as they are called, checkpoints below checkpoints/; empty for what is neither. A node chose these names."""
    if name.startswith("samples/") and name.lower().endswith(IMAGE_SUFFIXES):
        return "" if name.startswith("samples/.") and not name.startswith("samples/..") else name
    is_checkpoint = name.startswith(f"{job}_") and name.endswith(".safetensors") and "/" not in name
    return f"checkpoints/{name}" if checkpoints and is_checkpoint else ""


def _fetch_all(storage: Storage, wishes: list[Wish], target: Path, options: Options) -> dict[str, str]:
    """Fetch them; what went wrong, by name."""

    def one(wish: Wish) -> str:
        try:
            download(storage, wish.info, place_below(target, wish.name), wish.sha256, options.told)
        except (ServiceError, OSError) as error:
            return str(error.strerror if isinstance(error, OSError) else error)
        return ""

    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            faults = list(pool.map(one, wishes))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {wish.name: fault for wish, fault in zip(wishes, faults, strict=True) if fault}


def _is_object(wish: Wish, path: Path, here: str) -> bool:
    """By the digest the run tells; else by the ETag, which is the MD5 of what was not sent in parts; else by its size, which is the same."""
    if wish.sha256 is not None:
        return here == wish.sha256
    if len(wish.info.etag) == 32 and "-" not in wish.info.etag:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == wish.info.etag
    return True


def _read_index(target: Path) -> Index:
    entries = _read(target / INDEX).get("files")
    return {k: v for k, v in entries.items() if isinstance(v, dict)} if isinstance(entries, dict) else {}


def _write_index(target: Path, before: Index, wishes: list[Wish]) -> None:
    fresh = {
        wish.name: {"etag": wish.info.etag, "size": wish.info.size, "sha256": sha256_of(target / wish.name)}
        for wish in wishes
        if (target / wish.name).is_file()
    }
    if fresh != before:
        _write_json(target / INDEX, {"version": 1, "files": {**before, **fresh}})


def _queue_facts(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    facts = {"id", "status", "container_group_id", "machine_id", "num_heartbeats", "num_failures"}
    times = {"created", "started", "completed", "failed", "canceled", "heartbeat"}
    return job.model_dump(mode="json", include=facts | times, exclude_none=True)


def _cost(record: Mapping[str, Any], sight: Sight, price: float | None) -> dict[str, Any] | None:
    """By the price at which it was queued, else by the one of now; None where neither is known."""
    estimate = record.get("estimate") or {"usd_an_hour": price}
    cost = cost_of({"estimate": estimate}, {"gpu_seconds": sight.told.gpu_seconds})
    return cost if "actualUsd" in cost else None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
