"""Validation of container groups, by the rules of salad-cloud.openapi.yaml and docs/services.md.

Unknown fields are dropped silently. A PATCH also drops `name`, `autostart_policy` and `restart_policy`, which its schema lacks.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from localcloud.salad.catalog import COUNTRIES, GPU_IDS, PRIORITIES
from localcloud.salad.problems import ProblemError

GIB = 1024**3
PROBE = (
    "failure_threshold",
    "initial_delay_seconds",
    "period_seconds",
    "success_threshold",
    "timeout_seconds",
)


class FieldRule:
    """The rule of a field: its type, and its text for the answer."""

    def __init__(self, kind: Any, text: str) -> None:
        self._adapter, self.text = TypeAdapter(kind), text

    def is_valid(self, value: Any) -> bool:
        try:
            self._adapter.validate_python(value, strict=True)
        except ValidationError:
            return False
        return True


Rules = Mapping[str, FieldRule]


def line(max_characters: int) -> Any:
    # SaladCloud's API document has the pattern `^.*$`, in which the dot does not match these line breaks.
    pattern = "^[^\n\r\u2028\u2029]*$"
    return Annotated[str, Field(min_length=1, max_length=max_characters, pattern=pattern)]


def whole(low: int, high: int) -> FieldRule:
    return FieldRule(Annotated[int, Field(ge=low, le=high)], f"must be a whole number from {low} to {high}")


def must_match_pattern(pattern: str) -> FieldRule:
    return FieldRule(Annotated[str, Field(pattern=f"^{pattern}$")], f"must match ^{pattern}$")


def one_of(*options: str) -> FieldRule:
    return FieldRule(Literal[options], f"must be one of {', '.join(options)}")


def image(max_characters: int) -> FieldRule:
    return FieldRule(line(max_characters), f"must be 1 to {max_characters} characters in one line")


OBJECT = FieldRule(dict[str, Any], "must be an object")
LIST = FieldRule(list[Any], "must be a list")
BOOLEAN = FieldRule(bool, "must be true or false")
COUNTRY_CODES: Any = Annotated[list[Literal[tuple(COUNTRIES)]], Field(min_length=1)]  # type: ignore[misc]  # a computed type
COMMAND: Any = Annotated[list[line(1000)], Field(max_length=100)]  # type: ignore[misc]  # a computed type
ENVIRONMENT_VALUE = FieldRule(line(1000), "must be 1 to 1000 characters in one line, not empty")
OF_NEW_GROUP = {
    "name": must_match_pattern("[a-z][a-z0-9-]{0,61}[a-z0-9]"),
    "autostart_policy": BOOLEAN,
    "restart_policy": one_of("always", "on_failure", "never"),
}
OF_GROUP = {
    "replicas": whole(0, 500),
    "display_name": must_match_pattern(r"[ ,\-.0-9A-Za-z]{2,63}"),
    "country_codes": FieldRule(COUNTRY_CODES, "must be a list of country codes, not empty"),
    "liveness_probe": OBJECT,
    "networking": OBJECT,
    "queue_autoscaler": OBJECT,
    "queue_connection": OBJECT,
    "readiness_probe": OBJECT,
    "scaling-actions": LIST,
    "scheduled-scaling-enabled": BOOLEAN,
    "startup_probe": OBJECT,
}
# For each of these fields of a container group, the members that it must have.
MEMBERS = {
    "liveness_probe": PROBE,
    "queue_autoscaler": ("desired_queue_length", "max_replicas", "min_replicas"),
    "queue_connection": ("path", "port", "queue_name"),
    "readiness_probe": PROBE,
    "startup_probe": PROBE,
}
NEW_MEMBERS = MEMBERS | {"networking": ("auth", "port", "protocol")}
OF_CONTAINER = {
    "image": image(1024),
    "priority": one_of(*PRIORITIES),
    "command": FieldRule(COMMAND, "must be a list of at most 100 texts of 1 to 1000 characters"),
    "environment_variables": OBJECT,
    "resources": OBJECT,
    "image_caching": BOOLEAN,
    "logging": OBJECT,
    "registry_authentication": OBJECT,
}
OF_NEW_CONTAINER = OF_CONTAINER | {"image": image(2048)}
# Memory and shared memory are in MB, storage is in bytes.
GPU_CLASS_IDS: Any = list[Literal[tuple(GPU_IDS)]]  # type: ignore[misc]  # a computed type
OF_RESOURCES = {
    "cpu": whole(1, 1024),
    "memory": whole(1024, 1073741824),
    "shm_size": whole(64, 1073741824),
    "storage_amount": whole(GIB, 1125899906842624),
    "gpu_classes": FieldRule(GPU_CLASS_IDS, "must be ids of known GPU classes"),
}


class BodyCheck:
    """Collects what is wrong with each field of a request body. Raises ProblemError 400 if it is not an object."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ProblemError(400, "The request body must be a JSON object.")
        self._errors: dict[str, list[str]] = {}

    def check(self, value: Any, rules: Rules, required: tuple[str, ...] = (), where: str = "") -> None:
        """Check the fields of an object. Null counts as missing."""
        if not isinstance(value, dict):
            return
        for field in required:
            if value.get(field) is None:
                self._errors[where + field] = ["The field is required."]
        for field, rule in rules.items():
            if value.get(field) is not None and not rule.is_valid(value[field]):
                self._errors[where + field] = [rule.text]

    def check_members(self, body: dict[str, Any], members: Mapping[str, tuple[str, ...]]) -> None:
        for field, required in members.items():
            self.check(body.get(field), {}, required, f"{field}.")

    def check_container(self, container: Any, *, new: bool) -> None:
        self.check({"container": container}, {"container": OBJECT})
        if not isinstance(container, dict):
            return
        rules, required = (OF_NEW_CONTAINER, ("image", "resources")) if new else (OF_CONTAINER, ())
        self.check(container, rules, required, "container.")
        required = ("cpu", "memory") if new else ()
        self.check(container.get("resources"), OF_RESOURCES, required, "container.resources.")
        self._check_environment(container.get("environment_variables"), new=new)

    def _check_environment(self, environment: Any, *, new: bool) -> None:
        for name, value in environment.items() if isinstance(environment, dict) else ():
            # A null removes a variable in a PATCH request. Error messages do not quote values, because
            # they may be secrets.
            if not ENVIRONMENT_VALUE.is_valid(value) and (new or value is not None):
                self._errors[f"container.environment_variables.{name}"] = [ENVIRONMENT_VALUE.text]

    def raise_if_any(self) -> None:
        """Raise ProblemError 400 if there are errors."""
        if self._errors:
            detail = "; ".join(f"{field}: {rules[0]}" for field, rules in self._errors.items())
            raise ProblemError(400, f"One or more validation errors occurred. {detail}"[:2000], self._errors)


