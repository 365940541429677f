"""What SaladCloud accepts for a container group: salad-cloud.openapi.yaml and UPSTREAM.md.

Unknown fields are dropped silently, and so are, in a PATCH, those that its schema lacks (`name`, `autostart_policy`,
`restart_policy`).
"""

from __future__ import annotations

import re
from typing import Any

from localcloud.salad.catalog import GPU_IDS, PRIORITIES
from localcloud.salad.problems import ProblemError

NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
DISPLAY_NAME = re.compile(r"[ ,\-.0-9A-Za-z]{2,63}")
RESTART_POLICIES = ("always", "on_failure", "never")
GIB = 1024**3
# field of `resources` -> least, most (memory and shm in MB, storage in bytes)
RESOURCES = {
    "cpu": (1, 1024),
    "memory": (1024, 1073741824),
    "shm_size": (64, 1073741824),
    "storage_amount": (GIB, 1125899906842624),
}
# Kept and shown as they came.
PLAIN = (
    "liveness_probe",
    "networking",
    "queue_autoscaler",
    "queue_connection",
    "readiness_probe",
    "scaling-actions",
    "scheduled-scaling-enabled",
    "startup_probe",
)


class Errors:
    """Findings by field."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}

    def add(self, field: str, rule: str) -> None:
        """Note one."""
        self.fields.setdefault(field, []).append(rule)

    def check(self, good: bool, field: str, rule: str) -> None:
        """Note one unless `good`."""
        if not good:
            self.add(field, rule)

    def done(self) -> None:
        """Raise ProblemError 400 when anything was noted."""
        if self.fields:
            detail = "; ".join(f"{field}: {rules[0]}" for field, rules in self.fields.items())
            raise ProblemError(400, f"One or more validation errors occurred. {detail}"[:2000], self.fields)


def prototype(body: Any) -> dict[str, Any]:
    """The fields of a new container group. Raises ProblemError 400."""
    errors = Errors()
    if not isinstance(body, dict):
        raise ProblemError(400, "The request body must be a JSON object.")
    for field in ("autostart_policy", "container", "name", "replicas", "restart_policy"):
        errors.check(body.get(field) is not None, field, "The field is required.")
    errors.done()
    name, policy = body["name"], body["restart_policy"]
    errors.check(isinstance(name, str) and bool(NAME.fullmatch(name)), "name", f"must match ^{NAME.pattern}$")
    errors.check(isinstance(body["autostart_policy"], bool), "autostart_policy", "must be true or false")
    errors.check(
        policy in RESTART_POLICIES, "restart_policy", f"must be one of {', '.join(RESTART_POLICIES)}"
    )
    _check_container(body["container"], errors, required=True)
    _check_common(body, errors)
    errors.done()
    kept = ("name", "autostart_policy", "restart_policy", "replicas", "display_name", "country_codes", *PLAIN)
    return {field: body[field] for field in kept if body.get(field) is not None} | {
        "container": _kept_container(body["container"])
    }


def patch(body: Any) -> dict[str, Any]:
    """The changes of a PATCH that count; nulls are kept, they mean "remove". Raises ProblemError 400."""
    if not isinstance(body, dict):
        raise ProblemError(400, "The request body must be a JSON object.")
    errors = Errors()
    if body.get("container") is not None:
        _check_container(body["container"], errors, required=False)
    _check_common(body, errors)
    errors.done()
    changes = {
        field: body[field] for field in ("replicas", "display_name", "country_codes", *PLAIN) if field in body
    }
    if isinstance(body.get("container"), dict):
        changes["container"] = _without_required_nulls(_kept_container(body["container"]))
    return changes


def _without_required_nulls(container: dict[str, Any]) -> dict[str, Any]:
    """null where a container must have something changes nothing."""
    needed = ("image", "image_caching", "priority", "resources")
    kept = {name: value for name, value in container.items() if value is not None or name not in needed}
    if "resources" in kept:
        kept["resources"] = {name: value for name, value in kept["resources"].items() if value is not None}
    return kept


def _check_common(body: dict[str, Any], errors: Errors) -> None:
    replicas, display = body.get("replicas"), body.get("display_name")
    if replicas is not None:
        errors.check(_is_whole(replicas, 0, 500), "replicas", "must be a whole number from 0 to 500")
    if display is not None:
        good = isinstance(display, str) and bool(DISPLAY_NAME.fullmatch(display))
        errors.check(good, "display_name", f"must match ^{DISPLAY_NAME.pattern}$")
    countries = body.get("country_codes")
    if countries is not None:
        good = isinstance(countries, list) and all(isinstance(c, str) and len(c) == 2 for c in countries)
        errors.check(
            good and bool(countries), "country_codes", "must be a list of two-letter codes, not empty"
        )


def _check_container(container: Any, errors: Errors, required: bool) -> None:
    if not isinstance(container, dict):
        errors.add("container", "must be an object")
        return
    for field in ("image", "resources") if required else ():
        errors.check(container.get(field) is not None, f"container.{field}", "The field is required.")
    image = container.get("image")
    if image is not None:
        errors.check(_is_text(image, 2048), "container.image", "must be 1 to 2048 characters")
    priority = container.get("priority")
    errors.check(
        priority is None or priority in PRIORITIES,
        "container.priority",
        f"must be one of {', '.join(PRIORITIES)}",
    )
    command = container.get("command")
    if command is not None:
        good = (
            isinstance(command, list)
            and len(command) <= 100
            and all(_is_text(part, 1000) for part in command)
        )
        errors.check(good, "container.command", "must be a list of at most 100 texts of 1 to 1000 characters")
    _check_environment(container.get("environment_variables"), errors)
    _check_resources(container.get("resources"), errors, required)


def _check_environment(environment: Any, errors: Errors) -> None:
    if environment is None:
        return
    if not isinstance(environment, dict):
        errors.add("container.environment_variables", "must be an object")
        return
    for name, value in environment.items():
        # null removes a variable in a merge patch; no value is ever named, it may be a secret.
        errors.check(
            value is None or _is_text(value, 1000),
            f"container.environment_variables.{name}",
            "must be 1 to 1000 characters, not empty",
        )


def _check_resources(resources: Any, errors: Errors, required: bool) -> None:
    if resources is None:
        return
    if not isinstance(resources, dict):
        errors.add("container.resources", "must be an object")
        return
    for field in ("cpu", "memory") if required else ():
        errors.check(
            resources.get(field) is not None, f"container.resources.{field}", "The field is required."
        )
    for field, (low, high) in RESOURCES.items():
        value = resources.get(field)
        if value is not None:
            good = _is_whole(value, low, high)
            errors.check(good, f"container.resources.{field}", f"must be a whole number from {low} to {high}")
    gpus = resources.get("gpu_classes")
    if gpus is not None:
        known = isinstance(gpus, list) and all(gpu in GPU_IDS for gpu in gpus)
        errors.check(known, "container.resources.gpu_classes", "must be ids of known GPU classes")


def _kept_container(container: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "command",
        "environment_variables",
        "image",
        "image_caching",
        "logging",
        "priority",
        "registry_authentication",
        "resources",
    )
    return {field: container[field] for field in kept if field in container}


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= most
