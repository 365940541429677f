"""Validation of requests to Kelpie. Refusals have the words of Kelpie's validator, zod, as the recorded transcript has them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

STATUSES = ("pending", "running", "completed", "canceled", "failed")
LEGACY = tuple(
    f"{kind}_{part}" for kind in ("input", "checkpoint", "output") for part in ("bucket", "prefix")
)
# JavaScript's limit; Kelpie is not known to have a lower one.
MAX_INTEGER = 2**53 - 1
# Phase of `sync`: the direction that its entries must have.
DIRECTIONS = {"before": "download", "during": "upload", "after": "upload"}
MISSING = object()
JSON_TYPES = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))
# The type that Kelpie's validator (zod) names as expected, by pydantic's type of error.
EXPECTED = {
    "bool_type": "boolean",
    "dict_type": "object",
    "int_type": "number",
    "list_type": "array",
    "model_type": "object",
    "string_type": "string",
}
# By pydantic's type of error: zod's error code, zod's type, and pydantic's name for the limit.
BOUNDS = {
    "greater_than_equal": ("too_small", "number", "ge"),
    "less_than_equal": ("too_big", "number", "le"),
    "too_short": ("too_small", "array", "min_length"),
    "too_long": ("too_big", "array", "max_length"),
}

Issue = dict[str, Any]
T = TypeVar("T")


class InvalidRequestError(Exception):
    """The validator refuses the request."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("invalid request")
        self.issues = issues


class RefusedRequestError(Exception):
    """The request is refused by Kelpie's own code. `more` are further members of the answer's body."""

    def __init__(self, status: int, kind: str, message: str | None = None, **more: Any) -> None:
        super().__init__(kind)
        self.status = status
        self.body = {"error": kind} | ({} if message is None else {"message": message}) | more


def database_error(message: str) -> RefusedRequestError:
    """A database error that Kelpie passes on."""
    return RefusedRequestError(500, "Internal server error", f"D1_ERROR: {message}")


