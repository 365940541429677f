"""Validation of requests to Kelpie. Refusals have the words of Kelpie's validator, zod, as the recorded transcript has them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

STATUSES = ("pending", "running", "completed", "canceled", "failed")
LEGACY = tuple(
    f"{kind}_{part}" for kind in ("input", "checkpoint", "output") for part in ("bucket", "prefix")
)
# JavaScript's limit; Kelpie is not known to have a lower one.
MAX_INTEGER = 2**53 - 1
MAX_BATCH = 1000
# Phase of `sync`: the direction that its entries must have.
DIRECTIONS = {"before": "download", "during": "upload", "after": "upload"}
MISSING = object()
JSON_TYPES = ((bool, "boolean"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))

Path = list[str | int]
Issue = dict[str, Any]


class InvalidRequestError(Exception):
    """The validator refuses the request."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("invalid request")
        self.issues = issues


class RefusedRequestError(Exception):
    """The request is valid, but refused by the code after the validator. `index` is the job's place in a batch."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.message, self.index = message, index


class ObjectChecker:
    """Reads the fields of one object and collects issues."""

    def __init__(self, value: Any, path: Path) -> None:
        self.issues: list[Issue] = []
        self.path = path
        self.fields: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.issues.append(wrong_type(path, "object", value))

    def typed(self, name: str, kind: str, default: Any = MISSING) -> Any:
        """The field if it has the JSON type `kind`, else None. Without a default, it is required."""
        value = self.fields.get(name, default)
        if value is None and default is None and name not in self.fields:
            return None
        if type_name(value) == kind:
            return value
        self.issues.append(wrong_type([*self.path, name], kind, value))
        return None

    def integer(self, name: str, low: int, high: int, default: Any = MISSING) -> int | None:
        value = self.typed(name, "number", default)
        if value is None:
            return None
        path = [*self.path, name]
        if isinstance(value, float) and not value.is_integer():
            self.issues.append(wrong_type(path, "integer", value, "float"))
        elif value < low:
            self.issues.append(out_of_bounds("too_small", low, "number", path))
        elif value > high:
            self.issues.append(out_of_bounds("too_big", high, "number", path))
        return int(value)

    def strings(self, name: str) -> list[str]:
        value = self.typed(name, "array", []) or []
        self._check_strings(name, enumerate(value))
        return list(value)

    def string_map(self, name: str) -> dict[str, str]:
        value = self.typed(name, "object", {}) or {}
        self._check_strings(name, value.items())
        return dict(value)

    def _check_strings(self, name: str, items: Any) -> None:
        for key, item in items:
            if not isinstance(item, str):
                self.issues.append(wrong_type([*self.path, name, key], "string", item))

    def option(self, name: str, options: tuple[str, ...]) -> str | None:
        value, path = self.fields.get(name, MISSING), [*self.path, name]
        if value is MISSING:
            self.issues.append(wrong_type(path, " | ".join(f"'{option}'" for option in options), value))
        elif value not in options:
            self.issues.append(bad_option(value, options, path))
        return value if isinstance(value, str) else None

    def raise_if_any(self) -> None:
        if self.issues:
            raise InvalidRequestError(self.issues)


def type_name(value: Any) -> str:
    """The JavaScript type of a JSON value, in zod's words."""
    if value is MISSING:
        return "undefined"
    return next((name for kind, name in JSON_TYPES if isinstance(value, kind)), "null")


def wrong_type(path: Path, expected: str, value: Any, received: str = "") -> Issue:
    received = received or type_name(value)
    message = "Required" if received == "undefined" else f"Expected {expected}, received {received}"
    return {
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": path,
        "message": message,
    }


def out_of_bounds(code: str, limit: int, kind: str, path: Path) -> Issue:
    is_low = code == "too_small"
    if kind == "number":
        message = f"Number must be {'greater' if is_low else 'less'} than or equal to {limit}"
    else:
        message = f"Array must contain at {'least' if is_low else 'most'} {limit} element(s)"
    bound = {"minimum" if is_low else "maximum": limit}
    return {
        "code": code,
        "type": kind,
        "inclusive": True,
        "exact": False,
        "message": message,
        "path": path,
    } | bound


def bad_option(value: Any, options: tuple[str, ...], path: Path) -> Issue:
    expected = " | ".join(f"'{option}'" for option in options)
    message = f"Invalid enum value. Expected {expected}, received '{value}'"
    code = "invalid_enum_value"
    return {"code": code, "options": list(options), "received": value, "path": path, "message": message}


def job_submission(value: Any, path: Path) -> dict[str, Any]:
    """A job as it is stored, without unknown fields. Raises InvalidRequestError."""
    check = ObjectChecker(value, path)
    if not check.fields:
        check.raise_if_any()
    job: dict[str, Any] = {
        "command": check.typed("command", "string"),
        "arguments": check.strings("arguments"),
        "environment": check.string_map("environment"),
        **{name: check.typed(name, "string", None) for name in LEGACY},
        "max_failures": check.integer("max_failures", 1, MAX_INTEGER, None) or 3,
        "heartbeat_interval": check.integer("heartbeat_interval", 1, MAX_INTEGER, None) or 30,
        "webhook": check.typed("webhook", "string", None),
        "container_group_id": check.typed("container_group_id", "string"),
        "compression": check.typed("compression", "boolean", False),
    }
    if "sync" in check.fields:
        job["sync"] = _sync(check)
    check.raise_if_any()
    return job


