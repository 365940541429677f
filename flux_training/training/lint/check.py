"""From a job's facts to findings: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flux_training.training.errors import BadInput
from flux_training.training.finding import Finding, Silenced
from flux_training.training.lint.registry import Rule, Subject
from flux_training.training.lint.rules import NEEDED, RULES


def check(job: Subject, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """What the rules (all of them unless told) find in one job, by path and line."""
    chosen = RULES.values() if rules is None else rules
    found = [rule.finding(problem, job.name) for rule in chosen for problem in rule.check(job)]
    return sorted(found, key=_place)


def refuse_unusable(job: Subject) -> None:
    """Raises BadInput when the job breaks a rule without which it cannot be read as a job."""
    findings = check(job, NEEDED)
    if findings:
        raise BadInput([str(finding) for finding in findings])


def split_silenced(
    findings: Iterable[Finding], silence: Mapping[str, str]
) -> tuple[list[Finding], list[Silenced]]:
    """(what counts, what a job's settings silence). What cannot be silenced counts."""
    counts: list[Finding] = []
    silenced: list[Silenced] = []
    for finding in findings:
        if finding.code in silence and not RULES[finding.code].why_loud:
            silenced.append(Silenced(finding, silence[finding.code]))
        else:
            counts.append(finding)
    return counts, silenced


def _place(finding: Finding) -> tuple[str, int, str]:
    return finding.path, finding.line or 0, finding.code
