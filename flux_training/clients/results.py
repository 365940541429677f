"""A run's objects in the bucket, read with few requests. Nodes can write most of them: all are read with limits."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flux_training.clients.errors import NotFound
from flux_training.clients.kelpie import Job
from flux_training.clients.pins import StoredWeights, read_pin
from flux_training.clients.queue.hand_outs import (
    MAX_PLANTED,
    TOO_EARLY,
    TOO_LATE,
    PlantedObjects,
    find_planted_objects,
    reason_to_doubt_weights,
)
from flux_training.clients.queue.hung_nodes import last_hand_out
from flux_training.clients.queue.recorded_runs import recorded_runs
from flux_training.clients.records import listed, read_bounded, read_record
from flux_training.clients.stack.owner import read_mark
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.clients.verified import NOTHING_VERIFIED, VerifiedWeightsCache
from flux_training.training.runs.changes import Inputs
from flux_training.training.runs.handout import HandOut, HandOutState, is_trained_elsewhere, judge
from flux_training.training.runs.lineage import PastRun
from flux_training.training.runs.pins import PinnedWeights
from flux_training.training.runs.progress import RunProgress
from flux_training.training.runs.records import PostedRecord, RunRecord
from flux_training.training.runs.run import (
    CONFIG_VARIABLE,
    NOISE_STAGES,
    Layout,
    RunKeys,
    config_digest,
)
from flux_training.training.runs.run_state import (
    NO_REPORT,
    ModelFolderContents,
    RunState,
    explain_failure,
    run_state,
)
from flux_training.training.runs.weights import (
    LENGTH_BYTES,
    WeightsHeader,
    header_length,
    header_problems,
    parse_header,
)
from flux_training.training.untrusted import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, Parsed, parse_object

# The maximum size of train.yml, which usually has about a hundred lines.
MAX_CONFIG_BYTES = 256 * 1024
# The maximum number of objects listed in model/ (one page). The folder normally has two or three.
MAX_LISTED = 1000
MAX_CHECKPOINTS = 100
MAX_LISTED_CHECKPOINTS = 20 * MAX_LISTED
# The maximum size of a safetensors header. FLUX has 500 layers with two matrices each, described by 140 bytes.
USUAL_HEADER_BYTES = 160 * 1024
CHANGED_CONFIG = "train.yml or manifest.json in the bucket's config/ is not the one that the job was queued with: somebody changed it"


@dataclass(frozen=True)
class RunResults:
    """A run's weights. `pin`: those that were verified first, if that was recorded; `weights`: what is there now, if it is complete."""

    evidence: ModelFolderContents
    pin: PinnedWeights | None = None
    weights: StoredWeights | None = None

    @property
    def are_unproven(self) -> bool:
        """Whether they are sound, but nobody has verified them before: is there a node that can have written them?"""
        return self.finished and self.pin is None

    @property
    def finished(self) -> bool:
        return self.evidence.finished


NO_RESULTS = RunResults(ModelFolderContents(done=False))


@dataclass(frozen=True)
class RunStatus:
    """The status of a run now. `reason` is empty unless it failed; `findings` says what is wrong with its progress.json.

    `hand_out` is None unless the queue says that the job is running. `results`: the weights. `planted`: see Planted.count.
    """

    state: RunState
    reason: str
    progress: RunProgress
    findings: tuple[str, ...] = ()
    hand_out: HandOutState | None = None
    results: RunResults = NO_RESULTS
    planted: int = 0


