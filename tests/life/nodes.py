"""Does what a node does with the bucket and the queue, without a node."""

import json
import struct

import httpx

from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job
from flux_training.clients.storage import Storage
from flux_training.training.runs.run import RunKeys

STEPS = 20


def leave_weights(storage: Storage, keys: RunKeys) -> None:
    """Store what the launcher stores for a finished run."""
    header = {
        "__metadata__": {"training_info": json.dumps({"step": STEPS})},
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    storage.put_bytes(keys.weights, struct.pack("<Q", len(text)) + text + bytes(4))
    storage.put_bytes(keys.done, b"{}")


def begin_job(known: Connection, group_id: str) -> None:
    """Take the next job of the queue, as a worker does."""
    query = {"machine_id": "m", "container_group_id": group_id}
    httpx.get(f"{known.kelpie_url}/work", params=query, headers=_headers(known)).raise_for_status()


def report(known: Connection, job: Job, what: str) -> None:
    """Report a job as a worker does; a failure as often as the queue retries it."""
    headers = _headers(known)
    body = {"machine_id": "m", "container_group_id": job.container_group_id}
    for _ in range(job.max_failures if what == "failed" else 1):
        httpx.post(f"{known.kelpie_url}/jobs/{job.id}/{what}", json=body, headers=headers).raise_for_status()
    assert known.kelpie().get_job(job.id).status == what


def _headers(known: Connection) -> dict[str, str]:
    return {
        "Salad-Api-Key": known.api_key.get_secret_value(),
        "Salad-Organization": known.organization,
        "Salad-Project": known.project,
        "User-Agent": "kelpie-node",
    }
