"""Reads values of unknown type from parsed JSON and YAML, which a user or a node may have written."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

# Larger numbers are treated as invalid. This is 31 years in seconds, or a billion steps.
MAX_NUMBER = 1e9
# The maximum for a job's `attempt`, which is any number chosen by the user, such as a date.
MAX_ATTEMPT = 1_000_000_000


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def whole_number(value: object, default: int) -> int:
    """The value if it is an integer from 1 to MAX_NUMBER, otherwise the default."""
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return value if 0 < value <= MAX_NUMBER else default


def number(value: object) -> float | None:
    """A finite number from 0 to MAX_NUMBER; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_NUMBER and math.isfinite(value) else None


def count(value: object) -> int | None:
    """A whole number from 0 to MAX_NUMBER; None for anything else."""
    known = number(value)
    return int(known) if known is not None and known == int(known) else None


def read_time(value: object) -> datetime | None:
    """An ISO 8601 time in UTC; None for anything else. A time without a zone is taken as UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
