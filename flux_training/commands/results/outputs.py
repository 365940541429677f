"""Copies a run's results from the bucket to outputs/<stack>/<job>/<run id>/. Skips what is up to date; keeps files that the user changed."""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from flux_training.clients.errors import ServiceError, WrongContent
from flux_training.clients.kelpie import Job
from flux_training.clients.records import read_record
from flux_training.clients.storage import ObjectInfo, Storage
from flux_training.commands.results.download import download, sha256_of_file
from flux_training.commands.results.trusted_config import CHANGED_FILE, CONFIG, MANIFEST, trusted_config
from flux_training.commands.results.trusted_weights import choose_weights, wrong_digest_hint
from flux_training.commands.watch.job_status import JobStatus
from flux_training.training.bill import cost_record_of_run
from flux_training.training.estimates.actuals import run_cost
from flux_training.training.files import write_atomically
from flux_training.training.names import IMAGE_SUFFIXES, path_below
from flux_training.training.runs.records import EstimateRecord, RunRecord
from flux_training.training.runs.run import NOISE_STAGES, RunKeys
from flux_training.training.untrusted import MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES, parse_object
from flux_training.training.values import mapping
from flux_training.training.words import DEFAULT_STACK, flux_command, one_line

RECORD = "run.json"
# The index file in each folder: whose results the folder has, and the ETag, size and SHA-256 of each fetched file. A file that
# still matches its entry may be replaced.
INDEX = ".fetched.json"
# The launcher and this command rewrite these files during a run, and users do not edit them.
GENERATED = frozenset({"progress.json", "done.json", "loss.csv", RECORD})
MAX_PARALLEL_DOWNLOADS = 8
# Limits for what a node can make this program store. A sample of 2048 pixels has 5 MB; the launcher limits loss.csv to 16 MB.
MAX_TEXT_BYTES = 16 * 1024 * 1024
MAX_SAMPLE_BYTES = 64 * 1024 * 1024
MAX_SAMPLES_BYTES = 8 * 1024**3
MAX_WEIGHTS_BYTES = 64 * 1024**3
MAX_OBJECTS = 20_000
CHECKPOINT_ENDING = re.compile(rf"_\d{{9}}(_({'|'.join(NOISE_STAGES)}))?\.safetensors", re.ASCII)
MAX_MESSAGES = 20

Index = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RemoteFile:
    """An object and its file name here. `sha256` is known for the weights, train.yml and manifest.json."""

    info: ObjectInfo
    name: str
    sha256: str | None = None

    @property
    def is_weights(self) -> bool:
        return "/" not in self.name and self.name.endswith(".safetensors")


@dataclass
class RemoteFiles:
    """The files to fetch, and why others are refused, by name."""

    files: list[RemoteFile] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    sample_bytes: int = 0

    def refuse_weights(self, why: str) -> None:
        """Do not fetch the weights, nor done.json, which describes them."""
        for file in [one for one in self.files if one.is_weights or one.name == "done.json"]:
            self.files.remove(file)
        self.refused["weights"] = why

    def trust_weights(self, digests: Mapping[str, str | None]) -> None:
        """Fetch only the weights with these keys, with these digests."""
        weights = [one for one in self.files if one.is_weights]
        self.files = [one for one in self.files if not one.is_weights]
        self.files += [
            replace(one, sha256=digests[one.info.key]) for one in weights if one.info.key in digests
        ]

    def trust_config(self, digests: Mapping[str, str]) -> None:
        """Fetch train.yml and manifest.json only with these digests."""
        for file in [one for one in self.files if one.name in (CONFIG, MANIFEST)]:
            self.files.remove(file)
            if file.name in digests:
                self.files.append(replace(file, sha256=digests[file.name]))
            else:
                self.refused[file.name] = CHANGED_FILE

    def add(self, file: RemoteFile) -> None:
        """Accept or refuse a file by its name and size."""
        folder, _, name = file.name.rpartition("/")
        limit = _max_size(file.name)
        if path_below(Path(), *filter(None, folder.split("/")), name) is None or folder.count("/"):
            self.refused[file.name] = "not the name of a sample; it is not fetched"
        elif file.info.size > limit:
            self.refused[file.name] = f"{file.info.size} bytes are more than {limit}; it is not fetched"
        elif folder == "samples" and self.sample_bytes + file.info.size > MAX_SAMPLES_BYTES:
            self.refused[file.name] = (
                f"the samples have more than {MAX_SAMPLES_BYTES} bytes; it is not fetched"
            )
        else:
            self.sample_bytes += file.info.size if folder == "samples" else 0
            self.files.append(file)


