"""A run's progress.json. A node writes it, so missing and invalid fields count as absent."""

from collections.abc import Iterable
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
# The launcher keeps only the most recent resumes in progress.json.
MAX_RESUMED = 100


class RunProgress(UntrustedRecord):
    """`loss_first` and `loss` are means over the first and the last `loss_steps` steps. `gpu_seconds` covers all restarts.

    Times are UTC by the node's clock.

    `state` is starting, training, verifying, finished, failed, canceled or interrupted; empty before the launcher's first report.
    `begun`: the step that the last start began with, and how many starts in a row began with it. `resumed`: the steps that the
    starts after the first began with. `restart_seconds`: from the trainer's start to its first step, summed over these starts;
    `repeated_seconds`: the time of the steps that they trained again. Older launchers write none of the three.
    """

    model_config = ConfigDict(validate_by_name=True)

    state: Word = ""
    message: Message = ""
    step: Steps | None = None
    steps: Steps | None = None
    loss: Loss | None = Field(None, alias="loss_smoothed")
    loss_first: Loss | None = None
    loss_steps: Steps | None = None
    seconds_per_step: Seconds | None = None
    eta_seconds: Seconds | None = None
    gpu: ShortText = ""
    trainer: ShortText = ""
    gpu_seconds: Seconds | None = None
    start_seconds: Seconds | None = None
    restarts: Annotated[Steps, Field(le=MAX_RESTARTS)] | None = None
    restart_seconds: Seconds | None = None
    repeated_seconds: Seconds | None = None
    begun: list[Steps] | None = None
    resumed: list[Steps] = Field(default_factory=list, max_length=MAX_RESUMED)
    started_at: Time | None = None
    updated_at: Time | None = None
    download_seconds: Seconds | None = None
    skipped_batches: Steps = 0
    nan_losses: Steps = 0

    @property
    def loss_name(self) -> str:
        """`loss (mean of 50 steps)`: the name of `loss` and `loss_change` wherever they are shown."""
        return f"loss (mean of {counted(self.loss_steps, 'step')})" if self.loss_steps else "loss"

    @property
    def loss_change(self) -> str:
        """`0.7512 → 0.0498`, the loss at the start and at the end; empty if one of them is unknown."""
        if self.loss_first is None or self.loss is None:
            return ""
        return f"{self.loss_first:.4f} → {self.loss:.4f}"

    @property
    def faults(self) -> str:
        """The steps that taught nothing, in words; empty if there are none."""
        counts = {
            "skipped for lack of memory": self.skipped_batches,
            "without a loss (NaN)": self.nan_losses,
        }
        return ", ".join(f"{counted(count, 'step')} {what}" for what, count in counts.items() if count)


def loss_note(progresses: Iterable[RunProgress]) -> str:
    """Explains a column of losses: `Loss: mean of 50 steps.`; empty if no loss has a number of steps."""
    steps = sorted({one.loss_steps for one in progresses if one.loss_steps and one.loss is not None})
    if not steps:
        return ""
    few = f"{steps[0]:,} to " if len(steps) > 1 else ""
    return f"Loss: mean of {few}{counted(steps[-1], 'step')}."
