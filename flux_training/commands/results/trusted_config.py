"""Whether train.yml and manifest.json in the bucket are what a run was made from. Nodes can write config/."""

import hashlib
from collections.abc import Mapping

from flux_training.clients.records import read_bounded
from flux_training.clients.storage import Storage
from flux_training.commands.watch.job_status import JobStatus
from flux_training.training.runs.records import RunRecord
from flux_training.training.runs.run import CONFIG_VARIABLE, config_digest, run_id
from flux_training.training.untrusted import MAX_MANIFEST_BYTES

CONFIG, MANIFEST = "train.yml", "manifest.json"
CHANGED_FILE = "not what the run was queued with: somebody changed train.yml, manifest.json or run.json; it is not fetched"


def trusted_config(status: JobStatus, storage: Storage, record: RunRecord) -> Mapping[str, str]:
    """The SHA-256 of both files by name; empty unless the run's id, and its job if the queue knows it, were made from them.

    `record` is only believed as far as the id agrees with it. Raises ServiceError.
    """
    keys, job = status.job.keys, status.queue_job
    config, manifest = (
        read_bounded(storage, f"{keys.config}{name}", MAX_MANIFEST_BYTES) or b""
        for name in (CONFIG, MANIFEST)
    )
    carried = job.environment.get(CONFIG_VARIABLE) if job else None
    is_same = run_id(manifest, config, record.attempt, record.parent) == keys.run
    if not is_same or carried not in (None, config_digest(manifest, config)):
        return {}
    return {CONFIG: hashlib.sha256(config).hexdigest(), MANIFEST: hashlib.sha256(manifest).hexdigest()}