def _without_fraction(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_uuid(text: str) -> str:
    try:
        UUID(text)
    except ValueError:
        raise PydanticCustomError("uuid", "Invalid uuid") from None
    return text


# `missing` errors of pydantic lack the expected type, so a required field has a default that no type accepts.
REQUIRED: Any = Field(default_factory=lambda: MISSING, validate_default=True)
# A field that may be omitted, although null is not accepted.
OPTIONAL: Any = None
Number = Annotated[int, BeforeValidator(_without_fraction)]
Count = Annotated[Number, Field(ge=1, le=MAX_INTEGER)]
Replicas = Annotated[Number, Field(ge=0, le=500)]
Seconds = Annotated[Number, Field(ge=0, le=3600)]
GroupId = Annotated[str, AfterValidator(_check_uuid)]


class RequestBody(BaseModel):
    """Fields as JavaScript would accept them. Unknown fields are dropped."""

    model_config = ConfigDict(strict=True)


class SyncEntry(RequestBody):
    bucket: str = REQUIRED
    prefix: str = REQUIRED
    local_path: str = REQUIRED
    direction: Literal["download", "upload"] = REQUIRED
    pattern: str = OPTIONAL


class SyncBody(RequestBody):
    before: list[SyncEntry] = OPTIONAL
    during: list[SyncEntry] = OPTIONAL
    after: list[SyncEntry] = OPTIONAL


class JobSubmission(RequestBody):
    command: str = REQUIRED
    arguments: list[str] = []
    environment: dict[str, str] = {}
    input_bucket: str = OPTIONAL
    input_prefix: str = OPTIONAL
    checkpoint_bucket: str = OPTIONAL
    checkpoint_prefix: str = OPTIONAL
    output_bucket: str = OPTIONAL
    output_prefix: str = OPTIONAL
    max_failures: Count = 3
    heartbeat_interval: Count = 30
    webhook: str = OPTIONAL
    container_group_id: str = REQUIRED
    compression: bool = False
    sync: SyncBody = OPTIONAL


class RuleChanges(RequestBody):
    container_group_id: GroupId = OPTIONAL
    min_replicas: Replicas = OPTIONAL
    max_replicas: Replicas = OPTIONAL
    idle_threshold_seconds: Seconds = OPTIONAL


class NewRule(RequestBody):
    container_group_id: GroupId = REQUIRED
    min_replicas: Replicas = REQUIRED
    max_replicas: Replicas = REQUIRED
    idle_threshold_seconds: Seconds = REQUIRED


class Machine(RequestBody):
    """The node that sends a request."""

    machine_id: str = REQUIRED
    container_group_id: str = REQUIRED


# One invalid job refuses the batch.
JobBatch = Annotated[list[JobSubmission], Field(min_length=1, max_length=1000)]


def validated(schema: type[T], value: Any, where: str = "body") -> T:
    """The value as an instance of `schema`. Raises InvalidRequestError."""
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        raise InvalidRequestError([_issue(one, where) for one in error.errors()]) from None


def stored_job(submission: JobSubmission, **index: int) -> dict[str, Any]:
    """The job as it is stored, with a `/` at the end of each prefix. Raises RefusedRequestError.

    `index` is the place in a batch.
    """
    job = submission.model_dump(exclude={"sync"})
    legacy = [name for name in LEGACY if job[name]]
    if submission.sync is None:
        if len(legacy) < len(LEGACY):
            raise RefusedRequestError(
                400, "Invalid request", "Must use either sync or bucket/prefix", **index
            )
        return job | {name: _with_slash(job[name]) for name in legacy if name.endswith("_prefix")}
    if legacy:
        raise RefusedRequestError(400, "Invalid request", "Cannot use both sync and bucket/prefix", **index)
    sync: dict[str, list[dict[str, Any]]] = submission.sync.model_dump(exclude_unset=True)
    for phase, entries in sync.items():
        for entry in entries:
            entry["prefix"] = _with_slash(entry["prefix"])
            if entry["direction"] != DIRECTIONS[phase]:
                message = f'sync.{phase}.direction must be "{DIRECTIONS[phase]}"'
                raise RefusedRequestError(400, "Invalid request", message, **index)
    return job | {"sync": sync}


def _with_slash(prefix: str) -> str:
    return prefix if prefix.endswith("/") else f"{prefix}/"


def filter_and_page(query: dict[str, str]) -> dict[str, Any]:
    """The filter and the page of GET /jobs, with defaults. Raises InvalidRequestError."""
    issues: list[Issue] = []
    status = query.get("status")
    if status is not None and status not in STATUSES:
        issues.append(_bad_option(status, STATUSES, ["query", "status"]))
    numbers = {"page_size": 100, "page": 1}
    for name in [one for one in numbers if one in query]:
        try:
            numbers[name] = int(float(query[name]))
        except (ValueError, OverflowError):
            issues.append(_wrong_type("number", "nan", ["query", name]))
    if issues:
        raise InvalidRequestError(issues)
    ascending = query.get("asc", "false").lower() == "true"
    return {"status": status, "group": query.get("container_group_id"), **numbers, "ascending": ascending}


def _issue(error: ErrorDetails, where: str) -> Issue:
    """An error of pydantic as zod reports it."""
    path, kind, value = [where, *error["loc"]], error["type"], error["input"]
    if kind == "uuid":
        return {"validation": "uuid", "code": "invalid_string", "message": error["msg"], "path": path}
    if kind in BOUNDS:
        return _out_of_bounds(kind, error["ctx"], path)
    if kind == "literal_error":
        options = tuple(dict.fromkeys(DIRECTIONS.values()))
        return (
            _wrong_type(_joined(options), "undefined", path)
            if value is MISSING
            else _bad_option(value, options, path)
        )
    if kind == "int_type" and isinstance(value, float):
        return _wrong_type("integer", "float", path)
    return _wrong_type(EXPECTED[kind], _type_name(value), path)


def _type_name(value: Any) -> str:
    """The JavaScript type of a JSON value, in zod's words."""
    if value is MISSING:
        return "undefined"
    return next((name for kind, name in JSON_TYPES if isinstance(value, kind)), "null")


def _wrong_type(expected: str, received: str, path: Sequence[str | int]) -> Issue:
    message = "Required" if received == "undefined" else f"Expected {expected}, received {received}"
    issue = {"code": "invalid_type", "expected": expected, "received": received}
    return issue | {"path": path, "message": message}


def _out_of_bounds(kind: str, context: dict[str, Any], path: Sequence[str | int]) -> Issue:
    code, zod_type, name = BOUNDS[kind]
    is_low, limit = code == "too_small", context[name]
    if zod_type == "number":
        message = f"Number must be {'greater' if is_low else 'less'} than or equal to {limit}"
    else:
        message = f"Array must contain at {'least' if is_low else 'most'} {limit} element(s)"
    issue = {"code": code, "type": zod_type, "inclusive": True, "exact": False}
    return issue | {"message": message, "path": path, "minimum" if is_low else "maximum": limit}


def _bad_option(value: Any, options: Sequence[str], path: Sequence[str | int]) -> Issue:
    message = f"Invalid enum value. Expected {_joined(options)}, received '{value}'"
    issue = {"code": "invalid_enum_value", "options": list(options), "received": value}
    return issue | {"path": path, "message": message}


def _joined(options: Sequence[str]) -> str:
    return " | ".join(f"'{option}'" for option in options)