def run_status(
    storage: Storage, keys: RunKeys, steps: int, job: Job | None, stall_minutes: float
) -> RunStatus:
    """The status of a run, from the queue and the bucket. Raises ServiceError."""
    results = inspect_run(storage, keys, steps, job)
    evidence = results.evidence
    waiting = job is not None and job.status == RunState.PENDING
    found = Parsed[RunProgress]() if waiting else read_record(storage, keys.progress, RunProgress)
    progress = found.value or RunProgress()
    handed_out = None if job is None else _job_hand_out(storage, keys, job, progress)
    hand_out, stalled = None, ""
    if job is not None and handed_out is not None and job.status == RunState.RUNNING and not evidence.done:
        hand_out, stalled = judge(handed_out, job.environment, datetime.now(UTC), stall_minutes)
    state = run_state(job.status if job else None, evidence, stalled)
    is_stale = handed_out is not None and not handed_out.has_reported
    if state is RunState.WITHOUT_WEIGHTS and _is_trained_elsewhere(handed_out, progress, stall_minutes):
        state = RunState.RUNNING
        hand_out = HandOutState.STARTING if is_stale else HandOutState.REPORTED
    message = NO_REPORT if state is RunState.FAILED and (is_stale or not found.value) else progress.message
    reason = explain_failure(state, evidence, message, stalled)
    doubts = [f"{keys.model}: {doubt}" for doubt in (TOO_EARLY, TOO_LATE) if doubt in evidence.problems]
    planted = find_planted_objects(storage, keys, job) if job else PlantedObjects()
    if planted.has_more:
        doubts.append(
            f"{keys.output} has more than {MAX_PLANTED:,} objects; only the first {MAX_PLANTED:,} were examined"
        )
    return RunStatus(state, reason, progress, (*found.faults, *doubts), hand_out, results, planted.count)


def _is_trained_elsewhere(job: HandOut | None, progress: RunProgress, stall_minutes: float) -> bool:
    return job is not None and is_trained_elsewhere(job, progress.state, datetime.now(UTC), stall_minutes)


def _job_hand_out(storage: Storage, keys: RunKeys, job: Job, report: RunProgress) -> HandOut | None:
    """The job's last hand-out. None unless a node had it."""
    if job.status not in (RunState.RUNNING, RunState.FAILED, RunState.COMPLETED):
        return None
    return last_hand_out(storage, keys, job, report.state == "failed")


def inspect_run(storage: Storage, keys: RunKeys, steps: int, job: Job | None = None) -> RunResults:
    """The run's weights, compared with those that were verified first. `job`: the run's in the queue. Raises ServiceError.

    Weights that nobody has verified before are only believed if train.yml and manifest.json are still those of the job, and
    if a node can have trained the run.
    """
    found = read_stored_results(storage, keys, steps, job)
    if not found.are_unproven:
        return found
    return results_if_trusted(found, [job] if job else [], job is None and _was_queued(storage, keys))


def _was_queued(storage: Storage, keys: RunKeys) -> bool:
    """Whether a record says so. Earlier layouts have none of a run whose job the queue has forgotten."""
    if listed(storage, keys.posted) is not None:
        return True
    mark = read_mark(storage, keys.layout)
    return mark is not None and not mark.is_current


def results_if_trusted(results: RunResults, jobs: Iterable[Job], is_posted: bool) -> RunResults:
    """The results, or why no node can have written these weights for this run. `jobs`, `is_posted`: see doubt_about."""
    doubt = reason_to_doubt_weights(jobs, results.weights, is_posted)
    if not doubt:
        return results
    return RunResults(ModelFolderContents(done=True, problems=(doubt,)), results.pin, results.weights)


def read_stored_results(storage: Storage, keys: RunKeys, steps: int, job: Job | None = None) -> RunResults:
    """What the bucket has, also weights that no node can have written for this run. Raises ServiceError."""
    there = _list_model_folder(storage, keys)
    if keys.done not in there and job is not None and job.unfinished:
        return NO_RESULTS
    pin = read_pin(storage, keys)
    if pin is not None:
        weights = _complete_weights(there, keys.stages if pin.stages else (keys.weights,))
        changed = pin.difference(weights.size if weights else None, weights.etag if weights else "")
        return RunResults(ModelFolderContents(done=True, changed=changed), pin, weights)
    expected = job.environment.get(CONFIG_VARIABLE) if job else None
    evidence = _inspect(storage, keys, steps, there, NOTHING_VERIFIED, expected)
    return RunResults(evidence, None, _complete_weights(there, _weights_keys(there, keys)))


def inspect_weights(
    storage: Storage, keys: RunKeys, steps: int, verified: VerifiedWeightsCache, config: str
) -> RunResults:
    """The same for a run that is known to have no record of verified weights. `config`: its digest of train.yml and manifest.json.

    One request, and for a finished run three more unless its weights are `verified`. Raises ServiceError.
    """
    there = _list_model_folder(storage, keys)
    evidence = _inspect(storage, keys, steps, there, verified, config)
    return RunResults(evidence, None, _complete_weights(there, _weights_keys(there, keys)))


