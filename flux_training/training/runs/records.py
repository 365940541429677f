"""The records of a run: run.json and done.json, which nodes can write, and those of its job below `.flux/`.

components/training_job.py, flux_training/clients/queue/ and the launcher write them.
"""

from typing import Annotated, Literal

from pydantic import Field

from flux_training.training.runs.pins import StageDigests
from flux_training.training.untrusted import (
    Attempt,
    Bytes,
    RunId,
    Seconds,
    Sha256,
    ShortText,
    Steps,
    Time,
    UntrustedRecord,
    Usd,
    UsdAnHour,
)

# Kelpie's job ids are UUIDs. They become part of a URL, so the pattern excludes special characters.
KelpieId = Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9-]{0,63}\z")]
HubId = Annotated[str, Field(pattern=r"\A[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}\z")]
Token = Annotated[str, Field(min_length=1, max_length=100)]


class EstimateRecord(UntrustedRecord):
    """What the run was expected to take when it was queued. `usd` is the likely cost. `usd_an_hour`: the price of one replica.

    `idle_seconds`: its share of the time for which replicas idle after their last job.
    """

    usd: Usd | None = None
    usd_low: Usd | None = None
    usd_high: Usd | None = None
    seconds: Seconds | None = None
    gpu: ShortText = ""
    priority: ShortText = ""
    usd_an_hour: UsdAnHour | None = None
    idle_seconds: Seconds | None = None
    basis: ShortText = ""


class RunRecord(UntrustedRecord):
    """run.json. `manifest`, `config` and `dataset` are SHA-256 digests.

    `weights_in_image`: the id on Hugging Face of what the image's `/model` held; empty if unknown, as in older records.
    """

    version: Steps = 1
    job: ShortText = ""
    run_id: RunId | None = None
    attempt: Attempt = 1
    parent: RunId | None = None
    dataset: Sha256 | None = None
    manifest: Sha256 | None = None
    config: Sha256 | None = None
    steps: Steps = 0
    launcher: Steps = 1
    owner: ShortText = ""
    created_at: Time | None = None
    estimate: EstimateRecord | None = None
    weights_in_image: HubId | Literal[""] = ""


class DoneRecord(UntrustedRecord):
    """done.json: the launcher has verified the weights. `stages`: of a LoRA of two files."""

    sha256: Sha256 | None = None
    size: Bytes | None = None
    step: Steps | None = None
    stages: StageDigests | None = None

    def digests(self, files: int) -> tuple[str, ...] | None:
        """The SHA-256 of each of so many files; None if it does not say them."""
        if files > 1:
            return self.stages.in_order if self.stages else None
        return (self.sha256,) if self.sha256 else None


class PostedRecord(UntrustedRecord):
    """posted.json: the job that was posted for the run. `claim` is the token of the claim under which that happened."""

    kelpie_id: KelpieId
    claim: Token | None = None


class RequeueRecord(UntrustedRecord):
    """requeue.json: the job that a watcher cancels in order to queue the run again."""

    kelpie_id: KelpieId
