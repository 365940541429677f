"""The records of a run that nodes can write: run.json and done.json. components/training_job.py and the launcher write them."""

from flux_training.training.untrusted import (
    Bytes,
    RunId,
    Seconds,
    Sha256,
    ShortText,
    Steps,
    Time,
    UntrustedRecord,
    Usd,
)


class EstimateRecord(UntrustedRecord):
    """What the run was expected to take when it was queued. `usd` is the likely cost. `usd_an_hour`: the price of one replica."""

    usd: Usd | None = None
    usd_low: Usd | None = None
    usd_high: Usd | None = None
    seconds: Seconds | None = None
    gpu: ShortText = ""
    priority: ShortText = ""
    usd_an_hour: Usd | None = None
    basis: ShortText = ""


class RunRecord(UntrustedRecord):
    """run.json. `manifest`, `config` and `dataset` are SHA-256 digests."""

    version: Steps = 1
    job: ShortText = ""
    run_id: RunId | None = None
    attempt: Steps = 1
    parent: RunId | None = None
    dataset: Sha256 | None = None
    manifest: Sha256 | None = None
    config: Sha256 | None = None
    steps: Steps = 0
    launcher: Steps = 1
    owner: ShortText = ""
    created_at: Time | None = None
    estimate: EstimateRecord | None = None


class DoneRecord(UntrustedRecord):
    """done.json: the launcher has verified the weights."""

    sha256: Sha256 | None = None
    size: Bytes | None = None
    step: Steps | None = None
