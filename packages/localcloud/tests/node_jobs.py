"""Container groups whose nodes can reach a test bucket, and jobs for them."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from group_body import group_body
from localcloud.testing import kelpie_client, s3_client, salad_client, wait_until

BUCKET = "node-tests"
FINAL = ("completed", "failed", "canceled")


@contextlib.contextmanager
def running_group(connection: dict[str, Any], name: str, **environment: str) -> Iterator[str]:
    """A group with one replica that has the bucket's keys; yields its id, and deletes it at the end."""
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
    """Queue a job; return its id."""
    body = {"container_group_id": group, "command": command[0], "arguments": command[1:], "sync": {}} | job
    with kelpie_client(connection) as kelpie:
        return str(kelpie.post("/jobs", json=body).raise_for_status().json()["id"])


def job_of(connection: dict[str, Any], identity: str) -> dict[str, Any]:
    """The current state of the job."""
    with kelpie_client(connection) as kelpie:
        job: dict[str, Any] = kelpie.get(f"/jobs/{identity}").raise_for_status().json()
        return job


def ended(connection: dict[str, Any], identity: str, seconds: float = 40) -> dict[str, Any]:
    """Wait until the job is in a final state."""
    return (
        wait_until(lambda: job if (job := job_of(connection, identity))["status"] in FINAL else None, seconds)
        or {}
    )


class NodeBucket:
    """The test bucket; it is created when it does not exist."""

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
        """The keys below the prefix, relative to it."""
        found = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [item["Key"].removeprefix(prefix) for item in found]

    def json(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.get(key))
        return value