def _max_size(name: str) -> int:
    """In bytes."""
    if name.endswith(".safetensors"):
        return MAX_WEIGHTS_BYTES
    return MAX_SAMPLE_BYTES if name.startswith("samples/") else MAX_TEXT_BYTES


class DownloadDecision(Enum):
    KEEP = auto()  # The local file is up to date.
    FETCH = auto()
    DIFFERS = auto()  # The user changed the local file, so it is replaced only with --force.


@dataclass(frozen=True)
class FetchOptions:
    """`force` overwrites files that the user changed. `on_total` gets the bytes to download, `on_bytes` those that arrived.

    `accept_changed`: take the weights that are in the bucket now in place of those that were verified first.
    `stack` is named in messages. `owner` is the stack as `<project>/<stack>`: a folder holds the results of one owner.
    `local`: the run was trained by the stand-in trainer of the local cloud. `adopt_from` is a folder to which an earlier
    version fetched runs as <job>/<run id>/; what is still valid there is not downloaded again.
    """

    force: bool = False
    accept_changed: bool = False
    checkpoints: bool = False
    stack: str = DEFAULT_STACK
    owner: str = ""
    local: bool = False
    adopt_from: Path | None = None
    on_total: Callable[[int], None] = lambda _: None
    on_bytes: Callable[[int], None] = lambda _: None


@dataclass(frozen=True)
class FetchResult:
    """`differing` names the files that were kept because they may hold a user's changes; `failed` has error messages.

    `kept` counts the files that are up to date, `adopted` those of them that were taken from `FetchOptions.adopt_from`.
    """

    folder: Path
    new: int
    kept: int
    differing: list[str]
    failed: list[str]
    adopted: int = 0


def fetch_results(
    status: JobStatus,
    storage: Storage,
    outputs: Path,
    price: float | None = None,
    options: FetchOptions | None = None,
) -> FetchResult:
    """Copy a run's weights, samples, train.yml, captions, progress and losses. `price`, in dollars an hour, goes into run.json.

    Raises ServiceError if the bucket cannot be listed. Objects that no launcher makes are not fetched and are among `failed`.
    """
    options = options or FetchOptions()
    keys = status.job.keys
    folder = outputs / status.job.name / status.job.run_id
    if refusal := _refuse_other_owner(folder, options):
        return FetchResult(folder, 0, 0, [], [refusal])
    trusted = choose_weights(status, storage, options.accept_changed, options.stack)
    remote = _remote_files(storage, keys, options.checkpoints)
    # Verified weights must be there, so report if they are missing. An unfinished run has none yet.
    if trusted.problem and (status.pin or any(file.is_weights for file in remote.files)):
        remote.refuse_weights(trusted.problem)
    remote.trust_weights(trusted.digests)
    record = read_record(storage, keys.record, RunRecord).value or RunRecord()
    index = _read_index(folder)
    if not all(_is_known(file, index) for file in remote.files if file.name in (CONFIG, MANIFEST)):
        remote.trust_config(trusted_config(status, storage, record))
    adopted = 0
    if options.adopt_from is not None:
        adopted = _adopt(remote.files, options.adopt_from / status.job.name / status.job.run_id, folder)
    decisions = {
        file.name: decide_download(file, folder / file.name, index.get(file.name)) for file in remote.files
    }
    differing = [
        file.name
        for file in remote.files
        if decisions[file.name] == DownloadDecision.DIFFERS
        and not (options.force or (options.accept_changed and file.is_weights))
    ]
    wanted = [
        file
        for file in remote.files
        if decisions[file.name] != DownloadDecision.KEEP and file.name not in differing
    ]
    options.on_total(sum(file.info.size for file in wanted))
    errors = _download_all(storage, wanted, folder, status.job.name, options)
    current = [
        file for file in remote.files if decisions[file.name] == DownloadDecision.KEEP or file in wanted
    ]
    _write_index(folder, index, [file for file in current if file.name not in errors], options.owner)
    write_run_record(folder / RECORD, record, status, price, local=options.local)
    failed = [f"{one_line(name)}: {error}" for name, error in (errors | remote.refused).items()]
    kept = len(remote.files) - len(wanted) - len(differing)
    return FetchResult(folder, len(wanted) - len(errors), kept, differing, _first(failed), adopted)


