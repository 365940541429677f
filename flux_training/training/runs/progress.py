"""Reads a run's progress.json. A node writes it, so missing and invalid fields count as absent."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flux_training.training.values import count, number, read_time
from flux_training.training.words import one_line, printable


@dataclass(frozen=True)
class RunProgress:
    """Losses are means over steps; `gpu_seconds` covers all restarts; times are UTC by the node's clock.

    `state` is starting, training, verifying, finished, failed, canceled or interrupted; empty before the launcher's first report.
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
    download_seconds: float | None = None


def read_progress(raw: Mapping[str, Any]) -> RunProgress:
    """Reads a parsed progress.json; `loss` is the smoothed loss."""
    return RunProgress(
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
        download_seconds=number(raw.get("download_seconds")),
        started_at=read_time(raw.get("started_at")),
        updated_at=read_time(raw.get("updated_at")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str:
    return one_line(_text(value), 40)
