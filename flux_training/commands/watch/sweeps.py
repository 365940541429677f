"""Which settings tell the jobs of a sweep apart, from the train.yml with which each run was queued."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from flux_training.clients.records import read_bounded
from flux_training.clients.results import MAX_CONFIG_BYTES
from flux_training.clients.storage import Storage
from flux_training.clients.waiting import in_parallel
from flux_training.commands.stack.edit import declared_jobs, job_entry
from flux_training.commands.watch.job_status import StackJob
from flux_training.training.errors import BadInput
from flux_training.training.train_yml.diff import distinctive_settings
from flux_training.training.train_yml.trainer_config import parse_train_yml

Groups = Sequence[Sequence[str]]


def sweeps_among_jobs(root: Path, stack: str, names: Iterable[str]) -> Groups:
    """The jobs among `names` that train on the same images, by the `dataset` of their entries in the stack's file.

    Empty if that file is missing or wrong: `flux lint` says why.
    """
    declared = {}
    with suppress(BadInput):
        declared = declared_jobs(root, stack)
    groups: dict[str, list[str]] = {}
    for name in names:
        entry = job_entry(declared, name) or {}
        groups.setdefault(str(entry.get("dataset") or name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def differing_settings_of(storage: Storage, jobs: Sequence[StackJob], sweeps: Groups) -> Mapping[str, str]:
    """`rank 16, learning rate 1e-4` by the name of the job. Raises ServiceError."""
    by_name = {job.name: job for job in jobs}

    def document(name: str) -> object:
        raw = read_bounded(storage, f"{by_name[name].keys.config}train.yml", MAX_CONFIG_BYTES)
        return parse_train_yml(raw or b"")

    found: dict[str, str] = {}
    for sweep in sweeps:
        names = [name for name in sweep if name in by_name]
        found |= distinctive_settings(dict(zip(names, in_parallel(document, names), strict=True)))
    return found
