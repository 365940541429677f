"""Rules about the stack's list of jobs. `jobs/declare.py` and `jobs/lint.py` check them."""

from collections.abc import Iterator, Mapping, Sequence

from flux_training.training.finding import Finding, Problem
from flux_training.training.lint.registry import Area, Rule

AREA = Area("stack")

AREA.stack(
    "job-unknown",
    "each entry of `jobs` must be the name of a job folder",
    "add the folder, or remove the entry",
)
AREA.stack(
    "glob-empty",
    "a pattern that matches no job folder trains nothing",
    "correct the pattern, or add the folder",
)
AREA.stack(
    "dataset-unknown", "`dataset` must be the name of a job folder", "correct the name, or add the folder"
)
AREA.stack(
    "cluster-unknown",
    "`cluster` must be the name of one of the stack's `clusters`",
    "correct the name, or add the cluster",
)
AREA.stack(
    "cluster-missing",
    "if a stack has several clusters, a job must name one, unless exactly one cluster's image holds the job's model",
    "add `cluster:` to the job's entry in `jobs`, or to the entry of its pattern",
)


AREA.error(
    "job-case",
    "macOS and Windows treat folders whose names differ only in case as the same folder",
    "rename one of the folders",
)(lambda _job: ())


AREA.warning(
    "silence-unused",
    "an unused entry could hide a mistake made later",
    "remove the entry from the job's lint.silence",
    always="remove the unused entry instead",
)(lambda _job: ())


def stack_rule(code: str) -> Rule:
    return next(rule for rule in AREA.rules if rule.code == code)


def find_names_that_differ_only_in_case(names: Sequence[str]) -> Iterator[tuple[str, str]]:
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
