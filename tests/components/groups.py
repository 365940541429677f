"""Container groups and buckets: as SaladCloud describes them, as we request them, and as properties of a resource."""

import os
from itertools import count
from typing import Any, TypeVar

import httpx
from localcloud.testing import wait_until

from components.properties import Props
from components.provider import FluxProvider, home
from flux_training.clients.connection import Connection
from flux_training.clients.kelpie import Job
from flux_training.clients.salad import GIB, ContainerGroup, GroupSpec

OWNER = "flux-training/dev"
P = TypeVar("P", bound=FluxProvider)
_numbers = count()


def new_name() -> str:
    """Not used before in the local cloud."""
    return f"test-{os.getpid()}-{next(_numbers)}"


def provider_of(kind: type[P], connection: Connection) -> P:
    made = kind()
    made.connection = connection
    made.cluster_environments = {}
    return made


GROUP: Props = {
    "image": "some/image:1",
    "gpu": "RTX 5090",
    "priority": "batch",
    "cpu": 2,
    "memory": 8,
    "storage": 10,
    "replicas": 0,
    "autoscale": True,
    "variables": "",
    "credentials": "",
    "owner": OWNER,
    "adopt": False,
}


def group_props(connection: Connection, **changes: Any) -> Props:
    return GROUP | {"home": home(connection), "name": new_name()} | changes


def bucket_props(connection: Connection, bucket: str, **changes: Any) -> Props:
    values: Props = {
        "home": home(connection),
        "kind": "s3",
        "bucket": bucket,
        "prefix": "",
        "location": None,
        "owner": OWNER,
        "adopt": False,
        "results": "delete",
        "retention": None,
    }
    return values | changes


def group(
    status: str = "running", replicas: int = 2, environment: dict[str, str] | None = None, **changes: Any
) -> ContainerGroup:
    resources = {"cpu": 4, "memory": 30 * 1024, "storage_amount": 50 * GIB, "gpu_classes": ["gpu"]}
    values: dict[str, Any] = {
        "id": "g",
        "name": "name",
        "display_name": "name",
        "priority": "high",
        "replicas": replicas,
        "container": {
            "image": "image",
            "resources": resources | changes.pop("resources", {}),
            "environment_variables": {"FLUX_OWNER": "p/s"} if environment is None else environment,
        },
        "current_state": {"status": status},
    }
    return ContainerGroup(**(values | changes))


def spec(**changes: Any) -> GroupSpec:
    values: dict[str, Any] = {
        "name": "name",
        "display_name": "name",
        "image": "image",
        "cpu": 4,
        "memory": 30 * 1024,
        "storage": 50 * GIB,
        "gpu_classes": ["gpu"],
        "priority": "high",
        "replicas": 2,
        "environment": {"FLUX_OWNER": "p/s"},
    }
    return GroupSpec(**(values | changes))


def report(connection: Connection, job: Job, what: str) -> None:
    """As a worker does: take the job and say how it ended."""
    headers = {
        "Salad-Api-Key": connection.api_key.get_secret_value(),
        "Salad-Organization": connection.organization,
        "Salad-Project": connection.project,
    }
    body: dict[str, Any] = {"machine_id": "m", "container_group_id": job.container_group_id}
    with httpx.Client(base_url=connection.kelpie_url, headers=headers) as client:
        client.get("/work", params=body).raise_for_status()
        client.post(f"/jobs/{job.id}/{what}", json=body).raise_for_status()
    # A failure is counted at once, but reported only once the heartbeats have stopped for a while (docs/services.md).
    wait_until(lambda: connection.kelpie().get_job(job.id).status == what)
