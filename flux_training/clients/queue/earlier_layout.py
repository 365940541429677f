"""Layout 1 of the bucket kept claims and posted jobs below runs/, where nodes can write. Only read until the bucket is migrated."""

from collections.abc import Mapping, Sequence

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.records import read_record
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.runs.records import PostedRecord
from flux_training.training.runs.run import RunKeys


def posted_jobs_of_layout_1(
    storage: Storage, kelpie: Kelpie, runs: Sequence[RunKeys]
) -> Mapping[RunKeys, Job]:
    """The job of each of these runs that layout 1 recorded as posted. A record counts only if the job's own environment agrees.

    Reads one object for each run, then lists the queue once. Raises ServiceError.
    """
    records = in_parallel(lambda keys: read_record(storage, f"{keys.base}posted.json", PostedRecord), runs)
    if not any(found.value for found in records):
        return {}
    jobs = {job.id: job for job in kelpie.list_jobs()}
    named = ((keys, found.value) for keys, found in zip(runs, records, strict=True))
    posted = ((keys, jobs.get(record.kelpie_id)) for keys, record in named if record)
    return {keys: job for keys, job in posted if job and RunPlace.at(storage.bucket, keys).is_own(job)}