def _sync(check: ObjectChecker) -> dict[str, Any]:
    inner = ObjectChecker(check.fields["sync"], [*check.path, "sync"])
    phases: dict[str, Any] = {}
    for phase in DIRECTIONS:
        if phase in inner.fields and (entries := inner.typed(phase, "array")) is not None:
            path = [*inner.path, phase]
            phases[phase] = [_sync_entry(inner, entry, [*path, at]) for at, entry in enumerate(entries)]
    check.issues += inner.issues
    return phases


def _sync_entry(check: ObjectChecker, value: Any, path: Path) -> dict[str, Any]:
    inner = ObjectChecker(value, path)
    entry: dict[str, Any] = {}
    if isinstance(value, dict):
        entry = {name: inner.typed(name, "string") for name in ("bucket", "prefix", "local_path")}
        entry["direction"] = inner.option("direction", ("download", "upload"))
        if (pattern := inner.typed("pattern", "string", None)) is not None:
            entry["pattern"] = pattern
    check.issues += inner.issues
    return entry


def job_batch(value: Any) -> list[dict[str, Any]]:
    """1 to 1000 jobs; one that is invalid refuses the batch. Raises InvalidRequestError."""
    if not isinstance(value, list):
        raise InvalidRequestError([wrong_type(["body"], "array", value)])
    if not value:
        raise InvalidRequestError([out_of_bounds("too_small", 1, "array", ["body"])])
    if len(value) > MAX_BATCH:
        raise InvalidRequestError([out_of_bounds("too_big", MAX_BATCH, "array", ["body"])])
    jobs, issues = [], []
    for index, item in enumerate(value):
        try:
            jobs.append(job_submission(item, ["body", index]))
        except InvalidRequestError as error:
            issues += error.issues
    if issues:
        raise InvalidRequestError(issues)
    return jobs


def normalised_storage(job: dict[str, Any], index: int | None = None) -> dict[str, Any]:
    """The job with a `/` at the end of each prefix. Raises RefusedRequestError for a wrong direction, and without storage."""
    sync = job.get("sync")
    legacy = [name for name in LEGACY if job[name]]
    if sync is not None and legacy:
        raise RefusedRequestError("Cannot use both sync and bucket/prefix", index)
    if sync is None and len(legacy) < len(LEGACY):
        raise RefusedRequestError("Must use either sync or bucket/prefix", index)
    for phase, entries in (sync or {}).items():
        for entry in entries:
            entry["prefix"] = _with_slash(entry["prefix"])
            if entry["direction"] != DIRECTIONS[phase]:
                raise RefusedRequestError(f'sync.{phase}.direction must be "{DIRECTIONS[phase]}"', index)
    return job | {name: _with_slash(job[name]) for name in legacy if name.endswith("_prefix")}


def _with_slash(prefix: str) -> str:
    return prefix if prefix.endswith("/") else f"{prefix}/"


def scaling_rule(value: Any, partial: bool) -> dict[str, Any]:
    """The fields of a scaling rule; with `partial`, all are optional. Raises InvalidRequestError."""
    check = ObjectChecker(value, ["body"])
    default = None if partial else MISSING
    group = check.typed("container_group_id", "string", default)
    if group is not None and not _is_uuid(group):
        path = ["body", "container_group_id"]
        check.issues.append(
            {"validation": "uuid", "code": "invalid_string", "message": "Invalid uuid", "path": path}
        )
    fields = {
        "container_group_id": group,
        "min_replicas": check.integer("min_replicas", 0, 500, default),
        "max_replicas": check.integer("max_replicas", 0, 500, default),
        "idle_threshold_seconds": check.integer("idle_threshold_seconds", 0, 3600, default),
    }
    check.raise_if_any()
    return {name: field for name, field in fields.items() if field is not None}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def machine(value: Any, where: str) -> tuple[str, str]:
    """(machine id, container group id) of a node's request. Raises InvalidRequestError."""
    check = ObjectChecker(value, [where])
    ids = check.typed("machine_id", "string"), check.typed("container_group_id", "string")
    check.raise_if_any()
    return ids


def filter_and_page(query: dict[str, str]) -> dict[str, Any]:
    """The filter and the page of GET /jobs, with defaults. Raises InvalidRequestError."""
    issues: list[Issue] = []
    status = query.get("status")
    if status is not None and status not in STATUSES:
        issues.append(bad_option(status, STATUSES, ["query", "status"]))
    numbers = {"page_size": 100, "page": 1}
    for name in [one for one in numbers if one in query]:
        try:
            numbers[name] = int(float(query[name]))
        except (ValueError, OverflowError):
            issues.append(wrong_type(["query", name], "number", None, "nan"))
    if issues:
        raise InvalidRequestError(issues)
    ascending = query.get("asc", "false").lower() == "true"
    return {"status": status, "group": query.get("container_group_id"), **numbers, "ascending": ascending}
