"""A run: one training of one train.yml on one dataset with captions. Its id and its object keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

# A part of every run id. Raise it only if a new launcher changes the result of training.
LAUNCHER_CONTRACT = 1
RUN_ID_VARIABLE = "FLUX_RUN_ID"
ATTEMPT_VARIABLE = "FLUX_ATTEMPT"
JOB_VARIABLE = "FLUX_JOB"
CONFIG_VARIABLE = "FLUX_CONFIG_SHA256"
# Wan 2.2 14B has one transformer for each of these noise stages, and its LoRA has one
# file for each (flux_training/node/launcher/settings.py).
NOISE_STAGES = ("high_noise", "low_noise")
# An environment variable of a container group that names the stack it belongs to, as `<project>/<stack>`.
OWNER_VARIABLE = "FLUX_OWNER"


def run_id(manifest: bytes, raw_config: bytes, attempt: int = 1, parent: str | None = None) -> str:
    """12 hex digits that identify what a run trains. A run with the same id is never queued twice."""
    digest = hashlib.sha256()
    for part in (
        manifest,
        raw_config,
        str(LAUNCHER_CONTRACT).encode(),
        str(attempt).encode(),
        (parent or "").encode(),
    ):
        # Hash the length of each part first, so that different parts cannot produce the same bytes.
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def config_digest(manifest: bytes, raw_config: bytes) -> str:
    """64 hex digits that a queued job carries for its launcher, which computes the same (flux_training/node/launcher/settings.py)."""
    digest = hashlib.sha256()
    for part in (manifest, raw_config):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
    """Object keys below the stack's prefix (empty, or ending in a slash)."""

    prefix: str

    @property
    def own(self) -> str:
        """The stack's own records."""
        return f"{self.prefix}.flux/"

    @property
    def owner(self) -> str:
        return f"{self.own}owner.json"

    @property
    def run_records(self) -> str:
        """The records of all runs. Keys made for nodes do not reach them."""
        return f"{self.own}runs/"

    @property
    def datasets(self) -> str:
        return f"{self.prefix}datasets/"

    def dataset(self, digest: str) -> str:
        return f"{self.datasets}{digest}/"

    @property
    def dataset_indexes(self) -> str:
        return f"{self.own}datasets/"

    def dataset_index(self, digest: str) -> str:
        return f"{self.dataset_indexes}{digest}.json"

    def dataset_references(self, digest: str) -> str:
        return f"{self.own}references/{digest}/"

    @property
    def runs(self) -> str:
        return f"{self.prefix}runs/"

    def run(self, job: str, run: str) -> RunKeys:
        return RunKeys(f"{self.runs}{job}/{run}/", job)


class RunKeys:
    """The keys of one run's objects. Folders end in a slash."""

    def __init__(self, base: str, job: str) -> None:
        """`base`: `<prefix>runs/<job>/<run id>/`."""
        folder, _, self.run = base.rstrip("/").rpartition("/")
        self.layout = Layout(folder.removesuffix(f"runs/{job}"))
        own = f"{self.layout.run_records}{job}/{self.run}/"
        self.base = base
        self.job = job
        self.runs_of_job = f"{folder}/"
        self.config = f"{base}config/"
        self.output = f"{base}output/"
        self.model = f"{base}model/"
        self.claim = f"{own}claim.json"
        # Which Kelpie job was posted for which claim. Not stored in the claim itself, because R2 allows one
        # write per second to each key.
        self.posted = f"{own}posted.json"
        # Names a Kelpie job that was removed from the stack, or that a watcher cancels in order to
        # queue the run again.
        self.requeue = f"{own}requeue.json"
        # Marks a run of bucket layout 1 whose job Kelpie no longer knew when the bucket was migrated.
        self.earlier = f"{own}earlier.json"
        # Where weights are moved that already existed when the run was queued for the first time.
        self.set_aside = f"{self.layout.own}set-aside/{job}/{self.run}/"
        # Lists the weights that passed verification first.
        self.results = f"{own}results.json"
        self.record = f"{self.output}run.json"
        self.progress = f"{self.output}progress.json"
        self.weights = f"{self.model}{job}.safetensors"
        self.stages = tuple(f"{self.model}{job}_{stage}.safetensors" for stage in NOISE_STAGES)
        self.done = f"{self.model}done.json"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunKeys) and self.base == other.base and self.job == other.job

    def __hash__(self) -> int:
        return hash((self.base, self.job))
