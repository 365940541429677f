"""The state of each declared run: from the bucket, and from the queue for those that are not finished in the bucket."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flux_training.clients.kelpie import Job, Kelpie
from flux_training.clients.pins import list_pin_keys
from flux_training.clients.queue.earlier_layout import posted_jobs_of_layout_1
from flux_training.clients.queue.own_jobs import RunPlace, choose_own_job, own_job
from flux_training.clients.queue.posting import Queue
from flux_training.clients.results import (
    RunResults,
    inspect_run,
    inspect_weights,
    posted_job_id,
    results_if_trusted,
)
from flux_training.clients.stack.services import StackServices
from flux_training.clients.storage import Storage
from flux_training.clients.verified import VerifiedWeightsCache
from flux_training.clients.waiting import in_parallel
from flux_training.training.jobs.declare import DeclaredJob
from flux_training.training.runs.run import RUN_ID_VARIABLE, RunKeys, config_digest
from flux_training.training.runs.run_state import ModelFolderContents, RunState, run_state


@dataclass(frozen=True)
class RunStates:
    """`by_job`: the state of each declared run, by job name. `unfinished`: ids of all unfinished runs in the queues of the stack's groups.

    `failing`: those of them that have failed on a node. `pinned`: the keys of the records of verified weights. `unproven`: names of
    jobs whose run has sound weights, although nothing shows that it was ever queued; `maybe_finished`: of such jobs if nodes can write
    all that could show it. The stack's state may know that they have finished.
    """

    by_job: Mapping[str, RunState]
    unfinished: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    unproven: frozenset[str] = frozenset()
    maybe_finished: frozenset[str] = frozenset()


def run_states_of(stack: StackServices, jobs: Sequence[DeclaredJob]) -> RunStates:
    """The states of the declared runs. Raises ServiceError.

    One listing shows which runs have verified weights. Takes one request for each other run, two to list each group's queue, and
    up to two more for a run that neither has.
    """
    storage, layout = stack.storage, stack.layout
    kelpie = stack.connection.kelpie()
    if not stack.bucket_exists:
        return RunStates({job.name: RunState.NEW for job in jobs})
    verified = VerifiedWeightsCache.load()
    # If nodes can write the records too, a record alone proves nothing.
    pinned = frozenset[str]() if stack.nodes_reach_records else list_pin_keys(storage, layout)

    everywhere = Queue(kelpie, None)
    sound = set[str]()

    def is_finished(job: DeclaredJob, fresh: bool = False) -> bool:
        keys = layout.run(job.name, job.run_id)
        if keys.results in pinned:
            return True
        found = _sound_results(storage, keys, job, verified)
        if not found.finished:
            return False
        sound.add(job.name)
        own = everywhere.own_jobs(RunPlace.at(storage.bucket, keys), fresh)
        return results_if_trusted(found, own, not stack.nodes_reach_records and was_queued(keys)).finished

    def was_queued(keys: RunKeys) -> bool:
        # In a bucket with an earlier layout, a run whose job the queue has forgotten has no record.
        return storage.head(keys.posted) is not None or stack.has_earlier_layout

    finished = dict(zip([job.name for job in jobs], in_parallel(is_finished, jobs), strict=True))
    verified.save()
    left = [job for job in jobs if not finished[job.name]]
    queued = jobs_in_container_groups(stack) if left else []
    places = [layout.run(job.name, job.run_id) for job in left]
    posted = posted_jobs_of_layout_1(storage, kelpie, places) if stack.has_earlier_layout else {}

    def state_of(job: DeclaredJob) -> RunState:
        listed = state_in_queue(queued, RunPlace.of(storage.bucket, layout, job.name, job.run_id))
        if listed and listed.has_ended and is_finished(job, fresh=True):
            # The run finished after the bucket was read and before the queue was listed.
            return RunState.COMPLETED
        keys = layout.run(job.name, job.run_id)
        return listed or (
            _state(posted[keys]) if keys in posted else state_of_posted_job(storage, kelpie, keys)
        )

    known = dict.fromkeys(finished, RunState.COMPLETED)
    states = known | dict(zip([job.name for job in left], in_parallel(state_of, left), strict=True))
    runs = {job.id: job.environment.get(RUN_ID_VARIABLE, "") for job in queued if job.unfinished}
    failing = frozenset(runs[job.id] for job in queued if job.id in runs and job.num_failures)
    new = frozenset(name for name in sound if states[name] is RunState.NEW)
    none = frozenset[str]()
    unproven, maybe_finished = (none, new) if stack.nodes_reach_records else (new, none)
    return RunStates(states, frozenset(runs.values()), failing, pinned, unproven, maybe_finished)


def _sound_results(
    storage: Storage, keys: RunKeys, job: DeclaredJob, verified: VerifiedWeightsCache
) -> RunResults:
    config = config_digest(job.image_set.manifest, job.folder.raw_config)
    return inspect_weights(storage, keys, job.folder.steps, verified, config)


def jobs_in_container_groups(stack: StackServices) -> list[Job]:
    """The queue's jobs for the stack's container groups; none for those that do not exist."""
    salad, kelpie = stack.connection.salad(), stack.connection.kelpie()
    groups = [salad.get_group(cluster.name) for cluster in stack.settings.all_clusters.values()]
    return [job for group in groups if group for job in kelpie.list_jobs(container_group_id=group.id)]


def state_in_queue(queued: Iterable[Job], place: RunPlace) -> RunState | None:
    """The state of an unfinished run by the queue's list; None if its job is not listed or was canceled."""
    job = choose_own_job(queued, place)
    return _state(job) if job else None


def state_of_run(storage: Storage, kelpie: Kelpie, keys: RunKeys, steps: int) -> RunState:
    """The state of one run, whatever container group it was queued for."""
    job = own_job(kelpie, posted_job_id(storage, keys), RunPlace.at(storage.bucket, keys))
    if inspect_run(storage, keys, steps, job).finished:
        return RunState.COMPLETED
    return _state(job) if job else RunState.NEW


def state_of_posted_job(storage: Storage, kelpie: Kelpie, keys: RunKeys) -> RunState:
    """The state of an unfinished run by the job that was posted for it; NEW if there is none."""
    job = own_job(kelpie, posted_job_id(storage, keys), RunPlace.at(storage.bucket, keys))
    return _state(job) if job else RunState.NEW


def _state(job: Job) -> RunState:
    return run_state(job.status, ModelFolderContents(done=False))
