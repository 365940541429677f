"""Adds or changes an entry of `jobs` in Pulumi.<stack>.yaml. Everything else in the file stays as it is."""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flux_training.commands.stack.file import stack_config, stack_path
from flux_training.commands.stack.project import project_name
from flux_training.commands.stack.yaml_file import load_yaml
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import write_atomically
from flux_training.training.jobs.declare import GLOB_CHARACTERS
from flux_training.training.settings import NO_SETTINGS
from flux_training.training.train_yml.yaml_text import add_entry, flow_yaml, remove_entry, set_value


def jobs_key(root: Path) -> str:
    """The setting with the declared jobs, such as `flux-training:jobs`. Raises BadInput."""
    return f"{project_name(root)}:jobs"


def declared_jobs(root: Path, stack: str) -> dict[str, dict[str, Any]]:
    """The entries of the stack's `jobs`: names and globs with their settings. Raises BadInput if an entry is not a mapping."""
    key = jobs_key(root)
    jobs = stack_config(root, stack).get(key)
    entries = jobs if isinstance(jobs, dict) else {}
    wrong = [name for name, entry in entries.items() if not isinstance(entry, dict | None)]
    if wrong:
        raise BadInput([f"{key}.{name}: {NO_SETTINGS}" for name in wrong])
    return {str(name): {} if entry is None else entry for name, entry in entries.items()}


def job_entry(declared: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The entry of a job: its own, or that of the last glob that matches it; None if there is none."""
    if name in declared:
        return declared[name]
    globs = [pattern for pattern in declared if GLOB_CHARACTERS & set(pattern)]
    return next((declared[glob] for glob in reversed(globs) if fnmatch.fnmatch(name, glob)), None)


def declare_jobs_in_file(root: Path, stack: str, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Add the jobs to Pulumi.<stack>.yaml that are not declared yet; their names.

    Raises FluxError, with the lines to add by hand, if the file cannot be edited.
    """
    path, jobs = stack_path(root, stack), jobs_key(root)
    declared = declared_jobs(root, stack)
    text = path.read_bytes().decode()
    added = []
    for name, entry in entries.items():
        if name in declared or job_entry(declared, name) == entry:
            continue
        try:
            text = add_entry(text, ("config", jobs), name, entry)
        except (ValueError, yaml.YAMLError) as error:
            lines = "\n".join(f"    {key}: {flow_yaml(value)}" for key, value in entries.items())
            what = f"{path.name} cannot be edited ({error})"
            raise FluxError(what, "", f"add this below {jobs} yourself:\n{lines}") from error
        added.append(name)
    if added:
        write_atomically(path, text)
    return added


def remove_declarations(root: Path, stack: str, names: Iterable[str]) -> list[str]:
    """Remove the jobs' own entries from Pulumi.<stack>.yaml; the names of those that it had.

    Raises FluxError if the file cannot be edited.
    """
    path, jobs = stack_path(root, stack), jobs_key(root)
    declared = declared_jobs(root, stack)
    removed = [name for name in names if name in declared]
    text = path.read_bytes().decode()
    try:
        for name in removed:
            text = remove_entry(text, ("config", jobs), name)
    except (KeyError, ValueError, yaml.YAMLError) as error:
        what = f"{path.name} cannot be edited ({error})"
        raise FluxError(what, "", f"remove these below {jobs} yourself: {', '.join(removed)}") from error
    if removed:
        write_atomically(path, text)
    return removed


def edit_job(text: str, jobs_key: str, name: str, **settings: object) -> str:
    """The file's text with these settings in the job's own entry below `jobs_key`; None removes a setting.

    A job that only a glob matches gets its own entry, which replaces the glob's and so starts with its settings.
    Raises BadInput if the file has no `jobs` mapping or cannot be edited.
    """
    place = ("config", jobs_key)
    try:
        jobs = _jobs(load_yaml(text), jobs_key)
        if name not in jobs:
            inherited = {**(job_entry(jobs, name) or {}), **settings}
            return add_entry(text, place, name, {k: v for k, v in inherited.items() if v is not None})
        for key, value in settings.items():
            is_set = key in (jobs[name] or {})
            if value is None:
                text = remove_entry(text, (*place, name), key) if is_set else text
            elif is_set:
                text = set_value(text, (*place, name, key), flow_yaml(value))
            else:
                text = add_entry(text, (*place, name), key, value)
        return text
    except (ValueError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            [f"the stack file cannot be edited ({reason}); edit the entry of {name} by hand"]
        ) from error


def unified_diff(before: str, after: str, name: str) -> str:
    """A unified diff like `git diff`; empty if nothing changes."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=2
    )
    return "\n".join(lines)


def _jobs(document: Any, key: str) -> dict[str, Any]:
    config = document.get("config") if isinstance(document, dict) else None
    jobs = config.get(key) if isinstance(config, dict) else None
    if not isinstance(jobs, dict):
        raise BadInput([f"the stack file has no `{key}` below `config`; declare the jobs there"])
    return jobs