def _refuse_other_owner(folder: Path, options: FetchOptions) -> str:
    """Why nothing is fetched into this folder; empty if it holds nothing of another stack."""
    # Earlier versions recorded the owner only in run.json.
    owner = read_mapping(folder / INDEX).get("owner") or read_mapping(folder / RECORD).get("owner")
    if not options.owner or not owner or owner == options.owner:
        return ""
    which = f"{folder.parent.name} --run {folder.name}{' --checkpoints' if options.checkpoints else ''}"
    fix = flux_command(f"fetch {which} --to OTHER_FOLDER", options.stack)
    return (
        f"{folder} holds results of {one_line(str(owner))}, and this is {options.owner}; "
        f"results of two stacks are not mixed; move the folder away, or {fix}"
    )


def _adopt(files: Sequence[RemoteFile], old: Path, folder: Path) -> int:
    """Link the files that an earlier version fetched to `old`, if they are still what the bucket has; how many."""
    index, adopted = _read_index(old), 0
    for file in files:
        source, target = old / file.name, folder / file.name
        if target.exists() or source.is_symlink() or not source.is_file():
            continue
        if _is_file_up_to_date(file, source, sha256_of_file(source), index.get(file.name)):
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target)
            adopted += 1
    return adopted


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Some file systems have no hard links, so copy the file.
        staged = target.with_name(f".{target.name}.adopted")
        shutil.copyfile(source, staged)
        staged.replace(target)


def _first(messages: list[str]) -> list[str]:
    left_out = len(messages) - MAX_MESSAGES
    return [*messages[:MAX_MESSAGES], f"{left_out} more files"] if left_out > 0 else messages


def decide_download(file: RemoteFile, path: Path, known: Mapping[str, Any] | None) -> DownloadDecision:
    """`known` is the file's entry in the index."""
    if not path.exists():
        return DownloadDecision.FETCH
    if not path.is_file():
        return DownloadDecision.DIFFERS
    local = sha256_of_file(path)
    if _is_file_up_to_date(file, path, local, known):
        return DownloadDecision.KEEP
    if not _has_known_content(file) and path.stat().st_size == file.info.size:
        return DownloadDecision.KEEP
    is_unchanged = known is not None and known.get("sha256") == local
    # The fetched weights were verified, so other weights never replace them silently.
    may_replace = (is_unchanged and not file.is_weights) or (known is None and file.name in GENERATED)
    return DownloadDecision.FETCH if may_replace else DownloadDecision.DIFFERS


def write_run_record(
    path: Path, record: RunRecord, status: JobStatus, price: float | None = None, *, local: bool = False
) -> None:
    """Write run.json, with what the queue knows about the job, what it cost, and whether the stand-in trained it (`local`).

    Keeps earlier values that are no longer available: the queue forgets jobs, and without a group there is no price.
    """
    before = read_mapping(path)
    facts = {
        "state": status.state,
        "reason": status.reason or None,
        "kelpie": _queue_facts(status.queue_job) or before.get("kelpie"),
        "cost": _cost(record, status, price) or before.get("cost"),
        "stand_in": local,
    }
    _write_json(path, {**record.model_dump(mode="json"), **facts})


def _remote_files(storage: Storage, keys: RunKeys, checkpoints: bool) -> RemoteFiles:
    """What there is to fetch. A node chose most of the names and sizes, and how many objects there are."""
    known = {
        f"{keys.config}train.yml": "train.yml",
        f"{keys.config}manifest.json": "manifest.json",
        f"{keys.output}loss.csv": "loss.csv",
        keys.progress: "progress.json",
        keys.done: "done.json",
        **{key: key.removeprefix(keys.model) for key in (keys.weights, *keys.stages)},
    }
    found = RemoteFiles()
    objects = list(itertools.islice(storage.list(keys.base), MAX_OBJECTS))
    if len(objects) == MAX_OBJECTS:
        found.refused[keys.base] = f"more than {MAX_OBJECTS} objects; only the first are fetched"
        listed = {info.key for info in objects}
        objects += [info for key in known if key not in listed and (info := storage.head(key))]
    for info in objects:
        name = known.get(info.key) or _output_name(info.key.removeprefix(keys.output), keys.job, checkpoints)
        if name:
            found.add(RemoteFile(info, name))
    return found