def validated_new_group(body: Any) -> dict[str, Any]:
    """The fields of a new container group. Raises ProblemError 400."""
    check = BodyCheck(body)
    check.check(body, {}, required=("autostart_policy", "container", "name", "replicas", "restart_policy"))
    check.raise_if_any()
    check.check(body, OF_NEW_GROUP)
    check.check_container(body["container"], new=True)
    check.check(body, OF_GROUP)
    check.check_members(body, NEW_MEMBERS)
    check.raise_if_any()
    kept = {field: body[field] for field in (*OF_NEW_GROUP, *OF_GROUP) if body.get(field) is not None}
    return kept | {"container": _kept(body["container"], OF_CONTAINER)}


def patch(body: Any) -> dict[str, Any]:
    """The changes of a PATCH. Nulls are kept: they mean "remove". Raises ProblemError 400."""
    check = BodyCheck(body)
    check.check_container(body.get("container"), new=False)
    check.check(body, OF_GROUP)
    check.check_members(body, MEMBERS)
    check.raise_if_any()
    changes = _kept(body, OF_GROUP)
    if isinstance(body.get("container"), dict):
        changes["container"] = _without_required_nulls(_kept(body["container"], OF_CONTAINER))
    return changes


def _kept(value: dict[str, Any], rules: Rules) -> dict[str, Any]:
    return {field: value[field] for field in rules if field in value}


def _without_required_nulls(container: dict[str, Any]) -> dict[str, Any]:
    """A null for a required member changes nothing."""
    required = ("image", "image_caching", "priority", "resources")
    kept = {name: value for name, value in container.items() if value is not None or name not in required}
    if "resources" in kept:
        kept["resources"] = {name: value for name, value in kept["resources"].items() if value is not None}
    return kept
