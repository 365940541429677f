"""Rules about the stack's list of jobs, over all of them. `training.declare` finds what the first three say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flux_training.training.finding import Finding, Problem
from flux_training.training.lint.registry import Area, Rule

AREA = Area("stack")

AREA.stack("job-unknown", "each entry of `jobs` is a folder", "add it or take it out of `jobs`")
AREA.stack(
    "glob-empty", "a pattern that means no folder trains nothing", "mend the pattern or add the folder"
)
AREA.stack("dataset-unknown", "`dataset` names a job folder", "mend the name or add the folder")


@AREA.error(
    "job-case",
    "macOS and Windows take folders whose names differ in capitals only for one",
    "rename one of them",
)
def job_case(_job: object) -> tuple[Problem, ...]:
    return ()


@AREA.warning(
    "silence-unused",
    "a silence that hides nothing hides the next mistake",
    "take it out of the job's lint.silence",
    why_loud="take the other silence out instead",
)
def silence_unused(_job: object) -> tuple[Problem, ...]:
    return ()


def rule_of(code: str) -> Rule:
    return next(rule for rule in AREA.rules if rule.code == code)


def same_but_for_case(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, the earlier one that differs in capitals only)."""
    first: dict[str, str] = {}
    for name in folders:
        earlier = first.setdefault(name.casefold(), name)
        if earlier != name:
            yield name, earlier


def unused_silences(where: str, job: str, silence: Mapping[str, str], used: set[str]) -> list[Finding]:
    rule = rule_of("silence-unused")
    return [
        rule.finding(Problem(where, f"jobs.{job}.lint.silence.{code} silences nothing"), job)
        for code in silence
        if code not in used
    ]
