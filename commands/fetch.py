"""Results from the bucket to outputs/<job>/<run id>/. What is there already is not fetched again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from clients.kelpie import Job
from clients.results import read_json
from clients.storage import Storage
from commands.stack_jobs import Sight
from training.bill import cost_of
from training.errors import FluxError

RECORD = "run.json"


def fetch(sight: Sight, storage: Storage, folder: Path) -> Path:
    """Bring one run's weights, samples, train.yml, progress and loss; returns where they lie. Raises ServiceError."""
    keys = sight.job.keys
    target = folder / sight.job.name / sight.job.run_id
    wanted = {f"{keys.config}train.yml": "train.yml", f"{keys.output}loss.csv": "loss.csv"}
    wanted |= {
        item.key: item.key.removeprefix(keys.output) for item in storage.list(f"{keys.output}samples/")
    }
    wanted |= {keys.weights: f"{sight.job.name}.safetensors"}
    # Small and rewritten while a run lasts: always anew.
    fresh = {keys.progress: "progress.json", keys.done: "done.json"}
    digest = (read_json(storage, keys.done) or {}).get("sha256")
    for key, name in wanted.items():
        info = storage.head(key)
        path = place_below(target, name)
        known = digest if key == keys.weights else None
        if info is None or is_same(path, info.size, known):
            continue
        storage.download(key, path, sha256=known)
    for key, name in fresh.items():
        if storage.head(key) is not None:
            storage.download(key, target / name)
    write_record(target / RECORD, read_json(storage, keys.record) or {}, sight)
    return target


def place_below(folder: Path, name: str) -> Path:
    """Raises FluxError for a name that would leave the folder: nodes are strangers' PCs, and they choose these names."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FluxError(
            f"the bucket holds a sample named {name!r}",
            "a result stays below its folder",
            "delete that object",
        )
    return path


def is_same(path: Path, size: int, sha256: str | None) -> bool:
    """Whether the file is there already. Two trainings of a LoRA have one size: where a digest is known it decides."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    return sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def write_record(path: Path, record: dict[str, Any], sight: Sight) -> None:
    """run.json completed with what the queue knows (the recipe's kelpie_job.json; kept when it knows no more) and what the run cost."""
    queue = _queue_facts(sight.queue_job)
    if queue is None:
        queue = _queue_facts_before(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {**record, "state": sight.state, "kelpie": queue, "cost": cost_of(record, sight.progress)}
    text = json.dumps(facts, indent=2, sort_keys=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _queue_facts(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    facts = {"id", "status", "container_group_id", "machine_id", "num_heartbeats", "num_failures"}
    times = {"created", "started", "completed", "failed", "canceled", "heartbeat"}
    return job.model_dump(mode="json", include=facts | times, exclude_none=True)


def _queue_facts_before(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("kelpie")
    except (OSError, ValueError, AttributeError):
        return None
