"""A container group as SaladCloud tells of it, and what we ask for: the same, unless told otherwise."""

from __future__ import annotations

from typing import Any

from flux_training.clients.salad import GIB, ContainerGroup, GroupSpec


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
