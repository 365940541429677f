"""Request bodies: a container group and a job."""

from typing import Any

RTX_5090 = "851399fb-7329-4195-a042-d6514b28cf33"


def group_body(name: str = "g1", **changes: Any) -> dict[str, Any]:
    """The body of a POST. `changes` replace its fields, and `container_…` fields of its container."""
    container = {
        "image": "saladtechnologies/ai-toolkit:cuda12.8-flux1-dev-kelpie",
        "resources": {"cpu": 4, "memory": 16384, "storage_amount": 53687091200, "gpu_classes": [RTX_5090]},
        "environment_variables": {"FLUX_OWNER": "flux-training/dev"},
        "priority": "high",
    }
    body: dict[str, Any] = {
        "name": name,
        "autostart_policy": True,
        "restart_policy": "always",
        "replicas": 1,
        "container": container,
    }
    for field, value in changes.items():
        if field.startswith("container_"):
            container[field.removeprefix("container_")] = value
        else:
            body[field] = value
    return body


def job_body(group_id: str, **changes: Any) -> dict[str, Any]:
    """A small job."""
    sync = {"before": [{"bucket": "b", "prefix": "p", "local_path": "d/", "direction": "download"}]}
    return {"container_group_id": group_id, "command": "python", "sync": sync} | changes
