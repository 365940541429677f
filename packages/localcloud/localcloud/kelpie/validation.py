"""Validation of requests to Kelpie. Refusals have the words of Kelpie's validator, zod, as the recorded transcript has them."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

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
# For each phase of a job's `sync`, the direction that its entries must have.
DIRECTIONS = {"before": "download", "during": "upload", "after": "upload"}
MISSING = object()
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Matches a number in a URL's query string, as JavaScript's Number() would parse it.
DECIMAL = re.compile(r"[+-]?(Infinity|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)", re.ASCII)
OTHER_BASES = re.compile(r"0([xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")
# JavaScript has only doubles. It rounds integers above the first limit to 17 digits, and shows those from
# the second limit on with an exponent.
MAX_EXACT, MAX_PLAIN = 2**53, 10**21
# Lone surrogates cannot be stored or sent as UTF-8. Inside the local cloud, each is replaced by a
# private-use character, starting with this one.
FIRST_SURROGATE, STAND_IN = 0xD800, 0xF0000
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
SURROGATE_STAND_IN = re.compile(f"[{chr(STAND_IN)}-{chr(STAND_IN + 0x7FF)}]")
JSON_TYPES = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))
# For each of pydantic's error types, the expected type that Kelpie's validator (zod) names.
EXPECTED = {
    "bool_type": "boolean",
    "dict_type": "object",
    "int_type": "number",
    "list_type": "array",
    "model_type": "object",
    "string_type": "string",
}
# For each of pydantic's error types: zod's error code, zod's type, and pydantic's name for the limit.
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


class UncaughtError(Exception):
    """Kelpie crashes at the request. Its host then answers with 500 and a page that is not JSON."""


class RefusedRequestError(Exception):
    """The request is refused by Kelpie's own code. `more` are further members of the answer's body."""

    def __init__(self, status: int, kind: str, message: str | None = None, **more: Any) -> None:
        super().__init__(kind)
        self.status = status
        self.body = {"error": kind} | ({} if message is None else {"message": message}) | more


def database_error(message: str) -> RefusedRequestError:
    """A database error that Kelpie passes on."""
    return RefusedRequestError(500, "Internal server error", f"D1_ERROR: {message}")


def _js_number(value: Any) -> Any:
    """An integer as JavaScript knows it. Other values are returned unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) == float("inf"):
        return value
    if isinstance(value, float) and not value.is_integer():
        return value
    return (
        int(value) if abs(value) <= MAX_EXACT or abs(value) >= MAX_PLAIN else int(Decimal(repr(float(value))))
    )


def number_as_javascript(value: float) -> float:
    """A stored number as JavaScript writes it in JSON."""
    number = _js_number(value)
    return number if number < MAX_PLAIN else float(number)


def _check_uuid(text: str) -> str:
    if not UUID.fullmatch(text):
        raise PydanticCustomError("uuid", "Invalid uuid")
    return text


# A required field has a default that no type accepts, because pydantic's own `missing` error does not
# tell the expected type.
REQUIRED: Any = Field(default_factory=lambda: MISSING, validate_default=True)
# The default of a field that may be omitted but must not be null.
OPTIONAL: Any = None
Number = Annotated[int, BeforeValidator(_js_number)]
Count = Annotated[Number, Field(ge=1)]
Replicas = Annotated[Number, Field(ge=0, le=500)]
Seconds = Annotated[Number, Field(ge=0, le=3600)]
# The limits of number fields again: zod also checks them for a fraction, but pydantic does not.
LIMITS: dict[str, tuple[int, int | None]] = {
    "max_failures": (1, None),
    "heartbeat_interval": (1, None),
    "min_replicas": (0, 500),
    "max_replicas": (0, 500),
    "idle_threshold_seconds": (0, 3600),
}
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


# If one job of a batch is invalid, the whole batch is refused.
JobBatch = Annotated[list[JobSubmission], Field(min_length=1, max_length=1000)]


def validated(schema: type[T], value: Any, where: str = "body", further: Sequence[Issue] = ()) -> T:
    """The value as an instance of `schema`. Raises InvalidRequestError, also for `further` issues of the request."""
    try:
        found = TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        issues = [issue for one in error.errors() for issue in _issues(one, where)]
        raise InvalidRequestError([*issues, *further]) from None
    if further:
        raise InvalidRequestError([*further])
    return found


def stored_job(submission: JobSubmission, **index: int) -> dict[str, Any]:
    """The job as it is stored, with a `/` at the end of each prefix. Raises RefusedRequestError.

    `index` is the place in a batch.
    """
    job = submission.model_dump(exclude={"sync"})
    # In a text column, Kelpie's database turns each of the three bytes of a lone surrogate into a
    # replacement character. JSON columns keep the surrogate.
    job["command"] = SURROGATE_STAND_IN.sub("\ufffd" * 3, job["command"])
    legacy = [name for name in LEGACY if job[name]]
    if submission.sync is None:
        if len(legacy) < len(LEGACY):
            raise RefusedRequestError(
                400, "Invalid request", "Must use either sync or bucket/prefix", **index
            )
        prefixes = {name: _with_trailing_slash(job[name]) for name in legacy if name.endswith("_prefix")}
        return job | prefixes | {"sync": None}
    if legacy:
        raise RefusedRequestError(400, "Invalid request", "Cannot use both sync and bucket/prefix", **index)
    sync: dict[str, list[dict[str, Any]]] = submission.sync.model_dump(exclude_unset=True)
    for phase, entries in sync.items():
        for entry in entries:
            entry["prefix"] = _with_trailing_slash(entry["prefix"])
            if entry["direction"] != DIRECTIONS[phase]:
                message = f'sync.{phase}.direction must be "{DIRECTIONS[phase]}"'
                raise RefusedRequestError(400, "Invalid request", message, **index)
    return job | {"sync": sync}


