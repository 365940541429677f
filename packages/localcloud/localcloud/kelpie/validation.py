"""What Kelpie accepts, refused in the words of its validator (zod), as the transcript records them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

STATUSES = ("pending", "running", "completed", "canceled", "failed")
LEGACY = (
    "input_bucket",
    "input_prefix",
    "checkpoint_bucket",
    "checkpoint_prefix",
    "output_bucket",
    "output_prefix",
)
# JavaScript's; the real Kelpie is not known to have a bound of its own.
MOST_INTEGER = 2**53 - 1
# phase of `sync` -> the only direction it may have
DIRECTIONS = {"before": "download", "during": "upload", "after": "upload"}

Path = list[str | int]
Issue = dict[str, Any]


class InvalidRequestError(Exception):
    """A request that the validator refuses: a list of zod issues."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("invalid request")
        self.issues = issues


class RefusedRequestError(Exception):
    """A request that passed the validator and is refused by the code after it: a message, and which of a batch."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.message, self.index = message, index


class Checker:
    """Collects issues while reading fields of one object."""

    def __init__(self, value: Any, path: Path) -> None:
        self.issues: list[Issue] = []
        self.path = path
        self.fields: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.wrong_type(path, "object", value)

    def wrong_type(self, path: Path, expected: str, value: Any) -> None:
        """Note that a value is missing or of another type."""
        got = type_name(value)
        message = "Required" if got == "undefined" else f"Expected {expected}, received {got}"
        self.issues.append(
            {"code": "invalid_type", "expected": expected, "received": got, "path": path, "message": message}
        )

    def string(self, name: str, required: bool = False) -> str | None:
        """A string, None when it is left out."""
        value = self.fields.get(name, MISSING)
        if isinstance(value, str):
            return value
        if required or value is not MISSING:
            self.wrong_type([*self.path, name], "string", value)
        return None

    def boolean(self, name: str, default: bool) -> bool:
        """A boolean, the default when it is left out."""
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            self.wrong_type([*self.path, name], "boolean", value)
        return value is True

    def integer(self, name: str, low: int, high: int, required: bool = False) -> int | None:
        """A whole number within its bounds, None when it is left out."""
        value = self.fields.get(name, MISSING)
        if value is MISSING and not required:
            return None
        path = [*self.path, name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong_type(path, "number", value)
            return None
        if isinstance(value, float) and not value.is_integer():
            self.issues.append(
                {
                    "code": "invalid_type",
                    "expected": "integer",
                    "received": "float",
                    "path": path,
                    "message": "Expected integer, received float",
                }
            )
        elif value < low:
            self.issues.append(bound("too_small", "minimum", low, "number", path))
        elif value > high:
            self.issues.append(bound("too_big", "maximum", high, "number", path))
        return int(value)

    def strings(self, name: str) -> list[str]:
        """A list of strings, [] when it is left out."""
        value = self.fields.get(name, [])
        if not isinstance(value, list):
            self.wrong_type([*self.path, name], "array", value)
            return []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.wrong_type([*self.path, name, index], "string", item)
        return value

    def string_map(self, name: str) -> dict[str, str]:
        """An object of strings, {} when it is left out."""
        value = self.fields.get(name, {})
        if not isinstance(value, dict):
            self.wrong_type([*self.path, name], "object", value)
            return {}
        for key, item in value.items():
            if not isinstance(item, str):
                self.wrong_type([*self.path, name, key], "string", item)
        return value

    def done(self) -> None:
        """Raise InvalidRequestError when anything was noted."""
        if self.issues:
            raise InvalidRequestError(self.issues)


MISSING = object()


def type_name(value: Any) -> str:
    """The JavaScript type of a JSON value, in zod's words."""
    if value is MISSING:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (int, "number"), (float, "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def bound(code: str, field: str, limit: int, kind: str, path: Path) -> Issue:
    """zod's issue for a number or a list outside its bounds."""
    words = {
        ("too_small", "number"): f"Number must be greater than or equal to {limit}",
        ("too_big", "number"): f"Number must be less than or equal to {limit}",
        ("too_small", "array"): f"Array must contain at least {limit} element(s)",
        ("too_big", "array"): f"Array must contain at most {limit} element(s)",
    }
    return {
        "code": code,
        field: limit,
        "type": kind,
        "inclusive": True,
        "exact": False,
        "message": words[code, kind],
        "path": path,
    }


def job_submission(value: Any, path: Path) -> dict[str, Any]:
    """A job as it is stored; unknown fields are dropped. Raises InvalidRequestError."""
    check = Checker(value, path)
    if not check.fields:
        check.done()
    job: dict[str, Any] = {
        "command": check.string("command", required=True),
        "arguments": check.strings("arguments"),
        "environment": check.string_map("environment"),
        **{name: check.string(name) for name in LEGACY},
        "max_failures": check.integer("max_failures", 1, MOST_INTEGER) or 3,
        "heartbeat_interval": check.integer("heartbeat_interval", 1, MOST_INTEGER) or 30,
        "webhook": check.string("webhook"),
        "container_group_id": check.string("container_group_id", required=True),
        "compression": check.boolean("compression", default=False),
    }
    if "sync" in check.fields:
        job["sync"] = _sync(check, check.fields["sync"])
    check.done()
    return job


def _sync(check: Checker, value: Any) -> dict[str, Any]:
    path = [*check.path, "sync"]
    if not isinstance(value, dict):
        check.wrong_type(path, "object", value)
        return {}
    phases: dict[str, Any] = {}
    for phase in DIRECTIONS:
        if phase not in value:
            continue
        entries = value[phase]
        if not isinstance(entries, list):
            check.wrong_type([*path, phase], "array", entries)
            continue
        phases[phase] = [_sync_entry(check, entry, [*path, phase, at]) for at, entry in enumerate(entries)]
    return phases


def _sync_entry(check: Checker, value: Any, path: Path) -> dict[str, Any]:
    inner = Checker(value, path)
    if isinstance(value, dict):
        entry = {name: inner.string(name, required=True) for name in ("bucket", "prefix", "local_path")}
        entry["direction"] = _enum(inner, "direction", ("download", "upload"))
        if (pattern := inner.string("pattern")) is not None:
            entry["pattern"] = pattern
    else:
        entry = {}
    check.issues += inner.issues
    return entry


def _enum(check: Checker, name: str, options: tuple[str, ...]) -> str | None:
    value = check.fields.get(name, MISSING)
    if value is MISSING:
        check.wrong_type([*check.path, name], " | ".join(f"'{option}'" for option in options), value)
    elif value not in options:
        check.issues.append(bad_option(value, options, [*check.path, name]))
    return value if isinstance(value, str) else None


def bad_option(value: Any, options: tuple[str, ...], path: Path) -> Issue:
    """zod's issue for a value that is none of those allowed."""
    expected = " | ".join(f"'{option}'" for option in options)
    return {
        "code": "invalid_enum_value",
        "options": list(options),
        "received": value,
        "path": path,
        "message": f"Invalid enum value. Expected {expected}, received '{value}'",
    }


def job_batch(value: Any) -> list[dict[str, Any]]:
    """1 to 1000 jobs, all valid or none taken. Raises InvalidRequestError."""
    if not isinstance(value, list):
        check = Checker({}, ["body"])
        check.wrong_type(["body"], "array", value)
        check.done()
    if not 1 <= len(value) <= 1000:
        code, field, limit = ("too_small", "minimum", 1) if not value else ("too_big", "maximum", 1000)
        raise InvalidRequestError([bound(code, field, limit, "array", ["body"])])
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
    """The job with `/` at the end of each prefix (UPSTREAM.md). Raises RefusedRequestError for a wrong direction or no storage."""
    sync = job.get("sync")
    legacy = [name for name in LEGACY if job[name]]
    if sync is not None and legacy:
        raise RefusedRequestError("Cannot use both sync and bucket/prefix", index)
    if sync is None and len(legacy) < len(LEGACY):
        raise RefusedRequestError("Must use either sync or bucket/prefix", index)
    for phase, entries in (sync or {}).items():
        for entry in entries:
            if not entry["prefix"].endswith("/"):
                entry["prefix"] += "/"
            if entry["direction"] != DIRECTIONS[phase]:
                raise RefusedRequestError(f'sync.{phase}.direction must be "{DIRECTIONS[phase]}"', index)
    for name in LEGACY:
        if name.endswith("_prefix") and job[name] and not job[name].endswith("/"):
            job[name] += "/"
    return job


def scaling_rule(value: Any, partial: bool) -> dict[str, Any]:
    """A scaling rule's fields; with `partial` any may be left out. Raises InvalidRequestError.

    `idle_threshold_seconds` is required although the README calls it optional, min > max is taken (UPSTREAM.md).
    """
    check = Checker(value, ["body"])
    group = check.string("container_group_id", required=not partial)
    if group is not None and not _is_uuid(group):
        issue = {
            "validation": "uuid",
            "code": "invalid_string",
            "message": "Invalid uuid",
            "path": ["body", "container_group_id"],
        }
        check.issues.append(issue)
    fields = {
        "container_group_id": group,
        "min_replicas": check.integer("min_replicas", 0, 500, required=not partial),
        "max_replicas": check.integer("max_replicas", 0, 500, required=not partial),
        "idle_threshold_seconds": check.integer("idle_threshold_seconds", 0, 3600, required=not partial),
    }
    check.done()
    return {name: field for name, field in fields.items() if field is not None}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def machine(value: Any, where: str) -> tuple[str, str]:
    """(machine id, container group id), as nodes send them. Raises InvalidRequestError."""
    check = Checker(value, [where])
    machine_id = check.string("machine_id", required=True)
    group_id = check.string("container_group_id", required=True)
    check.done()
    return machine_id or "", group_id or ""


def filter_and_page(query: dict[str, str]) -> dict[str, Any]:
    """The filter and page of GET /jobs, with its defaults. Raises InvalidRequestError."""
    issues: list[Issue] = []
    status = query.get("status")
    if status is not None and status not in STATUSES:
        issues.append(bad_option(status, STATUSES, ["query", "status"]))
    numbers = {"page_size": 100, "page": 1}
    for name in numbers:
        text = query.get(name)
        if text is None:
            continue
        try:
            numbers[name] = int(float(text))
        except (ValueError, OverflowError):
            message = "Expected number, received nan"
            issues.append(
                {
                    "code": "invalid_type",
                    "expected": "number",
                    "received": "nan",
                    "path": ["query", name],
                    "message": message,
                }
            )
    if issues:
        raise InvalidRequestError(issues)
    ascending = query.get("asc", "false").lower() == "true"
    return {"status": status, "group": query.get("container_group_id"), **numbers, "ascending": ascending}
