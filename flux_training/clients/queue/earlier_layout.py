"""Layout 1 of the bucket kept claims and posted jobs below runs/, where nodes can write. Only read until the bucket is migrated."""

import re
from collections.abc import Iterator, Mapping

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.queue.own_jobs import RunPlace
from flux_training.clients.records import read_record
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.records import PostedRecord
from flux_training.training.runs.run import Layout, RunKeys

POSTED = re.compile(rf"({JOB_NAME.pattern})/({RUN_ID.pattern})/posted\.json")


def posted_in_layout_1(storage: Storage, layout: Layout, kelpie: Kelpie) -> Mapping[RunKeys, Job]:
    """The job of each run that layout 1 recorded as posted. A record counts only if the job's own environment agrees.

    Lists runs/ and the queue once, and reads one object for each run. Raises ServiceError.
    """
    runs = list(_recorded(storage, layout))
    if not runs:
        return {}
    jobs = {job.id: job for job in kelpie.list_jobs()}
    records = in_parallel(lambda keys: read_record(storage, f"{keys.base}posted.json", PostedRecord), runs)
    named = ((keys, found.value) for keys, found in zip(runs, records, strict=True))
    posted = ((keys, jobs.get(record.kelpie_id)) for keys, record in named if record)
    return {keys: job for keys, job in posted if job and RunPlace.at(storage.bucket, keys).is_own(job)}


def _recorded(storage: Storage, layout: Layout) -> Iterator[RunKeys]:
    for item in storage.list(layout.runs):
        if match := POSTED.fullmatch(item.key.removeprefix(layout.runs)):
            yield layout.run(match[1], match[2])