def _output_name(name: str, job: str, checkpoints: bool) -> str:
    """The local name of a sample or checkpoint; empty for anything else."""
    if name.startswith("samples/") and name.lower().endswith(IMAGE_SUFFIXES):
        return "" if name.startswith("samples/.") and not name.startswith("samples/..") else name
    is_checkpoint = name.startswith(job) and CHECKPOINT_ENDING.fullmatch(name.removeprefix(job))
    return f"checkpoints/{name}" if checkpoints and is_checkpoint else ""


def _download_all(
    storage: Storage, files: list[RemoteFile], folder: Path, job: str, options: FetchOptions
) -> dict[str, str]:
    """The error messages of the files that failed, by name."""

    def download_one(file: RemoteFile) -> str:
        try:
            download(storage, file.info, folder / file.name, file.sha256, options.on_bytes)
        except WrongContent as error:
            return f"{error}; {wrong_digest_hint(job, options.stack)}" if file.is_weights else str(error)
        except (ServiceError, OSError) as error:
            return str(error.strerror if isinstance(error, OSError) else error)
        return ""

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(MAX_PARALLEL_DOWNLOADS) as pool:
        try:
            errors = list(pool.map(download_one, files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {file.name: error for file, error in zip(files, errors, strict=True) if error}


def _is_file_up_to_date(file: RemoteFile, path: Path, local: str, known: Mapping[str, Any] | None) -> bool:
    """Whether the file at `path`, whose SHA-256 is `local`, is the object. `known` is its entry in the index."""
    if path.stat().st_size != file.info.size:
        return False
    if file.sha256 is not None:
        return local == file.sha256
    if known is not None and (known.get("sha256"), known.get("etag")) == (local, file.info.etag):
        return True
    return (
        _has_known_content(file)
        and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == file.info.etag
    )


def _is_known(file: RemoteFile, index: Index) -> bool:
    """Whether this object was fetched before."""
    return index.get(file.name, {}).get("etag") == file.info.etag


def _has_known_content(file: RemoteFile) -> bool:
    """Whether the content is known: by a SHA-256, or because the ETag is an MD5 (the object was not uploaded in parts)."""
    return file.sha256 is not None or (len(file.info.etag) == 32 and "-" not in file.info.etag)


def _read_index(folder: Path) -> Index:
    entries = mapping(read_mapping(folder / INDEX).get("files"))
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def _write_index(folder: Path, before: Index, files: list[RemoteFile], owner: str) -> None:
    current = {
        file.name: {
            "etag": file.info.etag,
            "size": file.info.size,
            "sha256": sha256_of_file(folder / file.name),
        }
        for file in files
        if (folder / file.name).is_file()
    }
    document = {"version": 1, "owner": owner, "files": {**before, **current}}
    if document != read_mapping(folder / INDEX):
        _write_json(folder / INDEX, document)


def _queue_facts(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    facts = {"id", "status", "container_group_id", "machine_id", "num_heartbeats", "num_failures"}
    times = {"created", "started", "completed", "failed", "canceled", "heartbeat"}
    return job.model_dump(mode="json", include=facts | times, exclude_none=True)


def _cost(record: RunRecord, status: JobStatus, price: float | None) -> dict[str, Any] | None:
    """At the price when the job was queued, else the current one; None if neither is known."""
    estimate = record.estimate or EstimateRecord(usd_an_hour=price)
    cost = cost_record_of_run(estimate, status.progress.gpu_seconds)
    found = run_cost(status.job.name, status.job.run_id, record, status.progress)
    if found.error is not None:
        cost |= {"error": round(found.error, 3), "insideRange": found.is_within_estimate}
    return cost if "actualUsd" in cost else None


def read_text(path: Path) -> str:
    """Empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def read_mapping(path: Path) -> Mapping[str, Any]:
    """Empty if it is not a JSON object, or has more parts than a manifest."""
    return mapping(parse_object(read_text(path).encode(), MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