def _inspect(
    storage: Storage,
    keys: RunKeys,
    steps: int,
    there: Mapping[str, ObjectInfo],
    verified: VerifiedWeightsCache,
    config: str | None,
) -> ModelFolderContents:
    if keys.done not in there:
        return ModelFolderContents(done=False)
    wanted = _weights_keys(there, keys)
    weights = _complete_weights(there, wanted)
    if weights is None:
        missing = next(key for key in wanted if key not in there)
        return ModelFolderContents(done=True, problems=(f"{missing} is missing",))
    if all(verified.knows(storage, file, steps) for file in weights.files):
        return ModelFolderContents(done=True)
    found = problems_of_weights(storage, weights, steps)
    if not found and config and not _has_config(storage, keys, config):
        found = [CHANGED_CONFIG]
    if not found:
        for file in weights.files:
            verified.add(storage, file, steps)
    return ModelFolderContents(done=True, problems=tuple(found))


def _has_config(storage: Storage, keys: RunKeys, expected: str) -> bool:
    """Whether the files in config/ have this digest. Missing ones cannot mislead anyone."""
    manifest = read_bounded(storage, f"{keys.config}manifest.json", MAX_MANIFEST_BYTES)
    raw_config = read_bounded(storage, f"{keys.config}train.yml", MAX_MANIFEST_BYTES)
    return manifest is None or raw_config is None or config_digest(manifest, raw_config) == expected


def _list_model_folder(storage: Storage, keys: RunKeys) -> dict[str, ObjectInfo]:
    """done.json and the weights, if they exist. A node could fill the folder, so at most MAX_LISTED objects are listed."""
    wanted = (keys.done, keys.weights, *keys.stages)
    there: dict[str, ObjectInfo] = {}
    for number, item in enumerate(storage.list(keys.model)):
        if number == MAX_LISTED:
            return {key: found for key in wanted if (found := listed(storage, key))}
        if item.key in wanted:
            there[item.key] = item
        if item.key >= max(wanted):
            break
    return there


def _weights_keys(there: Mapping[str, ObjectInfo], keys: RunKeys) -> tuple[str, ...]:
    """The objects that a run's weights consist of, if nobody has verified them before."""
    is_staged = keys.weights not in there and any(key in there for key in keys.stages)
    return keys.stages if is_staged else (keys.weights,)


def _complete_weights(there: Mapping[str, ObjectInfo], wanted: tuple[str, ...]) -> StoredWeights | None:
    files = tuple(there[key] for key in wanted if key in there)
    return StoredWeights(files) if len(files) == len(wanted) else None


def read_json(storage: Storage, key: str) -> dict[str, Any] | None:
    """The object as a JSON mapping; None if there is none, or if it is something else, too long or too deep."""
    value = parse_object(read_bounded(storage, key, MAX_RECORD_BYTES + 1) or b"")
    return value if isinstance(value, dict) else None


def problems_of_weights(storage: Storage, weights: StoredWeights, steps: int) -> list[str]:
    """Why these are not the result of so many steps; empty if they are. Raises ServiceError."""
    if len(weights.files) == 1:
        return _file_problems(storage, weights.files[0], steps)
    names = {file: file.key.rpartition("/")[2] for file in weights.files}
    return [f"{names[file]}: {fault}" for file in names for fault in _file_problems(storage, file, steps)]


def _file_problems(storage: Storage, weights: ObjectInfo, steps: int) -> list[str]:
    try:
        header = weights_header(storage, weights.key)
    except NotFound:
        return [f"{weights.key} is missing"]
    except ValueError as error:
        return [str(error)]
    return header_problems(header, weights.size, steps)


def weights_header(storage: Storage, key: str) -> WeightsHeader:
    """The header of a safetensors object, in one read if it has the usual length, else in two. Raises NotFound, ValueError."""
    beginning = storage.get_range(key, 0, USUAL_HEADER_BYTES)
    whole = LENGTH_BYTES + header_length(beginning)
    return parse_header(beginning if whole <= len(beginning) else storage.get_range(key, 0, whole))


