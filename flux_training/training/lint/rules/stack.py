"""Rules about the stack's list of jobs. `jobs/declare.py` and `jobs/lint.py` check them."""

from collections.abc import Iterator, Mapping, Sequence

from flux_training.training.finding import Finding, Problem
from flux_training.training.lint.registry import Area, Rule

AREA = Area("stack")

AREA.stack("job-unknown", "each entry of `jobs` is a job folder", "add the folder, or remove the entry")
AREA.stack("glob-empty", "a pattern without a match trains nothing", "correct the pattern, or add the folder")
AREA.stack("dataset-unknown", "`dataset` names a job folder", "correct the name, or add the folder")
AREA.stack(
    "cluster-unknown", "`cluster` names one of the stack's `clusters`", "correct the name, or add the cluster"
)
AREA.stack(
    "cluster-missing",
    "with several clusters, a job is trained by the one whose image holds its model, or has to name one",
    "add `cluster:` to the job's entry in `jobs`, or to the entry of its pattern",
)


AREA.error(
    "job-case",
    "macOS and Windows treat folders whose names differ only in case as the same folder",
    "rename one of them",
)(lambda _job: ())


AREA.warning(
    "silence-unused",
    "it would hide a mistake made later",
    "remove it from the job's lint.silence",
    always="remove the unused entry instead",
)(lambda _job: ())


def stack_rule(code: str) -> Rule:
    return next(rule for rule in AREA.rules if rule.code == code)


def same_but_for_case(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each name that differs only in case from an earlier one, with that one."""
    first: dict[str, str] = {}
    for name in names:
        earlier = first.setdefault(name.casefold(), name)
        if earlier != name:
            yield name, earlier


def unused_silences(where: str, job: str, silence: Mapping[str, str], used: set[str]) -> list[Finding]:
    rule = stack_rule("silence-unused")
    return [
        rule.finding(Problem(where, f"jobs.{job}.lint.silence.{code} silences nothing"), job)
        for code in silence
        if code not in used
    ]