def _with_trailing_slash(prefix: str) -> str:
    return prefix if prefix.endswith("/") else f"{prefix}/"


UNKNOWN_QUERY: Issue = {
    "code": "unrecognized_keys",
    "keys": ["query"],
    "path": [],
    "message": "Unrecognized key(s) in object: 'query'",
}
QueryValues = Mapping[str, str | list[str] | None]


def query_values(pairs: Sequence[tuple[str, str]]) -> QueryValues:
    """Kelpie's view of a query: an empty value is null, a repeated one is a list."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] or None for name, values in found.items()}


def filter_and_page(query: QueryValues) -> dict[str, Any]:
    """The filter and the page of GET /jobs, with defaults. Raises InvalidRequestError."""
    issues: list[Issue] = []
    group, status = query.get("container_group_id"), query.get("status")
    if "container_group_id" in query and not isinstance(group, str):
        issues.append(_wrong_type("string", _type_name(group), ["query", "container_group_id"]))
    if "status" in query and not isinstance(status, str):
        issues.append(_wrong_type(_list_of_options(STATUSES), _type_name(status), ["query", "status"]))
    elif isinstance(status, str) and status not in STATUSES:
        issues.append(_bad_option(status, STATUSES, ["query", "status"]))
    numbers = {"page_size": 100.0, "page": 1.0}
    for name in [one for one in numbers if one in query]:
        number = _query_number(query[name], ["query", name])
        if isinstance(number, float):
            numbers[name] = number
        else:
            issues.append(number)
    ascending = query.get("asc", "false")
    shown = ",".join(ascending) if isinstance(ascending, list) else ascending or "null"
    if shown.lower() not in ("true", "false"):
        issues.append(_bad_option(shown, ("true", "false"), ["query", "asc"]))
    if issues:
        raise InvalidRequestError(issues)
    return {"status": status, "group": group, **numbers, "ascending": shown.lower() == "true"}


def _query_number(value: str | list[str] | None, path: Sequence[str | int]) -> float | Issue:
    if not isinstance(value, str):
        kinds = [[_wrong_type(kind, _type_name(value), path)] for kind in ("number", "string")]
        errors = [{"issues": issues, "name": "ZodError"} for issues in kinds]
        return {"code": "invalid_union", "unionErrors": errors, "path": path, "message": "Invalid input"}
    text = value.strip()
    if OTHER_BASES.fullmatch(text):
        return float(int(text, 0))
    return float(text) if DECIMAL.fullmatch(text) else _wrong_type("number", "nan", path)


def _issues(error: ErrorDetails, where: str) -> list[Issue]:
    """An error of pydantic as zod reports it. A fraction out of bounds is two errors."""
    value, name, path = error["input"], str(error["loc"][-1]) if error["loc"] else "", [where, *error["loc"]]
    if error["type"] != "int_type" or not isinstance(value, float):
        return [_issue(error, where)]
    (lowest, highest), issues = LIMITS[name], [_wrong_type("integer", "float", path)]
    if value < lowest:
        issues.append(_out_of_bounds("greater_than_equal", {"ge": lowest}, path))
    if highest is not None and value > highest:
        issues.append(_out_of_bounds("less_than_equal", {"le": highest}, path))
    return issues


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
            _wrong_type(_list_of_options(options), "undefined", path)
            if value is MISSING
            else _bad_option(value, options, path)
        )
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
    message = f"Invalid enum value. Expected {_list_of_options(options)}, received '{value}'"
    issue = {"code": "invalid_enum_value", "options": list(options), "received": value}
    return issue | {"path": path, "message": message}


def _list_of_options(options: Sequence[str]) -> str:
    return " | ".join(f"'{option}'" for option in options)


def parse_body(raw: bytes) -> Any:
    """The body as Kelpie sees it: an object without members if it is not JSON. No key is `__proto__`, as in JavaScript.

    Lone surrogates are replaced by characters from STAND_IN on; `with_surrogates` replaces them back.
    """
    try:
        return _replace_surrogates(json.loads(raw, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        return {}


def with_surrogates(document: str) -> str:
    """JSON text with escapes in place of the stand-ins for lone surrogates."""
    return SURROGATE_STAND_IN.sub(
        lambda found: f"\\u{ord(found[0]) - STAND_IN + FIRST_SURROGATE:04x}", document
    )


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return LONE_SURROGATE.sub(lambda found: chr(ord(found[0]) - FIRST_SURROGATE + STAND_IN), value)
    if isinstance(value, list):
        return [_replace_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {
            _replace_surrogates(name): _replace_surrogates(below)
            for name, below in value.items()
            if name != "__proto__"
        }
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