def posted_job_id(storage: Storage, keys: RunKeys) -> str:
    """The id of the job that was posted for the run; empty if there is no record. Only `own_job` tells whose job it is."""
    found = read_record(storage, keys.posted, PostedRecord).value
    return found.kelpie_id if found else ""


def list_past_runs(storage: Storage, layout: Layout, job: str) -> list[PastRun]:
    """The runs of a job that the stack has queued, also those whose run.json is gone: nodes can delete it. Raises ServiceError."""
    return [
        PastRun(run, _queued_at(storage, layout.run(job, run)))
        for _, run in recorded_runs(storage, layout, job)
    ]


def _queued_at(storage: Storage, keys: RunKeys) -> str:
    """When the run was queued, by run.json or else by its claim, in ISO 8601; empty if neither says it."""
    record = read_record(storage, keys.record, RunRecord).value
    created = record.created_at if record else None
    if created is None and (claim := listed(storage, keys.claim)):
        created = claim.modified
    return created.isoformat(timespec="seconds") if created else ""


def newest_sound_checkpoint(
    storage: Storage, keys: RunKeys, before: int | None = None
) -> tuple[str, int] | None:
    """(key, step) of the run's valid checkpoint with the most steps, of the newest MAX_CHECKPOINTS by their names.

    `before`: only of those with fewer steps than this.

    Lists only names that begin with the job's, as the trainer's do, and at most MAX_LISTED_CHECKPOINTS of them. Of a LoRA for
    two noise stages, the checkpoint is valid if both files are, and the key is that of one of them.
    """
    beginning = f"{keys.output}{keys.job}"
    listed = itertools.islice(storage.list(beginning), MAX_LISTED_CHECKPOINTS)
    files = [
        item
        for item in listed
        if item.key.endswith(".safetensors") and "/" not in item.key.removeprefix(beginning)
    ]
    # The file of the final weights has no step in its name and sorts before all checkpoints.
    final = {f"{beginning}.safetensors", *(f"{beginning}_{stage}.safetensors" for stage in NOISE_STAGES)}
    files.sort(key=lambda item: (item.key in final, item.key))
    sound = {
        item.key: header.step
        for item in files[-MAX_CHECKPOINTS:]
        if (header := _read_sound_header(storage, item)) is not None and header.step is not None
    }
    whole = [
        (key, step)
        for key, step in sound.items()
        if sound.get(_key_of_other_noise_stage(key, beginning)) == step
    ]
    usable = whole if before is None else [found for found in whole if found[1] < before]
    return max(usable, key=lambda found: found[1], default=None)


def _key_of_other_noise_stage(key: str, beginning: str) -> str:
    """The other file of a LoRA for two noise stages; the same one if it has one file."""
    high, low = (f"_{stage}.safetensors" for stage in NOISE_STAGES)
    name = key.removeprefix(beginning)
    swapped = name.replace(high, low) if name.endswith(high) else name.replace(low, high)
    return f"{beginning}{swapped}"


def _read_sound_header(storage: Storage, item: ObjectInfo) -> WeightsHeader | None:
    try:
        header = weights_header(storage, item.key)
    except (NotFound, ValueError):  # The object may have been deleted since it was listed.
        return None
    return header if header.tensors and header.data_end == item.size else None


def inputs_of_run(storage: Storage, keys: RunKeys) -> Inputs | None:
    """What a past run was made of; None if the bucket lacks a part, or has another than the run's id was made from."""
    found = read_stored_inputs(storage, keys)
    return found if found and found.run_id == keys.run else None


def read_stored_inputs(storage: Storage, keys: RunKeys) -> Inputs | None:
    """What the bucket has of a past run, which nodes can change; None if it lacks a part. Raises ServiceError."""
    manifest = read_bounded(storage, f"{keys.config}manifest.json", MAX_MANIFEST_BYTES)
    raw_config = read_bounded(storage, f"{keys.config}train.yml", MAX_CONFIG_BYTES)
    record = read_record(storage, keys.record, RunRecord).value
    if manifest is None or raw_config is None or record is None:
        return None
    return Inputs(manifest, raw_config, record.attempt or 1, record.parent)
