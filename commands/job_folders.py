"""Where a stack's job folders lie, and naming a job in the stack's configuration."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from commands.stack_file import PROJECT, stack_config, stack_settings
from training.declare import GLOB_CHARACTERS, folder_names
from training.errors import BadInput, FluxError
from training.files import write_atomically
from training.settings import NO_SETTINGS, nearest
from training.trainer_config import DATASET_FOLDER
from training.yaml_text import add_entry, flow

JOBS = ("config", f"{PROJECT}:jobs")
DEFAULT_STACK = "dev"
# Every command runs in the checkout (commands/__main__.py).
HERE = Path()


def jobs_folder(root: Path, stack: str) -> Path:
    """The stack's `jobsFolder`, relative to the checkout. Raises BadInput when the stack's file cannot be used."""
    return Path(stack_settings(root, stack).jobs_folder)


def existing_job(folder: Path, name: str) -> Path:
    """The job's folder; raises BadInput, with the nearest name, when there is none."""
    if name not in folder_names(folder):
        raise BadInput([f"{name}: no folder under {folder}{nearest(name, folder_names(folder))}"])
    return folder / name


def existing_dataset(folder: Path, name: str) -> Path:
    """The job's `dataset/`; raises BadInput when it has none."""
    dataset = existing_job(folder, name) / DATASET_FOLDER
    if not dataset.is_dir():
        raise BadInput(
            [
                f"{dataset}: no such folder; a job that uses another's images (`dataset:` in the stack) has none: name that other job"
            ]
        )
    return dataset


def declared_jobs(root: Path, stack: str) -> dict[str, dict[str, Any]]:
    """The stack's `jobs` as they are written: names and globs with their settings. Raises BadInput when one's are none."""
    jobs = stack_config(root, stack).get(f"{PROJECT}:jobs")
    entries = jobs if isinstance(jobs, dict) else {}
    wrong = [name for name, entry in entries.items() if not isinstance(entry, dict | None)]
    if wrong:
        raise BadInput([f"{PROJECT}:jobs.{name}: {NO_SETTINGS}" for name in wrong])
    return {str(name): {} if entry is None else entry for name, entry in entries.items()}


def entry_for(declared: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """What the stack says of a job: its own entry, or that of the last glob that means it; None when it names it not."""
    if name in declared:
        return declared[name]
    globs = [pattern for pattern in declared if GLOB_CHARACTERS & set(pattern)]
    return next((declared[glob] for glob in reversed(globs) if fnmatch.fnmatch(name, glob)), None)


def declare(root: Path, stack: str, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name jobs in Pulumi.<stack>.yaml, where they are not named as wanted already; those that were added.

    Nothing else in the file changes. Raises FluxError, with the lines to write by hand, when that cannot be done.
    """
    path = root / f"Pulumi.{stack}.yaml"
    declared = declared_jobs(root, stack)
    text = path.read_bytes().decode()
    added = []
    for name, entry in entries.items():
        if name in declared or entry_for(declared, name) == entry:
            continue
        try:
            text = add_entry(text, JOBS, name, entry)
        except (ValueError, yaml.YAMLError) as error:
            lines = "\n".join(f"    {key}: {flow(value)}" for key, value in entries.items())
            raise FluxError(
                f"{path.name} is not one that can be added to ({error})",
                "",
                f"write this below {JOBS[-1]} yourself:\n{lines}",
            ) from error
        added.append(name)
    if added:
        write_atomically(path, text)
    return added
