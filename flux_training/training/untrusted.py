"""Reads JSON that a node, or anyone else with keys for the bucket, may have written: bounded, typed, and without raising.

A record is a subclass of `UntrustedRecord`. `parse_record` turns bytes into one; what it could not accept is listed in `faults`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from flux_training.training.names import RUN_ID
from flux_training.training.values import MAX_ATTEMPT, read_time
from flux_training.training.words import one_line, printable

# Limits for a record, which normally has a few hundred bytes and three levels of nesting.
MAX_RECORD_BYTES = 1024 * 1024
MAX_RECORD_VALUES = 50_000
# A manifest has five values for each image. Commas in captions are counted as values too.
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_MANIFEST_VALUES = 1_000_000
MAX_DEPTH = 20
MAX_FAULT_LENGTH = 40
# Limits that no run reaches: a month in seconds, ten million steps, a file of 64 GB.
MAX_RUN_SECONDS = 30 * 24 * 3600.0
MAX_STEPS = 10_000_000
MAX_FILE_BYTES = 64 * 1024**3
MAX_LOSS = 1e6
MAX_USD = 100_000.0
# SaladCloud's most expensive GPU class costs less than a tenth of this.
MAX_USD_AN_HOUR = 10.0
# Records cannot be older than the tool's first release. Clocks may differ by the tolerance below.
FIRST_TIME = datetime(2020, 1, 1, tzinfo=UTC)
CLOCK_TOLERANCE = timedelta(days=1)

R = TypeVar("R", bound="UntrustedRecord")


@dataclass(frozen=True)
class Parsed(Generic[R]):
    """`value` is None if there is no usable record. `faults` says what was ignored; a missing object has none."""

    value: R | None = None
    faults: tuple[str, ...] = ()


class UntrustedRecord(BaseModel, frozen=True, strict=True, extra="ignore"):
    """A JSON object. An invalid field gets its default and becomes a fault; without a default the whole record is invalid."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _use_default(cls, value: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
        try:
            return validate(value)
        except ValidationError:
            field = cls.model_fields[str(info.field_name)]
            if field.is_required():
                raise
            if isinstance(info.context, list):
                info.context.append(_fault(field.alias or str(info.field_name), value))
            return field.get_default(call_default_factory=True)


def parse_record(
    raw: bytes, kind: type[R], max_bytes: int = MAX_RECORD_BYTES, max_values: int = MAX_RECORD_VALUES
) -> Parsed[R]:
    """The record in `raw`, which is one byte longer than `max_bytes` if the object is longer than that."""
    document = parse_object(raw, max_bytes, max_values)
    if isinstance(document, str):
        return Parsed(faults=(document,))
    faults: list[str] = []
    try:
        return Parsed(kind.model_validate(document, context=faults), tuple(faults))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = str(wrong["loc"][0]) if wrong["loc"] else "it"
        missing = wrong["type"] == "missing"
        return Parsed(faults=(f"{name} is missing" if missing else _fault(name, wrong["input"]),))


def parse_object(
    raw: bytes, max_bytes: int = MAX_RECORD_BYTES, max_values: int = MAX_RECORD_VALUES
) -> dict[str, Any] | str:
    """The JSON object in `raw`, with unpaired surrogates replaced; or else a sentence that says why there is none."""
    if len(raw) > max_bytes:
        return f"it is longer than {max_bytes} bytes"
    # A parsed value can take a hundred times the memory of its text, so limit the number of values. It is
    # at most the number of separators.
    if sum(raw.count(separator) for separator in b",[{") > max_values:
        return f"it has more than {max_values} values"
    try:
        found = json.loads(raw)
        return _clean(found, MAX_DEPTH) if isinstance(found, dict) else "it is not a JSON object"
    except (ValueError, RecursionError):
        return "it is not valid JSON, or is nested too deeply"


def _clean(value: Any, levels: int) -> Any:
    """Raises ValueError for more nested levels. Unpaired surrogates could not be printed, stored or sent."""
    if levels < 0:
        raise ValueError
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(key, levels): _clean(below, levels - 1) for key, below in value.items()}
    if isinstance(value, list):
        return [_clean(below, levels - 1) for below in value]
    return value


def _fault(name: str, value: object) -> str:
    shown = value if isinstance(value, str | int | float) else type(value).__name__
    text = repr(shown) if not isinstance(shown, int) or abs(shown) < 10**MAX_FAULT_LENGTH else "a huge number"
    return f"{name} is not valid ({one_line(text, MAX_FAULT_LENGTH)})"


def _whole(value: object) -> object:
    """JSON has one kind of number: 3.0 is 3."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == int(value) else value


def _time(value: object) -> object:
    """Times are in UTC. Those before this tool existed and in the future are not valid."""
    time = read_time(value)
    is_plausible = time is not None and FIRST_TIME <= time <= datetime.now(UTC) + CLOCK_TOLERANCE
    return time if is_plausible else value


def _shortened_to(limit: int) -> Callable[[object], object]:
    return lambda value: one_line(value, limit) if isinstance(value, str) else _text(value)


def _message(value: object) -> object:
    return printable(value).strip() if isinstance(value, str) else _text(value)


def _text(value: object) -> object:
    return "" if value is None else value


# The field types of records. Text for display is shortened; text in the other fields must match exactly.
Word = Annotated[str, BeforeValidator(_shortened_to(40))]
ShortText = Annotated[str, BeforeValidator(_shortened_to(100))]
Message = Annotated[str, BeforeValidator(_message)]
Seconds = Annotated[float, Field(ge=0, le=MAX_RUN_SECONDS, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=0, le=MAX_LOSS, allow_inf_nan=False)]
Usd = Annotated[float, Field(ge=0, le=MAX_USD, allow_inf_nan=False)]
UsdAnHour = Annotated[float, Field(ge=0, le=MAX_USD_AN_HOUR, allow_inf_nan=False)]
Steps = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_STEPS)]
Attempt = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_ATTEMPT)]
Bytes = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_FILE_BYTES)]
Time = Annotated[datetime, BeforeValidator(_time), PlainSerializer(datetime.isoformat, when_used="json")]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
ETag = Annotated[str, Field(max_length=200)]
RunId = Annotated[str, Field(pattern=rf"\A{RUN_ID.pattern}\z")]
