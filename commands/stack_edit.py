"""Pulumi.<stack>.yaml edited as a person would: one entry of `jobs` is changed, all else stays as it was written."""

from __future__ import annotations

import difflib
import fnmatch
import io
from typing import Any

from commands.stack_file import PROJECT
from training.errors import BadInput

JOBS = f"{PROJECT}:jobs"
LONGEST_LINE = 4096


def edit_job(text: str, name: str, **settings: object) -> str:
    """The file's text with these settings in the job's own entry; None takes a setting out.

    A job that only a glob means gets an entry of its own with the glob's settings: an own entry stands in place of the glob's.
    Raises BadInput when the file has no `jobs` that could be edited.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    yaml, document = _read(text)
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
    yaml.dump(document, out)
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
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = LONGEST_LINE
        if step is not None:
            yaml.indent(mapping=2, sequence=step, offset=offset or 0)
        return yaml, yaml.load(text)
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
