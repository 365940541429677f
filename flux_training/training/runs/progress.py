"""A run's progress.json. A node writes it, so missing and invalid fields count as absent."""

from typing import Annotated

from pydantic import ConfigDict, Field

from flux_training.training.untrusted import (
    Loss,
    Message,
    Seconds,
    ShortText,
    Steps,
    Time,
    UntrustedRecord,
    Word,
)
from flux_training.training.words import counted

MAX_RESTARTS = 100_000


class RunProgress(UntrustedRecord):
    """Losses are means over steps; `loss` is the smoothed one. `gpu_seconds` covers all restarts; times are UTC by the node's clock.

    `state` is starting, training, verifying, finished, failed, canceled or interrupted; empty before the launcher's first report.
    `begun`: the step that the last start began with, and how many starts in a row began with it.
    """

    model_config = ConfigDict(validate_by_name=True)

    state: Word = ""
    message: Message = ""
    step: Steps | None = None
    steps: Steps | None = None
    loss: Loss | None = Field(None, alias="loss_smoothed")
    loss_first: Loss | None = None
    loss_last: Loss | None = None
    seconds_per_step: Seconds | None = None
    eta_seconds: Seconds | None = None
    gpu: ShortText = ""
    trainer: ShortText = ""
    gpu_seconds: Seconds | None = None
    start_seconds: Seconds | None = None
    restarts: Annotated[Steps, Field(le=MAX_RESTARTS)] | None = None
    begun: list[Steps] | None = None
    started_at: Time | None = None
    updated_at: Time | None = None
    download_seconds: Seconds | None = None
    skipped_batches: Steps = 0
    nan_losses: Steps = 0

    @property
    def faults(self) -> str:
        """The steps that taught nothing, in words; empty if there are none."""
        counts = {
            "skipped for lack of memory": self.skipped_batches,
            "without a loss (NaN)": self.nan_losses,
        }
        return ", ".join(f"{counted(count, 'step')} {what}" for what, count in counts.items() if count)
