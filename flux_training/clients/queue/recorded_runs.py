"""Which runs the stack has queued. Nodes can make folders below runs/, but not the records of a run below `.flux/`."""

import itertools
from collections.abc import Iterable, Mapping

from flux_training.clients.stack.owner import read_mark
from flux_training.clients.storage import Folders, Storage
from flux_training.training.names import JOB_NAME, RUN_ID
from flux_training.training.runs.run import Layout

# Each run has three records. Keys that are valid for the whole bucket can write records too, so their number is limited.
MAX_RECORDS = 100_000


def recorded_runs(storage: Storage, layout: Layout, job: str = "") -> list[tuple[str, str]]:
    """(job, run id) of the runs of a job, or of all jobs, sorted. Raises ServiceError, and FluxError for a newer layout.

    Until `up` has moved the records of an earlier version's bucket, some runs have none: folders count too.
    """
    # Read the owner mark first: its layout version changes only when all records have been written.
    mark = read_mark(storage, layout)
    below = f"{layout.run_records}{job}/" if job else layout.run_records
    keys = (item.key for item in itertools.islice(storage.list(below), MAX_RECORDS))
    found = _jobs_and_runs_in(key.removeprefix(layout.run_records) for key in keys)
    if mark is not None and mark.is_current:
        return found
    return sorted({*found, *run_folders(storage, layout, job)})


def run_folders(storage: Storage, layout: Layout, job: str = "") -> list[tuple[str, str]]:
    """(job, run id) of the folders below runs/, which nodes can make too. Raises ServiceError."""
    return runs_in(layout, list_run_folders(storage, layout, job))


def list_run_folders(storage: Storage, layout: Layout, job: str = "") -> Mapping[str, Folders]:
    """The folders of jobs and those of their runs, by the prefix that was listed."""
    found = {} if job else {layout.runs: storage.list_folders(layout.runs)}
    for name in filter(JOB_NAME.fullmatch, [job] if job else found[layout.runs].names):
        below = f"{layout.runs}{name}/"
        found[below] = storage.list_folders(below)
    return found


def runs_in(layout: Layout, folders: Mapping[str, Folders]) -> list[tuple[str, str]]:
    """(job, run id) of what `list_run_folders` has found, sorted."""
    below = {prefix.removeprefix(layout.runs): found.names for prefix, found in folders.items()}
    return _jobs_and_runs_in(f"{job}{run}/" for job, names in below.items() for run in names)


def _jobs_and_runs_in(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The jobs and runs in `<job>/<run id>/…`, without other names."""
    parts = (path.split("/") for path in paths)
    found = {(one[0], one[1]) for one in parts if len(one) > 2}
    return sorted((job, run) for job, run in found if JOB_NAME.fullmatch(job) and RUN_ID.fullmatch(run))
