"""Validation of container groups, by the rules of salad-cloud.openapi.yaml and docs/services.md.

Unknown fields are dropped silently. A PATCH also drops `name`, `autostart_policy` and `restart_policy`, which its schema lacks.
"""

from __future__ import annotations

import re
from typing import Any

from localcloud.salad.catalog import COUNTRIES, GPU_IDS, PRIORITIES
from localcloud.salad.problems import ProblemError

NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
DISPLAY_NAME = re.compile(r"[ ,\-.0-9A-Za-z]{2,63}")
RESTART_POLICIES = ("always", "on_failure", "never")
GIB = 1024**3
# Field of `resources`: minimum, maximum (memory and shm in MB, storage in bytes).
RESOURCES = {
    "cpu": (1, 1024),
    "memory": (1024, 1073741824),
    "shm_size": (64, 1073741824),
    "storage_amount": (GIB, 1125899906842624),
}
MAX_IMAGE_CHARACTERS, MAX_PATCHED_IMAGE_CHARACTERS = 2048, 1024
# The document's pattern is `^.*$`, in which the dot does not match these.
LINE_BREAK = re.compile("[\n\r\u2028\u2029]")
_PROBE_NAMES = "failure_threshold initial_delay_seconds period_seconds success_threshold timeout_seconds"
_PROBE = tuple(_PROBE_NAMES.split())
# Fields that are stored as they are: type, and the members that an object must have.
PLAIN: dict[str, tuple[type, tuple[str, ...]]] = {
    "liveness_probe": (dict, _PROBE),
    "networking": (dict, ("auth", "port", "protocol")),
    "queue_autoscaler": (dict, ("desired_queue_length", "max_replicas", "min_replicas")),
    "queue_connection": (dict, ("path", "port", "queue_name")),
    "readiness_probe": (dict, _PROBE),
    "scaling-actions": (list, ()),
    "scheduled-scaling-enabled": (bool, ()),
    "startup_probe": (dict, _PROBE),
}
# A PATCH requires fewer members.
PATCHED_PLAIN = {**PLAIN, "networking": (dict, ())}
OF_CONTAINER: dict[str, tuple[type, tuple[str, ...]]] = {
    "image_caching": (bool, ()),
    "logging": (dict, ()),
    "registry_authentication": (dict, ()),
}
TYPES = {dict: "an object", list: "a list", bool: "true or false"}


