"""What a run has left in the bucket, looked at with as few requests as it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clients.errors import NotFound
from clients.kelpie import Job, Kelpie
from clients.storage import ObjectInfo, Storage
from training.changes import Inputs
from training.lineage import PastRun
from training.run import Layout, RunKeys
from training.run_state import (
    CANCELED,
    PENDING,
    RUNNING,
    Evidence,
    Signs,
    Standing,
    explain,
    run_state,
    stall,
)
from training.weights import LENGTH_BYTES, WeightsHeader, header_length, parse_header, problems


@dataclass(frozen=True)
class Seen:
    """A run as just seen. `reason` is empty unless it counts as failed; `progress` is the launcher's progress.json."""

    state: str
    reason: str
    progress: dict[str, Any]


def see_run(storage: Storage, keys: RunKeys, steps: int, job: Job | None, stall_minutes: float) -> Seen:
    """What queue and bucket say of a run together. Raises ServiceError."""
    evidence = inspect_run(storage, keys, steps)
    waiting = job is not None and job.status == PENDING
    progress = {} if waiting else read_json(storage, keys.progress) or {}
    stalled = ""
    if job is not None and job.status == RUNNING and not evidence.done:
        stalled = stall(_signs(storage, keys, job), stall_minutes)
    state = run_state(job.status if job else None, evidence, stalled)
    return Seen(state, explain(state, evidence, str(progress.get("message") or ""), stalled), progress)


def _signs(storage: Storage, keys: RunKeys, job: Job) -> Signs:
    """By the services' clocks: a stranger's PC may think it is another year."""
    now = datetime.now(UTC)
    written = storage.head(keys.progress)
    begun = job.started or job.created or now
    worker = max(begun, job.heartbeat or begun)
    launcher = max(begun, written.modified if written and written.modified else begun)
    return Signs((now - worker).total_seconds(), (now - launcher).total_seconds(), job.heartbeat_interval)


def inspect_run(storage: Storage, keys: RunKeys, steps: int) -> Evidence:
    """One request while a run has not finished, four once it has. Raises ServiceError."""
    done = read_json(storage, keys.done)
    if done is None:
        return Evidence(done=False)
    return Evidence(done=True, problems=tuple(_weights_problems(storage, keys, steps)))


def read_json(storage: Storage, key: str) -> dict[str, Any] | None:
    """The object as a JSON mapping; None when there is none or it is something else."""
    raw = storage.get_bytes(key)
    if raw is None:
        return None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _weights_problems(storage: Storage, keys: RunKeys, steps: int) -> list[str]:
    weights = storage.head(keys.weights)
    if weights is None:
        return [f"{keys.weights} is missing"]
    try:
        header = weights_header(storage, keys.weights)
    except ValueError as error:
        return [str(error)]
    return problems(header, weights.size, steps)


def weights_header(storage: Storage, key: str) -> WeightsHeader:
    """The header of a safetensors object, in two small reads. Raises ValueError when it has none."""
    length = header_length(storage.get_range(key, 0, LENGTH_BYTES))
    return parse_header(storage.get_range(key, 0, LENGTH_BYTES + length))


def past_runs(storage: Storage, layout: Layout, job: str) -> list[PastRun]:
    """The runs of a job that the bucket knows of."""
    folder = f"{layout.runs}{job}/"
    found = []
    for run in storage.list_folders(folder):
        record = read_json(storage, layout.run(job, run).record)
        if record is not None:
            found.append(PastRun(run, str(record.get("created_at", ""))))
    return found


def newest_sound(storage: Storage, keys: RunKeys) -> tuple[str, int] | None:
    """(key, step) of the run's checkpoint with the most steps among those that are whole."""
    files = [item for item in storage.list(keys.output) if "/" not in item.key.removeprefix(keys.output)]
    sound = [
        (item.key, header.step)
        for item in files
        if item.key.endswith(".safetensors")
        and (header := _sound_header(storage, item)) is not None
        and header.step is not None
    ]
    return max(sound, key=lambda found: found[1], default=None)


def _sound_header(storage: Storage, item: ObjectInfo) -> WeightsHeader | None:
    try:
        header = weights_header(storage, item.key)
    except ValueError:
        return None
    return header if header.tensors and header.data_end == item.size else None


def standing_of(storage: Storage, kelpie: Kelpie, keys: RunKeys, steps: int) -> Standing:
    """Whether a run is still to be trained. One request for a new run, four for a finished one; unfinished ones ask the queue."""
    if inspect_run(storage, keys, steps).finished:
        return Standing.FINISHED
    job_id = (read_json(storage, keys.claim) or {}).get("kelpie_id")
    if not job_id:
        return Standing.NEW
    try:
        job = kelpie.get_job(str(job_id))
    except NotFound:
        return Standing.NEW
    if job.unfinished:
        return Standing.UNFINISHED
    return Standing.CANCELED if job.status == CANCELED else Standing.FAILED


def inputs_of_run(storage: Storage, keys: RunKeys) -> Inputs | None:
    """What a past run was made of; None when the bucket does not have it whole."""
    manifest = storage.get_bytes(f"{keys.config}manifest.json")
    raw_config = storage.get_bytes(f"{keys.config}train.yml")
    record = read_json(storage, keys.record)
    if manifest is None or raw_config is None or record is None:
        return None
    attempt, parent = record.get("attempt"), record.get("parent")
    return Inputs(manifest, raw_config, attempt if isinstance(attempt, int) else 1, parent)
