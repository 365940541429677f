"""What a run's progress.json says, read with care: it is written on a stranger's PC.

A field that is missing or is not what it should be is as if the launcher had not said it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flux_training.training.words import one_line, printable

# Beyond this a number is nonsense: 31 years of seconds, a thousand million steps.
MOST = 1e9


@dataclass(frozen=True)
class Progress:
    """Losses are means over steps; `gpu_seconds` is summed over all restarts; times are UTC by the node's clock.

    `state` is starting, training, verifying, finished, failed, canceled or interrupted; empty before the launcher spoke.
    """

    state: str = ""
    message: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    seconds_per_step: float | None = None
    eta_seconds: float | None = None
    gpu: str = ""
    gpu_seconds: float | None = None
    restarts: int | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None


def read_progress(raw: Mapping[str, Any]) -> Progress:
    """`raw` is progress.json as parsed; `loss` becomes the smoothed one, which is what a person wants to see."""
    return Progress(
        state=_word(raw.get("state")),
        message=printable(_text(raw.get("message"))).strip(),
        step=count(raw.get("step")),
        steps=count(raw.get("steps")),
        loss=number(raw.get("loss_smoothed")),
        loss_first=number(raw.get("loss_first")),
        loss_last=number(raw.get("loss_last")),
        seconds_per_step=number(raw.get("seconds_per_step")),
        eta_seconds=number(raw.get("eta_seconds")),
        gpu=one_line(_text(raw.get("gpu")), 100),
        gpu_seconds=number(raw.get("gpu_seconds")),
        restarts=count(raw.get("restarts")),
        started_at=read_time(raw.get("started_at")),
        updated_at=read_time(raw.get("updated_at")),
    )


def read_time(value: object) -> datetime | None:
    """An ISO 8601 time in UTC; None when it is none. One without a zone is taken for UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str:
    return one_line(_text(value), 40)


def number(value: object) -> float | None:
    """A finite number from 0 to MOST; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MOST and math.isfinite(value) else None


def count(value: object) -> int | None:
    """A whole number from 0 to MOST; None for anything else."""
    known = number(value)
    return int(known) if known is not None and known == int(known) else None