class FieldErrors:
    """Collects what is wrong with each field."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}

    def add(self, field: str, rule: str) -> None:
        self.fields.setdefault(field, []).append(rule)

    def check(self, is_valid: bool, field: str, rule: str) -> None:
        if not is_valid:
            self.add(field, rule)

    def raise_if_any(self) -> None:
        """Raise ProblemError 400 if there are errors."""
        if self.fields:
            detail = "; ".join(f"{field}: {rules[0]}" for field, rules in self.fields.items())
            raise ProblemError(400, f"One or more validation errors occurred. {detail}"[:2000], self.fields)


def prototype(body: Any) -> dict[str, Any]:
    """The fields of a new container group. Raises ProblemError 400."""
    errors = FieldErrors()
    if not isinstance(body, dict):
        raise ProblemError(400, "The request body must be a JSON object.")
    for field in ("autostart_policy", "container", "name", "replicas", "restart_policy"):
        errors.check(body.get(field) is not None, field, "The field is required.")
    errors.raise_if_any()
    name, policy = body["name"], body["restart_policy"]
    errors.check(isinstance(name, str) and bool(NAME.fullmatch(name)), "name", f"must match ^{NAME.pattern}$")
    errors.check(isinstance(body["autostart_policy"], bool), "autostart_policy", "must be true or false")
    errors.check(
        policy in RESTART_POLICIES, "restart_policy", f"must be one of {', '.join(RESTART_POLICIES)}"
    )
    _check_container(body["container"], errors, new=True)
    _check_common(body, errors, PLAIN)
    errors.raise_if_any()
    kept = ("name", "autostart_policy", "restart_policy", "replicas", "display_name", "country_codes", *PLAIN)
    return {field: body[field] for field in kept if body.get(field) is not None} | {
        "container": _kept_container(body["container"])
    }


def patch(body: Any) -> dict[str, Any]:
    """The changes of a PATCH. Nulls are kept: they mean "remove". Raises ProblemError 400."""
    if not isinstance(body, dict):
        raise ProblemError(400, "The request body must be a JSON object.")
    errors = FieldErrors()
    if body.get("container") is not None:
        _check_container(body["container"], errors, new=False)
    _check_common(body, errors, PATCHED_PLAIN)
    errors.raise_if_any()
    changes = {
        field: body[field] for field in ("replicas", "display_name", "country_codes", *PLAIN) if field in body
    }
    if isinstance(body.get("container"), dict):
        changes["container"] = _without_required_nulls(_kept_container(body["container"]))
    return changes


def _without_required_nulls(container: dict[str, Any]) -> dict[str, Any]:
    """A null for a required member changes nothing."""
    required = ("image", "image_caching", "priority", "resources")
    kept = {name: value for name, value in container.items() if value is not None or name not in required}
    if "resources" in kept:
        kept["resources"] = {name: value for name, value in kept["resources"].items() if value is not None}
    return kept


def _check_common(
    body: dict[str, Any], errors: FieldErrors, plain: dict[str, tuple[type, tuple[str, ...]]]
) -> None:
    replicas, display = body.get("replicas"), body.get("display_name")
    if replicas is not None:
        errors.check(_is_whole(replicas, 0, 500), "replicas", "must be a whole number from 0 to 500")
    if display is not None:
        good = isinstance(display, str) and bool(DISPLAY_NAME.fullmatch(display))
        errors.check(good, "display_name", f"must match ^{DISPLAY_NAME.pattern}$")
    countries = body.get("country_codes")
    if countries is not None:
        good = isinstance(countries, list) and all(isinstance(c, str) and c in COUNTRIES for c in countries)
        errors.check(good and bool(countries), "country_codes", "must be a list of country codes, not empty")
    _check_plain(body, errors, plain, "")


def _check_plain(
    body: dict[str, Any], errors: FieldErrors, plain: dict[str, tuple[type, tuple[str, ...]]], where: str
) -> None:
    for field, (kind, required) in plain.items():
        value = body.get(field)
        if value is None:
            continue
        errors.check(isinstance(value, kind), where + field, f"must be {TYPES[kind]}")
        for name in required if isinstance(value, dict) else ():
            errors.check(value.get(name) is not None, f"{where}{field}.{name}", "The field is required.")


def _check_container(container: Any, errors: FieldErrors, new: bool) -> None:
    if not isinstance(container, dict):
        errors.add("container", "must be an object")
        return
    for field in ("image", "resources") if new else ():
        errors.check(container.get(field) is not None, f"container.{field}", "The field is required.")
    image = container.get("image")
    if image is not None:
        limit = MAX_IMAGE_CHARACTERS if new else MAX_PATCHED_IMAGE_CHARACTERS
        rule = f"must be 1 to {limit} characters in one line"
        errors.check(_is_text(image, limit), "container.image", rule)
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
    _check_environment(container.get("environment_variables"), errors, new)
    _check_resources(container.get("resources"), errors, new)
    _check_plain(container, errors, OF_CONTAINER, "container.")


def _check_environment(environment: Any, errors: FieldErrors, new: bool) -> None:
    if environment is None:
        return
    if not isinstance(environment, dict):
        errors.add("container.environment_variables", "must be an object")
        return
    for name, value in environment.items():
        # In a PATCH, null removes a variable. Messages do not quote values, which may be secrets.
        errors.check(
            (value is None and not new) or _is_text(value, 1000),
            f"container.environment_variables.{name}",
            "must be 1 to 1000 characters in one line, not empty",
        )


def _check_resources(resources: Any, errors: FieldErrors, new: bool) -> None:
    if resources is None:
        return
    if not isinstance(resources, dict):
        errors.add("container.resources", "must be an object")
        return
    for field in ("cpu", "memory") if new else ():
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
        known = isinstance(gpus, list) and all(isinstance(gpu, str) and gpu in GPU_IDS for gpu in gpus)
        errors.check(known, "container.resources.gpu_classes", "must be ids of known GPU classes")


def _kept_container(container: dict[str, Any]) -> dict[str, Any]:
    kept = ("command", "environment_variables", "image", "priority", "resources", *OF_CONTAINER)
    return {field: container[field] for field in kept if field in container}


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any, max_characters: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= max_characters and not LINE_BREAK.search(value)
