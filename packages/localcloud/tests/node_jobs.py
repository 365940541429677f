"""Container groups whose nodes reach the bucket, and training jobs as the product queues them (DESIGN.md)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from group_body import group_body

from tests.node.runs import run_files
from tests.support.cloud import kelpie_client, s3_client, salad_client, until

BUCKET = "node-tests"
FINAL = ("completed", "failed", "canceled")


@contextlib.contextmanager
def running_group(connection: dict[str, Any], name: str, **environment: str) -> Iterator[str]:
    """A group of one replica with the bucket's keys; yields its id. Afterwards it is gone."""
    keys = connection["s3"]
    given = {
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
        "AWS_REGION": "auto",
        "AWS_ENDPOINT_URL": keys["url"],
        "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
    }
    with salad_client(connection) as salad:
        body = group_body(name, container_environment_variables=given | environment)
        group = salad.post("/containers", json=body).raise_for_status().json()
        yield str(group["id"])
        salad.delete(f"/containers/{name}").raise_for_status()


def submit(connection: dict[str, Any], group: str, command: list[str], **job: Any) -> str:
    """Queue a job; gives its id."""
    body = {"container_group_id": group, "command": command[0], "arguments": command[1:], "sync": {}} | job
    with kelpie_client(connection) as kelpie:
        return str(kelpie.post("/jobs", json=body).raise_for_status().json()["id"])


def job_of(connection: dict[str, Any], identity: str) -> dict[str, Any]:
    """The job as Kelpie has it now."""
    with kelpie_client(connection) as kelpie:
        job: dict[str, Any] = kelpie.get(f"/jobs/{identity}").raise_for_status().json()
        return job


def ended(connection: dict[str, Any], identity: str, seconds: float = 40) -> dict[str, Any]:
    """The job, once it is in a final state."""
    return (
        until(lambda: job if (job := job_of(connection, identity))["status"] in FINAL else None, seconds)
        or {}
    )


class Bucket:
    """The test's bucket, made when it is not there."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._s3 = s3_client(connection)
        with contextlib.suppress(self._s3.exceptions.ClientError):
            self._s3.create_bucket(Bucket=BUCKET)

    def put(self, key: str, data: bytes | str) -> None:
        self._s3.put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=BUCKET, Key=key)

    def keys(self, prefix: str) -> list[str]:
        """Relative to the prefix."""
        found = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [item["Key"].removeprefix(prefix) for item in found]

    def json(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.get(key))
        return value


def queue_run(connection: dict[str, Any], group: str, job: str, **settings: Any) -> str:
    """Upload a run and queue it as the product does; gives the job's id."""
    bucket, base = Bucket(connection), f"runs/{job}/r"
    places = {
        "training-config": f"{base}/config",
        "dataset": f"datasets/{job}",
        f"output/{job}": f"{base}/output",
    }
    for name, data in run_files(job, **settings).items():
        folder, _, file = name.rpartition("/")
        bucket.put(f"{places[folder]}/{file}", data)

    def sync(prefix: str, local_path: str, direction: str) -> dict[str, str]:
        return {"bucket": BUCKET, "prefix": prefix, "local_path": local_path, "direction": direction}

    before = [sync(f"{prefix}/", f"{local}/", "download") for local, prefix in places.items()]
    during = [sync(f"{base}/output/", f"output/{job}/", "upload")]
    after = [sync(f"{base}/model/", "model/", "upload")]
    return submit(
        connection,
        group,
        ["python", "training-config/launch.py"],
        sync={"before": before, "during": during, "after": after},
        environment={"FLUX_RUN_ID": "0123456789ab", "FLUX_ATTEMPT": "1"},
    )
