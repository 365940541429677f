"""What a run has left in the bucket, looked at with as few requests as it takes."""

from __future__ import annotations

import json
from typing import Any

from clients.storage import Storage
from training.lineage import PastRun
from training.run import Layout, RunKeys
from training.run_state import Evidence
from training.weights import LENGTH_BYTES, WeightsHeader, header_length, parse_header, problems


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
    except ValueError:
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
