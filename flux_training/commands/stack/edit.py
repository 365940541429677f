"""Pulumi.<stack>.yaml edited as a person would: an entry of `jobs` is added or changed, all else stays as it was written."""

from __future__ import annotations

import difflib
import fnmatch
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flux_training.commands.stack.file import PROJECT, stack_config
from flux_training.training.errors import BadInput, FluxError
from flux_training.training.files import write_atomically
from flux_training.training.jobs.declare import GLOB_CHARACTERS
from flux_training.training.settings import NO_SETTINGS
from flux_training.training.train_yml.yaml_text import add_entry, flow

JOBS = f"{PROJECT}:jobs"
LONGEST_LINE = 4096


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
            text = add_entry(text, ("config", JOBS), name, entry)
        except (ValueError, yaml.YAMLError) as error:
            lines = "\n".join(f"    {key}: {flow(value)}" for key, value in entries.items())
            raise FluxError(
                f"{path.name} is not one that can be added to ({error})",
                "",
                f"write this below {JOBS} yourself:\n{lines}",
            ) from error
        added.append(name)
    if added:
        write_atomically(path, text)
    return added


def edit_job(text: str, name: str, **settings: object) -> str:
    """The file's text with these settings in the job's own entry; None takes a setting out.

    A job that only a glob means gets an entry of its own with the glob's settings: an own entry stands in place of the glob's.
    Raises BadInput when the file has no `jobs` that could be edited.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    editor, document = _read(text)
    jobs = _jobs(document)
    entry = jobs.get(name) or _flow_map()
    if name not in jobs:
        entry.update(_of_glob(jobs, name))
        # At the end it would stand below a comment that belongs to what follows `jobs`.
        jobs.insert(0, name, entry)
    elif not jobs[name]:
        jobs[name] = entry
    for key, value in settings.items():
        if value is None:
            entry.pop(key, None)
        else:
            entry[key] = value
    out = io.StringIO()
    editor.dump(document, out)
    return out.getvalue().replace("\r\n", "\n").replace("\n", newline)


def diff(before: str, after: str, name: str) -> str:
    """A unified diff, as `git diff` shows it; empty when nothing changes."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="", n=2
    )
    return "\n".join(lines)


def _read(text: str) -> tuple[Any, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.util import load_yaml_guess_indent

    try:
        _, step, offset = load_yaml_guess_indent(text)
        editor = YAML()
        editor.preserve_quotes = True
        editor.width = LONGEST_LINE
        if step is not None:
            editor.indent(mapping=2, sequence=step, offset=offset or 0)
        return editor, editor.load(text)
    except YAMLError as error:
        raise BadInput([f"the stack's file is no YAML: {' '.join(str(error).split())}; mend it"]) from error


def _jobs(document: Any) -> Any:
    config = document.get("config") if isinstance(document, dict) else None
    jobs = config.get(JOBS) if isinstance(config, dict) else None
    if not isinstance(jobs, dict):
        raise BadInput([f"the stack's file has no `{JOBS}` below `config`; name the jobs there"])
    return jobs


def _of_glob(jobs: Any, name: str) -> dict[str, Any]:
    """The settings that the glob written last gives the job."""
    matching = [entry for pattern, entry in jobs.items() if fnmatch.fnmatch(name, str(pattern))]
    return dict(matching[-1] or {}) if matching else {}


def _flow_map() -> Any:
    """`{attempt: 2}`, as the entries of this file are usually written."""
    from ruamel.yaml.comments import CommentedMap

    made = CommentedMap()
    made.fa.set_flow_style()
    return made
